/** Launches of attention's matrix kernels: tiles by head size, dropout's bits, the order of the gradients. */
import { tensorAttention } from "../shaders/attention-tensor.ts"
import { tensorBackward } from "../shaders/attention-tensor-backward.ts"
import { pickTables, tensorMask, tensorStatistics } from "../shaders/attention-tensor-inputs.ts"
import { STATISTICS } from "../shaders/attention-tensor-tile.ts"
import type { AttentionAttrs, Counters } from "./op-attention-heads.ts"
import { type GpuTarget, groupsFor, type Launch, type Launches, launch, scratch, table } from "./op-gpu.ts"
import type { Memory } from "./program.ts"
import { elements, type Tensor } from "./tensor.ts"

/** Lanes, query rows and keys of a tile; keys divide rows. */
export interface TensorTile {
  readonly WG: number
  readonly BR: number
  readonly BC: number
}
/** Tiles up to a head size: forward, dq, and dk with dv. */
export const TENSOR_TILES: readonly {
  readonly most: number
  readonly tiles: Readonly<Record<"forward" | "queries" | "keys", TensorTile>>
}[] = [
  { most: 64, tiles: { forward: { WG: 128, BR: 64, BC: 64 }, queries: { WG: 128, BR: 64, BC: 64 }, keys: { WG: 128, BR: 64, BC: 64 } } },
  { most: 128, tiles: { forward: { WG: 256, BR: 64, BC: 64 }, queries: { WG: 256, BR: 64, BC: 64 }, keys: { WG: 256, BR: 64, BC: 64 } } },
  { most: 256, tiles: { forward: { WG: 256, BR: 64, BC: 32 }, queries: { WG: 256, BR: 64, BC: 32 }, keys: { WG: 256, BR: 32, BC: 32 } } },
]
type Tiles = (typeof TENSOR_TILES)[number]["tiles"]

/** The tiles of the matrix kernels where they do this attention. */
export function tensorTiles(qkv: Tensor, { headDim }: AttentionAttrs, target: GpuTarget): Tiles | undefined {
  const isPossible = target.matrix === "nv2" && qkv.dtype === "bf16" && headDim % 32 === 0 && elements(qkv) < 2 ** 31
  return isPossible ? TENSOR_TILES.find(({ most }) => headDim <= most)?.tiles : undefined
}

/** Sizes, scalars and the state of dropout, as the portable kernels take them. */
type Settings = Readonly<Record<"T" | "H" | "K" | "D" | "scale" | "factor" | "site" | "threshold", number>> & {
  readonly [N in keyof Counters<Tensor>]: Tensor | number
}

/** Which kernel of each group. */
const kindOf = ({ T, threshold }: Settings, { BR, BC }: TensorTile) =>
  [threshold > 0 ? "dropout" : "plain", T % BR === 0 && T % BC === 0 ? "inside" : "edge"] as const

/** The bits of dropout and the launch that makes them; neither without dropout. */
function dropoutMask(
  { T, H, site, threshold, seed, step, row }: Settings,
  batch: number,
  target: GpuTarget,
): { mask?: Memory; made: Launch[] } {
  if (threshold === 0) return { made: [] }
  const words = batch * H * T * Math.ceil(T / 32)
  const mask = scratch("u32", words)
  return { mask, made: [launch(tensorMask, { mask, T, H, site, threshold, words, seed, step, row }, groupsFor(words, 1, target))] }
}

export function tensorLaunches(
  buffers: { readonly qkv: Tensor; readonly y: Tensor | undefined; readonly lse: Memory },
  settings: Settings,
  batch: number,
  tile: TensorTile,
  target: GpuTarget,
): Launches {
  const { T, H, K, D, scale, factor } = settings
  const { mask, made } = dropoutMask(settings, batch, target)
  const [drops, where] = kindOf(settings, tile)
  const values = { ...buffers, mask, T, H, K, scale, factor }
  return [...made, launch(tensorAttention[drops][where], values, [H, Math.ceil(T / tile.BR), batch], { ...tile, D })]
}

export function tensorBackwardLaunches(
  { y, lse, ...rest }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  settings: Settings,
  batch: number,
  { queries, keys }: Tiles,
  target: GpuTarget,
): Launches {
  const { T, H, K, D, scale, factor } = settings
  const n = batch * T * H
  const statistics = scratch("bf16", n * STATISTICS)
  const { mask, made } = dropoutMask(settings, batch, target)
  const sizes = { T, H, K, scale, factor }
  const values = { ...rest, statistics, picks: table("u32", pickTables()), mask, ...sizes }
  const [drops, queriesWhere] = kindOf(settings, queries)
  const [, keysWhere] = kindOf(settings, keys)
  return [
    [...made, launch(tensorStatistics, { y, dy: rest.dy, lse, statistics, ...sizes, D, rows: n }, groupsFor(n, 0.25, target))],
    [
      launch(tensorBackward.keys[drops][keysWhere], values, [K, Math.ceil(T / keys.BC), batch], { ...keys, D }),
      launch(tensorBackward.queries[drops][queriesWhere], values, [H, Math.ceil(T / queries.BR), batch], { ...queries, D }),
    ],
  ]
}
