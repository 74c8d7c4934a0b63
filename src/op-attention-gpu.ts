/** Launches of the attention kernels: which variant a head size takes, grids, push constants. */
import { attentions } from "../shaders/attention.ts"
import { attentionBackwardKeys, attentionBackwardQueries, attentionDelta } from "../shaders/attention-backward.ts"
import { attentionAppends, attentionChunks, attentionDecodes, DECODE_SIZE } from "../shaders/attention-cached.ts"
import { pickTables, STATISTICS, tensorAttention, tensorBackward, tensorStatistics } from "../shaders/attention-tensor.ts"
import { type AttentionAttrs, attentionSizes, type Counters, type Heads } from "./op-attention-heads.ts"
import { type GpuTarget, groupsFor, groupsForRows, type Launches, launch, scratch, table } from "./op-gpu.ts"
import { elements, lastDim, rows, type Tensor } from "./tensor.ts"

const TILE = 64

/** The kernel for a head size, and over how many workgroups its columns are spread: 64 or 128 each, or 64 where 8 does not divide it. */
export function bySize<K>([narrow, wide, edge]: readonly [K, K, K], D: number): readonly [kernel: K, slices: number] {
  if (D % 8 !== 0) return [edge, Math.ceil(D / 64)]
  return D <= 64 ? [narrow, 1] : [wide, Math.ceil(D / 128)]
}

/** Push constants, live scalars and specialization of a training kernel. */
function settings(qkv: Tensor, { seed, step, row }: Counters<Tensor>, attrs: AttentionAttrs) {
  const { T, heads, keyHeads, D, scale, dropout, site, threshold, batch } = attentionSizes(qkv, attrs)
  return {
    batch,
    values: {
      ...{ T, H: heads, K: keyHeads, D, scale, site, threshold, factor: 1 / (1 - dropout) },
      ...{ seed: seed ?? 0, step: step ?? 0, row: row ?? 0 },
    },
    constants: { dropout: dropout > 0 ? 1 : 0 },
  }
}

/** Lanes, query rows and keys of a tile of the matrix kernels; keys divide rows. */
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

/** The tiles of the matrix kernels where they do this attention. */
function tensorTiles(qkv: Tensor, { headDim, dropout }: AttentionAttrs, target: GpuTarget) {
  const isPossible = target.matrix === "nv2" && qkv.dtype === "bf16" && dropout === 0 && headDim % 32 === 0 && elements(qkv) < 2 ** 31
  return isPossible ? TENSOR_TILES.find(({ most }) => headDim <= most)?.tiles : undefined
}

const place = (T: number, { BR, BC }: TensorTile): "inside" | "edge" => (T % BR === 0 && T % BC === 0 ? "inside" : "edge")

export function attentionLaunches(
  { qkv, ...live }: { readonly qkv: Tensor } & Counters<Tensor>,
  { y, lse }: { readonly y: Tensor | undefined; readonly lse: Tensor | undefined },
  attrs: AttentionAttrs,
  target: GpuTarget,
): Launches {
  const { batch, values, constants } = settings(qkv, live, attrs)
  const tile = tensorTiles(qkv, attrs, target)?.forward
  if (tile !== undefined) {
    const { T, H, K, D, scale } = values
    const buffers = { qkv, y, lse: lse ?? scratch("f32", rows(qkv) * H) }
    const groups = [H, Math.ceil(T / tile.BR), batch] as const
    return [launch(tensorAttention[place(T, tile)], { ...buffers, T, H, K, scale }, groups, { ...tile, D })]
  }
  const [kernel, slices] = bySize(attentions, values.D)
  const groups = [values.H * slices, Math.ceil(values.T / TILE), batch] as const
  return [launch(kernel, { qkv, y, lse, ...values, hasLse: lse === undefined ? 0 : 1 }, groups, constants)]
}

export function attentionBackwardLaunches(
  { qkv, y, lse, dy, ...live }: { readonly qkv: Tensor; readonly y: Tensor; readonly lse: Tensor; readonly dy: Tensor } & Counters<Tensor>,
  dqkv: Tensor | undefined,
  attrs: AttentionAttrs,
  target: GpuTarget,
): Launches {
  const { batch, values, constants } = settings(qkv, live, attrs)
  const { T, H, K, D } = values
  const n = rows(qkv) * H
  const tensor = tensorTiles(qkv, attrs, target)
  if (tensor !== undefined) return tensorBackwardLaunches({ qkv, y, lse, dy, dqkv }, values, batch, tensor, target)
  const delta = scratch("f32", n)
  const buffers = { qkv, dy, lse, delta, dqkv }
  const [queries, slices] = bySize(attentionBackwardQueries, D)
  const [keys] = bySize(attentionBackwardKeys, D)
  const tiles = Math.ceil(T / TILE)
  return [
    launch(attentionDelta, { y, dy, delta, n, D }, groupsFor(n, 0.25, target)),
    [
      launch(keys, { ...buffers, ...values }, [K * slices, tiles, batch], constants),
      launch(queries, { ...buffers, ...values }, [H * slices, tiles, batch], constants),
    ],
  ]
}

function tensorBackwardLaunches(
  { qkv, y, lse, dy, dqkv }: Readonly<Record<"qkv" | "y" | "lse" | "dy", Tensor>> & { readonly dqkv: Tensor | undefined },
  { T, H, K, D, scale }: Readonly<Record<"T" | "H" | "K" | "D" | "scale", number>>,
  batch: number,
  tiles: NonNullable<ReturnType<typeof tensorTiles>>,
  target: GpuTarget,
): Launches {
  const n = batch * T * H
  const statistics = scratch("bf16", n * STATISTICS)
  const sizes = { T, H, K, scale }
  const buffers = { qkv, dy, statistics, picks: table("u32", pickTables()), dqkv, ...sizes }
  const { queries, keys } = tiles
  return [
    launch(tensorStatistics, { y, dy, lse, statistics, ...sizes, D, rows: n }, groupsFor(n, 0.25, target)),
    [
      launch(tensorBackward.keys[place(T, keys)], buffers, [K, Math.ceil(T / keys.BC), batch], { ...keys, D }),
      launch(tensorBackward.queries[place(T, queries)], buffers, [H, Math.ceil(T / queries.BR), batch], { ...queries, D }),
    ],
  ]
}

interface Cached {
  readonly qkv: Tensor
  readonly kPages: Tensor
  readonly vPages: Tensor
  readonly pages: Tensor
  readonly lengths: Tensor
  readonly counts: Tensor
}

export function attentionCachedLaunches(
  inputs: Cached,
  y: Tensor | undefined,
  attrs: Heads & { readonly T: number; readonly scale: number; readonly pageSize: number },
): Launches {
  const { T, nHead: H, nKvHead: K, headDim: D, scale, pageSize } = attrs
  const batch = inputs.lengths.shape[0] as number
  const values = { ...inputs, T, H, K, D, scale, pageSize, maxPages: lastDim(inputs.pages) }
  const isEdge = D % 8 === 0 ? 0 : 1
  if (T === 1 && D <= DECODE_SIZE && y !== undefined) {
    const kernels = H === K ? attentionDecodes.one : attentionDecodes.two
    return [launch(kernels[isEdge], { ...values, y }, [K, batch])]
  }
  const append = launch(attentionAppends[isEdge], { ...values, rows: batch * T }, groupsForRows(batch * T))
  if (y === undefined) return [append]
  const [kernel, slices] = bySize(attentionChunks, D)
  return [append, launch(kernel, { ...values, y }, [H * slices, Math.ceil(T / TILE), batch])]
}
