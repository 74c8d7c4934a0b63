/** Launches of attention over pages by Hopper's own instructions: where they can do it, and the maps of the pages. */
import { ptxAttentionCached } from "../shaders/ptx-attention-cached.ts"
import { HEAD, PAGE, PIECE, ROW } from "../shaders/ptx-attention-cached-frame.ts"
import type { Heads } from "./op-attention-heads.ts"
import { type GpuTarget, type Launches, launch, table } from "./op-gpu.ts"
import { tensorMapWords } from "./ptx.ts"
import { elements, lastDim, type Tensor } from "./tensor.ts"

/** Heads of sequences for each processor from which on their number evens out what one has more than another. */
const FEWEST = 2

type Inputs = Readonly<Record<"qkv" | "kPages" | "vPages" | "pages" | "lengths" | "counts", Tensor>>

/** Undefined where other kernels do it. */
export function ptxCachedLaunches(
  inputs: Inputs,
  y: Tensor,
  {
    T,
    nHead: H,
    nKvHead: K,
    headDim: D,
    scale,
    pageSize,
  }: Heads & { readonly T: number; readonly scale: number; readonly pageSize: number },
  { ptx, units }: GpuTarget,
): Launches | undefined {
  const { qkv, kPages, vPages, pages, lengths } = inputs
  const items = (lengths.shape[0] as number) * H
  if (!ptx || T !== 1 || H !== K || D !== HEAD || pageSize !== PAGE || qkv.dtype !== "bf16" || items < FEWEST * units) return undefined
  const map = (of: Tensor) => {
    const size = [HEAD, elements(of) / HEAD]
    return [of, ...tensorMapWords({ element: "bf16", size, strides: [ROW], box: [HEAD, PIECE], swizzle: "128B" })]
  }
  const maps = table("u64", [...map(kPages), ...map(vPages)])
  return [launch(ptxAttentionCached, { ...inputs, maps, y, H, items, maxPages: lastDim(pages), scale }, Math.min(units, items))]
}
