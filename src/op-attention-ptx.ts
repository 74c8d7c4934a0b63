/** Launches of attention by Hopper's own instructions: where they can do it, tensor maps, the order of the gradients. */
import { type PtxAttentionKernels, ptxAttentions } from "../shaders/ptx-attention-list.ts"
import { COLUMNS, ROWS } from "../shaders/ptx-attention-tile.ts"
import { NO_TURN } from "../shaders/ptx-attention-turn.ts"
import { ROOM } from "../shaders/ptx-room.ts"
import type { AttentionAttrs } from "./op-attention-heads.ts"
import { dropoutMask, type Settings } from "./op-attention-tensor.ts"
import { type GpuTarget, type Launches, launch, scratch, table } from "./op-gpu.ts"
import type { Memory, Table } from "./program.ts"
import { tensorMapWords } from "./ptx.ts"
import { elements, type Tensor } from "./tensor.ts"

/** Head size and kernels. */
interface PtxWay {
  readonly D: 64 | 128
  readonly kernels: PtxAttentionKernels
}

/** The kernels that do this attention; undefined where none do. */
export function ptxWay(qkv: Tensor, { headDim, dropout }: AttentionAttrs, { ptx, ptxRoom = 0 }: GpuTarget): PtxWay | undefined {
  if (!ptx || qkv.dtype !== "bf16" || elements(qkv) >= 2 ** 31 || (headDim !== 64 && headDim !== 128)) return undefined
  const room = ptxRoom >= ROOM ? "wide" : "narrow"
  return { D: headDim, kernels: ptxAttentions[room][headDim][dropout > 0 ? "dropout" : "plain"] }
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
type Sized = Settings & { readonly batch: number }

/** Warpgroups of a kernel that multiply. */
const groupsOf = ({ threads }: { readonly threads: number }): number => threads / 128 - 1
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

/** A turn's first position, and the units that it meets. */
interface Part {
  readonly first: number
  readonly cost: number
}

/** A turn takes as long as so many units besides: loads before and stores after. */
const TURN_COST = 2
const tables = new Map<string, Table>()
/**
 * Table of the turns of `heads` × `batch` heads that have these parts: one column per block, as even as can be. Heads that fit into the L2 together follow
 * each other, the longest turns of theirs first.
 */
function turnsOf(parts: readonly Part[], heads: number, batch: number, units: number): { readonly turns: Table; readonly blocks: number } {
  const blocks = Math.min(units, parts.length * heads * batch)
  const key = JSON.stringify([parts, heads, batch, blocks])
  const known = tables.get(key)
  if (known !== undefined) return { turns: known, blocks }
  const columns = Array.from({ length: blocks }, () => ({ cost: 0, turns: [] as bigint[] }))
  const order = parts.toSorted((a, b) => b.cost - a.cost)
  const together = Math.ceil((2 * blocks) / parts.length)
  for (let begin = 0; begin < heads * batch; begin += together)
    for (const { first, cost } of order)
      for (let head = begin; head < Math.min(heads * batch, begin + together); head++) {
        const column = columns.reduce((least, one) => (one.cost < least.cost ? one : least))
        column.cost += cost + TURN_COST
        column.turns.push(BigInt(first >>> 0) | (BigInt(head % heads) << 32n), BigInt(Math.floor(head / heads)))
      }
  const words = Math.max(...columns.map((column) => column.turns.length)) + 2
  const at = (word: number) => columns.flatMap(({ turns }) => [turns[word] ?? BigInt(NO_TURN), turns[word + 1] ?? 0n])
  const made = table(
    "u64",
    range(words / 2).flatMap((i) => at(2 * i)),
  )
  tables.set(key, made)
  return { turns: made, blocks }
}

/** Parts of a head's queries, which meet the units up to their own: the first is the one that may be short. */
function queryParts(T: number, groups: number): Part[] {
  const units = Math.ceil(T / ROWS)
  const count = Math.ceil(units / groups)
  return range(count).map((x) => ({ first: ROWS * (units - groups * (count - x)), cost: units - groups * (count - x - 1) }))
}
/** Parts of a head's keys, which meet the units from their own on. */
function keyParts(T: number, groups: number): Part[] {
  const units = Math.ceil(T / ROWS)
  return range(Math.ceil(units / groups)).map((x) => ({ first: ROWS * groups * x, cost: units - groups * x }))
}

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
  const { turns, blocks } = turnsOf(queryParts(T, groupsOf(kernels.forward)), H, batch, target.units)
  return [...made, launch(kernels.forward, { maps, turns, mask, y, lse: outputs.lse, T, H, K, scale, factor }, blocks)]
}

export function ptxBackwardLaunches(
  { y, lse, qkv, dy, ...rest }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  sized: Sized,
  { D, kernels }: PtxWay,
  target: GpuTarget,
): Launches {
  const { batch, T, H, K, scale, factor } = sized
  const statistics = scratch("f32", 2 * batch * H * ROWS * Math.ceil(T / ROWS))
  const { mask, made } = dropoutMask(sized, batch, target)
  const maps = table("u64", [...mapOf(qkv, sized, (H + 2 * K) * D), ...mapOf(dy, sized, H * D)])
  const dqkv = rest.dqkv ?? scratch("bf16", elements(qkv))
  const values = { maps, statistics, mask, dqkv, T, H, K, scale, factor }
  const forKeys = turnsOf(keyParts(T, groupsOf(kernels.keys)), (K * D) / COLUMNS, batch, target.units)
  const forQueries = turnsOf(queryParts(T, groupsOf(kernels.queries)), H, batch, target.units)
  return [
    ...made,
    launch(kernels.queries, { ...values, y, lse, turns: forQueries.turns }, forQueries.blocks),
    launch(kernels.keys, { ...values, turns: forKeys.turns }, forKeys.blocks),
  ]
}
