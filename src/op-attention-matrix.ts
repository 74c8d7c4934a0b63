/** Launches of attention by KHR matrices: where they can do it, which shapes they take. */

import { attentionDelta } from "../shaders/attention-backward.ts"
import { matrixAttention } from "../shaders/attention-matrix.ts"
import { matrixBackward } from "../shaders/attention-matrix-backward.ts"
import { ownRows } from "../shaders/attention-matrix-tile.ts"
import type { AttentionAttrs } from "./op-attention-heads.ts"
import { type GpuTarget, groupsFor, type Launches, launch, scratch } from "./op-gpu.ts"
import type { Memory } from "./program.ts"
import { elements, type Tensor } from "./tensor.ts"

/** Which of its kernels each head size takes, by place in their lists. */
export interface PlainWay {
  readonly forward: number
  readonly queries: number
  readonly keys: number
}
const BEST: PlainWay = { forward: 0, queries: 0, keys: 0 }
/** What is tried instead: measurements and tests. */
export const trial: { way: PlainWay | undefined } = { way: undefined }

/** Whether plain KHR matrices come before those with NV's functions, where a device has both. */
const COMES_FIRST = false

/** How attention is done by plain KHR matrices; undefined where it is not. `hasOther`: some other matrix kernel can do it. */
export function plainWay(qkv: Tensor, { headDim, dropout }: AttentionAttrs, target: GpuTarget, hasOther: boolean): PlainWay | undefined {
  const { matrix, subgroupSize, sharedBytes } = target
  const fits = matrix !== "none" && subgroupSize === 32 && sharedBytes >= 48 * 1024 && dropout === 0
  if (!fits || qkv.dtype !== "bf16" || !(headDim in matrixAttention) || elements(qkv) >= 2 ** 31) return undefined
  if (trial.way !== undefined) return trial.way
  return hasOther && !COMES_FIRST ? undefined : BEST
}

/** Sizes as the kernels take them, and how many sequences there are. */
interface Sizes {
  readonly batch: number
  readonly T: number
  readonly H: number
  readonly K: number
  readonly D: number
  readonly scale: number
}

export function plainLaunches(
  buffers: { readonly qkv: Tensor; readonly y: Tensor | undefined; readonly lse: Memory },
  { batch, T, H, K, D, scale }: Sizes,
  way: PlainWay,
): Launches {
  const { kernel, shape } = matrixAttention[D]![way.forward]!
  return [launch(kernel, { ...buffers, T, H, K, scale }, [H, Math.ceil(T / ownRows(shape)), batch])]
}

export function plainBackwardLaunches(
  { y, ...rest }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  { batch, T, H, K, D, scale }: Sizes,
  way: PlainWay,
  target: GpuTarget,
): Launches {
  const n = batch * T * H
  const delta = scratch("f32", n)
  const values = { ...rest, delta, T, H, K, scale }
  const [queries, keys] = [matrixBackward.queries[D]![way.queries]!, matrixBackward.keys[D]![way.keys]!]
  const tiles = (own: typeof keys | typeof queries) => Math.ceil(T / ownRows(own.shape))
  return [
    launch(attentionDelta, { y, dy: rest.dy, delta, n, D }, groupsFor(n, 0.25, target)),
    [
      ...keys.kernels.map((kernel) => launch(kernel, values, [K, tiles(keys), batch])),
      launch(queries.kernel, values, [H, tiles(queries), batch]),
    ],
  ]
}
