/** Launches of attention's matrix kernels: tiles by head size, dropout's bits, the order of the gradients. */
import { FRAGMENT_ROWS, fragmentAttention } from "../shaders/attention-fragment.ts"
import { fragmentBackward } from "../shaders/attention-fragment-backward.ts"
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
/** Tiles of forward, dq, and dk with dv. */
export interface TensorTiles {
  readonly forward: TensorTile
  readonly queries: TensorTile
  readonly keys: TensorTile
  /** What attention-fragment.ts does where it can. */
  readonly fragments: { readonly forward: boolean; readonly backward: boolean }
}
const tile = (WG: number, BR: number, BC: number): TensorTile => ({ WG, BR, BC })
const same = (all: TensorTile): TensorTiles => ({ forward: all, queries: all, keys: all, fragments: { forward: false, backward: false } })
/** Tiles up to a head size. */
export const TENSOR_TILES: readonly { readonly most: number; readonly tiles: TensorTiles }[] = [
  { most: 64, tiles: same(tile(128, 64, 64)) },
  { most: 128, tiles: same(tile(256, 64, 64)) },
  { most: 256, tiles: { ...same(tile(256, 64, 32)), keys: tile(256, 32, 32) } },
]

/** The tiles of the matrix kernels where they do this attention. */
export function tensorTiles(qkv: Tensor, { headDim }: AttentionAttrs, target: GpuTarget): TensorTiles | undefined {
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

const fitsFragments = ({ T, threshold }: Settings, { subgroupSize }: GpuTarget): boolean =>
  threshold === 0 && T % FRAGMENT_ROWS === 0 && subgroupSize === 32

export function tensorLaunches(
  buffers: { readonly qkv: Tensor; readonly y: Tensor | undefined; readonly lse: Memory },
  settings: Settings,
  batch: number,
  { forward, fragments }: TensorTiles,
  target: GpuTarget,
): Launches {
  const { T, H, K, D, scale, factor } = settings
  if (fragments.forward && fitsFragments(settings, target) && (D === 64 || D === 128))
    return [launch(fragmentAttention[D], { ...buffers, T, H, K, scale }, [H, T / FRAGMENT_ROWS, batch])]
  const { mask, made } = dropoutMask(settings, batch, target)
  const [drops, where] = kindOf(settings, forward)
  const values = { ...buffers, mask, T, H, K, scale, factor }
  return [...made, launch(tensorAttention[drops][where], values, [H, Math.ceil(T / forward.BR), batch], { ...forward, D })]
}

export function tensorBackwardLaunches(
  { y, lse, ...rest }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  settings: Settings,
  batch: number,
  { queries, keys, fragments }: TensorTiles,
  target: GpuTarget,
): Launches {
  const { T, H, K, D, scale, factor } = settings
  const n = batch * T * H
  const statistics = scratch("bf16", n * STATISTICS)
  const sizes = { T, H, K, scale, factor }
  const prepared = launch(tensorStatistics, { y, dy: rest.dy, lse, statistics, ...sizes, D, rows: n }, groupsFor(n, 0.25, target))
  if (fragments.backward && fitsFragments(settings, target) && (D === 64 || D === 128)) {
    const values = { ...rest, statistics, picks: table("u32", pickTables()), T, H, K, scale }
    const tiles = T / FRAGMENT_ROWS
    return [
      prepared,
      [launch(fragmentBackward.keys[D], values, [K, tiles, batch]), launch(fragmentBackward.queries[D], values, [H, tiles, batch])],
    ]
  }
  const { mask, made } = dropoutMask(settings, batch, target)
  const values = { ...rest, statistics, picks: table("u32", pickTables()), mask, ...sizes }
  const [drops, queriesWhere] = kindOf(settings, queries)
  const [, keysWhere] = kindOf(settings, keys)
  return [
    [...made, prepared],
    [
      launch(tensorBackward.keys[drops][keysWhere], values, [K, Math.ceil(T / keys.BC), batch], { ...keys, D }),
      launch(tensorBackward.queries[drops][queriesWhere], values, [H, Math.ceil(T / queries.BR), batch], { ...queries, D }),
    ],
  ]
}
