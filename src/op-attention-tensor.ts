/** Launches of attention's matrix kernels: tiles by head size, dropout's bits, the order of the gradients. */
import { FRAGMENT_ROWS, FRAGMENT_SIZES, fragmentAttention } from "../shaders/attention-fragment.ts"
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
export type TensorTiles = Readonly<Record<"forward" | "queries" | "keys", TensorTile>>
const tile = (WG: number, BR: number, BC: number): TensorTile => ({ WG, BR, BC })
const same = (all: TensorTile): TensorTiles => ({ forward: all, queries: all, keys: all })
/** Tiles up to a head size. */
export const TENSOR_TILES: readonly { readonly most: number; readonly tiles: TensorTiles }[] = [
  { most: 64, tiles: same(tile(128, 64, 64)) },
  { most: 128, tiles: same(tile(256, 64, 64)) },
  { most: 256, tiles: { ...same(tile(256, 64, 32)), keys: tile(256, 32, 32) } },
]

/** How the matrix kernels do this attention: tiles of the workgroup, or matrices of subgroups by place in FRAGMENT_SIZES; undefined where they do not. */
export type MatrixWay = { readonly tiles: TensorTiles } | { readonly fragments: number }
export function matrixWay(qkv: Tensor, { headDim, T }: AttentionAttrs, target: GpuTarget): MatrixWay | undefined {
  const { matrix, hasMatrixFunctions, subgroupSize, sharedBytes } = target
  if (qkv.dtype !== "bf16" || elements(qkv) >= 2 ** 31) return undefined
  if (matrix === "nv2") {
    const tiles = headDim % 32 === 0 ? TENSOR_TILES.find(({ most }) => headDim <= most)?.tiles : undefined
    return tiles && { tiles }
  }
  const fits = matrix === "khr" && hasMatrixFunctions && subgroupSize === 32 && sharedBytes >= 48 * 1024 && T % FRAGMENT_ROWS === 0
  const fragments = (FRAGMENT_SIZES as readonly number[]).indexOf(headDim)
  return fits && fragments >= 0 ? { fragments } : undefined
}

/** Sizes, scalars and the state of dropout, as the portable kernels take them. */
export type Settings = Readonly<Record<"T" | "H" | "K" | "D" | "scale" | "factor" | "site" | "threshold", number>> & {
  readonly [N in keyof Counters<Tensor>]: Tensor | number
}

/** Which kernel of each group. */
const kindOf = ({ T, threshold }: Settings, { BR, BC }: TensorTile) =>
  [threshold > 0 ? "dropout" : "plain", T % BR === 0 && T % BC === 0 ? "inside" : "edge"] as const

/** The bits of dropout and the launch that makes them; neither without dropout. */
export function dropoutMask(
  { T, H, site, threshold, seed, step, row }: Settings,
  batch: number,
  target: GpuTarget,
): { mask?: Memory; made: Launch[] } {
  if (threshold === 0) return { made: [] }
  const [queries, perRow] = [batch * H * T, Math.ceil(T / 32)]
  const mask = scratch("u32", queries * perRow)
  const groups = groupsFor(Math.ceil(queries / 32) * 32 * perRow, 1, target)
  return { mask, made: [launch(tensorMask, { mask, T, H, site, threshold, queries, seed, step, row }, groups)] }
}

/** Sizes as the kernels take them. */
const sizesOf = ({ T, H, K, scale, factor }: Settings) => ({ T, H, K, scale, factor })

export function matrixLaunches(
  buffers: { readonly qkv: Tensor; readonly y: Tensor | undefined; readonly lse: Memory },
  settings: Settings,
  batch: number,
  way: MatrixWay,
  target: GpuTarget,
): Launches {
  const { T, H, D, threshold } = settings
  const { mask, made } = dropoutMask(settings, batch, target)
  const values = { ...buffers, mask, ...sizesOf(settings) }
  if ("fragments" in way) {
    const kernel = fragmentAttention[threshold > 0 ? "dropout" : "plain"][way.fragments] as (typeof fragmentAttention.plain)[number]
    return [...made, launch(kernel, values, [H, T / FRAGMENT_ROWS, batch])]
  }
  const { forward } = way.tiles
  const [drops, where] = kindOf(settings, forward)
  return [...made, launch(tensorAttention[drops][where], values, [H, Math.ceil(T / forward.BR), batch], { ...forward, D })]
}

export function matrixBackwardLaunches(
  { y, lse, ...rest }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  settings: Settings,
  batch: number,
  way: MatrixWay,
  target: GpuTarget,
): Launches {
  const { T, H, K, D, threshold } = settings
  const n = batch * T * H
  const statistics = scratch("bf16", n * STATISTICS)
  const sizes = sizesOf(settings)
  const { mask, made } = dropoutMask(settings, batch, target)
  const prepared = launch(tensorStatistics, { y, dy: rest.dy, lse, statistics, ...sizes, D, rows: n }, groupsFor(n, 0.25, target))
  const values = { ...rest, statistics, picks: table("u32", pickTables()), mask, ...sizes }
  if ("fragments" in way) {
    const kind = threshold > 0 ? "dropout" : "plain"
    const [keys, queries] = [fragmentBackward.keys[kind][way.fragments], fragmentBackward.queries[kind][way.fragments]]
    const tiles = T / FRAGMENT_ROWS
    return [
      [...made, prepared],
      [
        launch(keys as NonNullable<typeof keys>, values, [K, tiles, batch]),
        launch(queries as NonNullable<typeof queries>, values, [H, tiles, batch]),
      ],
    ]
  }
  const { queries, keys } = way.tiles
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
