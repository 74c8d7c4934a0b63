/** Launches of attention by Hopper's own instructions: where they can do it, tensor maps, the order of the gradients. */
import { attentionStatistics, STATISTICS_UNIT } from "../shaders/attention-statistics.ts"
import { ATTENTION_GROUPS, ptxAttentions } from "../shaders/ptx-attention-list.ts"
import { COLUMNS, ROWS } from "../shaders/ptx-attention-tile.ts"
import type { AttentionAttrs } from "./op-attention-heads.ts"
import { dropoutMask, type Settings } from "./op-attention-tensor.ts"
import { type GpuTarget, groupsFor, type Launches, launch, scratch, table } from "./op-gpu.ts"
import type { Memory } from "./program.ts"
import { tensorMapWords } from "./ptx.ts"
import { elements, type Tensor } from "./tensor.ts"

type Kernels = (typeof ptxAttentions)[64]["plain"]
/** Head size and kernels. */
export interface PtxWay {
  readonly D: 64 | 128
  readonly kernels: Kernels
}

/** The kernels that do this attention; undefined where none do. */
export function ptxWay(qkv: Tensor, { headDim, dropout }: AttentionAttrs, { ptx }: GpuTarget): PtxWay | undefined {
  if (!ptx || qkv.dtype !== "bf16" || elements(qkv) >= 2 ** 31 || (headDim !== 64 && headDim !== 128)) return undefined
  const kernels = ptxAttentions[headDim][dropout > 0 ? "dropout" : "plain"]
  return kernels && { D: headDim, kernels }
}

type Sized = Settings & { readonly batch: number }

const blocksOf = (T: number, groups: number): number => Math.ceil(T / (ROWS * groups))
/** A map of (B, T, columns) whose box is 64 positions by 64 columns. */
const mapOf = (of: Tensor, { batch, T }: Sized, columns: number) => [
  of,
  ...tensorMapWords({
    element: "bf16",
    size: [columns, T, batch],
    strides: [2 * columns, 2 * columns * T],
    box: [COLUMNS, ROWS, 1],
    swizzle: "128B",
  }),
]

export function ptxLaunches(
  { qkv, ...outputs }: { readonly qkv: Tensor; readonly y: Tensor | undefined; readonly lse: Memory },
  sized: Sized,
  { D, kernels }: PtxWay,
  target: GpuTarget,
): Launches {
  const { batch, T, H, K, scale, factor } = sized
  const { mask, made } = dropoutMask(sized, batch, target)
  const maps = table("u64", mapOf(qkv, sized, (H + 2 * K) * D))
  const y = outputs.y ?? scratch("bf16", batch * T * H * D)
  const values = { maps, qkv, mask, y, lse: outputs.lse, T, H, K, scale, factor }
  return [...made, launch(kernels.forward, values, [blocksOf(T, ATTENTION_GROUPS.forward[D]), H, batch])]
}

export function ptxBackwardLaunches(
  { y, lse, qkv, dy, ...rest }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  sized: Sized,
  { D, kernels }: PtxWay,
  target: GpuTarget,
): Launches {
  const { batch, T, H, K, scale, factor } = sized
  const rows = batch * Math.ceil(T / STATISTICS_UNIT) * STATISTICS_UNIT * H
  const statistics = scratch("f32", 2 * rows)
  const { mask, made } = dropoutMask(sized, batch, target)
  const prepared = launch(attentionStatistics, { y, dy, lse, statistics, T, H, D, rows }, groupsFor(rows, 0.25, target))
  const maps = table("u64", [...mapOf(qkv, sized, (H + 2 * K) * D), ...mapOf(dy, sized, H * D)])
  const dqkv = rest.dqkv ?? scratch("bf16", elements(qkv))
  const values = { maps, qkv, statistics, mask, dqkv, T, H, K, scale, factor }
  const { keys, queries } = kernels
  return [
    [...made, prepared],
    [
      launch(keys, values, [blocksOf(T, ATTENTION_GROUPS.keys[D]), (K * D) / COLUMNS, batch]),
      launch(queries, { ...values, dy }, [blocksOf(T, ATTENTION_GROUPS.queries[D]), H, batch]),
    ],
  ]
}
