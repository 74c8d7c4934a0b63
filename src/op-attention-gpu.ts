/** Launches of the attention kernels: which variant a head size takes, grids, push constants. */
import { attentions } from "../shaders/attention.ts"
import { attentionBackwardKeys, attentionBackwardQueries, attentionDelta } from "../shaders/attention-backward.ts"
import { attentionAppends, attentionChunks } from "../shaders/attention-cached.ts"
import { attentionDecodes, DECODE_SIZE } from "../shaders/attention-decode.ts"
import { ptxCachedLaunches } from "./op-attention-cached-ptx.ts"
import { type AttentionAttrs, attentionSizes, type Counters, type Heads } from "./op-attention-heads.ts"
import { plainBackwardLaunches, plainLaunches, plainWay } from "./op-attention-matrix.ts"
import { ptxBackwardLaunches, ptxLaunches, ptxWay } from "./op-attention-ptx.ts"
import { matrixBackwardLaunches, matrixLaunches, matrixWay } from "./op-attention-tensor.ts"
import { type GpuTarget, groupsFor, groupsForRows, type Launches, launch, scratch } from "./op-gpu.ts"
import { lastDim, rows, type Tensor } from "./tensor.ts"

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

/** Which matrix kernels do this attention; where none does, the portable ones do. */
function matricesFor(qkv: Tensor, attrs: AttentionAttrs, target: GpuTarget) {
  const way = matrixWay(qkv, attrs, target)
  const plain = plainWay(qkv, attrs, target, way !== undefined)
  return plain === undefined ? { way } : { plain }
}

export function attentionLaunches(
  { qkv, ...live }: { readonly qkv: Tensor } & Counters<Tensor>,
  { y, lse }: { readonly y: Tensor | undefined; readonly lse: Tensor | undefined },
  attrs: AttentionAttrs,
  target: GpuTarget,
): Launches {
  const { batch, values, constants } = settings(qkv, live, attrs)
  const ptx = ptxWay(qkv, attrs, target)
  if (ptx !== undefined)
    return ptxLaunches({ qkv, y, lse: lse ?? scratch("f32", rows(qkv) * attrs.nHead) }, { batch, ...values }, ptx, target)
  const { way, plain } = matricesFor(qkv, attrs, target)
  if (plain !== undefined)
    return plainLaunches({ qkv, y, lse: lse ?? scratch("f32", rows(qkv) * attrs.nHead) }, { batch, ...values }, plain, target)
  if (way !== undefined) return matrixLaunches({ qkv, y, lse: lse ?? scratch("f32", rows(qkv) * attrs.nHead) }, values, batch, way, target)
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
  const ptx = ptxWay(qkv, attrs, target)
  if (ptx !== undefined) return ptxBackwardLaunches({ qkv, y, lse, dy, dqkv }, { batch, ...values }, ptx, target)
  const { way, plain } = matricesFor(qkv, attrs, target)
  if (plain !== undefined) return plainBackwardLaunches({ qkv, y, lse, dy, dqkv }, { batch, ...values }, plain, target)
  if (way !== undefined) return matrixBackwardLaunches({ qkv, y, lse, dy, dqkv }, values, batch, way, target)
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
  target: GpuTarget,
): Launches {
  const { T, nHead: H, nKvHead: K, headDim: D, scale, pageSize } = attrs
  const batch = inputs.lengths.shape[0] as number
  const ptx = y && ptxCachedLaunches(inputs, y, attrs, target)
  if (ptx !== undefined) return ptx
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
