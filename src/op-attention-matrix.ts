/** Launches of attention by KHR matrices: where they can do it, which shapes they take. */

import { attentionDelta } from "../shaders/attention-backward.ts"
import { matrixAttention } from "../shaders/attention-matrix.ts"
import { matrixBackward } from "../shaders/attention-matrix-backward.ts"
import { ownRows } from "../shaders/attention-matrix-tile.ts"
import type { AttentionAttrs } from "./op-attention-heads.ts"
import { dropoutMask, type Settings } from "./op-attention-tensor.ts"
import { type GpuTarget, groupsFor, type Launches, launch, scratch } from "./op-gpu.ts"
import type { Memory } from "./program.ts"
import { elements, type Tensor } from "./tensor.ts"

/** Which of its kernels each head size takes, by place in their lists. */
export interface PlainWay {
  readonly forward: number
  readonly queries: number
  readonly keys: number
}
/** The first of each list, which alone are in the pack. */
const BEST: PlainWay = { forward: 0, queries: 0, keys: 0 }
/** What is tried instead: measurements and tests. */
export const trial: { way: PlainWay | undefined } = { way: undefined }

/** How attention is done by plain KHR matrices; undefined where it is not. `hasOther`: some other matrix kernel can do it, which then does. */
export function plainWay(qkv: Tensor, { headDim }: AttentionAttrs, target: GpuTarget, hasOther: boolean): PlainWay | undefined {
  const { matrix, subgroupSize, sharedBytes } = target
  const fits = matrix !== "none" && subgroupSize === 32 && sharedBytes >= 48 * 1024
  if (!fits || qkv.dtype !== "bf16" || !(headDim in matrixAttention) || elements(qkv) >= 2 ** 31) return undefined
  if (trial.way !== undefined) return trial.way
  return hasOther ? undefined : BEST
}

/** Sizes and scalars as the kernels take them, and how many sequences there are. */
type Sized = Settings & { readonly batch: number }

const kindOf = ({ threshold }: Sized) => (threshold > 0 ? "dropout" : "plain")

export function plainLaunches(
  buffers: { readonly qkv: Tensor; readonly y: Tensor | undefined; readonly lse: Memory },
  sized: Sized,
  way: PlainWay,
  target: GpuTarget,
): Launches {
  const { batch, T, H, K, D, scale, factor } = sized
  const { mask, made } = dropoutMask(sized, batch, target)
  const { shape, ...kinds } = matrixAttention[D]![way.forward]!
  const values = { ...buffers, mask, T, H, K, scale, factor }
  return [...made, launch(kinds[kindOf(sized)], values, [H, Math.ceil(T / ownRows(shape)), batch])]
}

export function plainBackwardLaunches(
  { y, ...rest }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  sized: Sized,
  way: PlainWay,
  target: GpuTarget,
): Launches {
  const { batch, T, H, K, D, scale, factor } = sized
  const { mask, made } = dropoutMask(sized, batch, target)
  const n = batch * T * H
  const delta = scratch("f32", n)
  const values = { ...rest, delta, mask, T, H, K, scale, factor }
  const [queries, keys] = [matrixBackward.queries[D]![way.queries]!, matrixBackward.keys[D]![way.keys]!]
  const all = (own: typeof keys | typeof queries, heads: number) =>
    own[kindOf(sized)].map((kernel) => launch(kernel, values, [heads, Math.ceil(T / ownRows(own.shape)), batch]))
  return [
    [...made, launch(attentionDelta, { y, dy: rest.dy, delta, n, D }, groupsFor(n, 0.25, target))],
    [...all(keys, K), ...all(queries, H)],
  ]
}
