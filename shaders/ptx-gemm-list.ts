/** The matrix products in PTX that the pack holds. */
import { type GemmKernel, ptxGemm } from "./ptx-gemm.ts"
import type { Finish, PtxActivation, PtxGemm, PtxLayout } from "./ptx-gemm-frame.ts"
import { type DeepTile, type PtxTile, type RingTile, tileName } from "./ptx-gemm-tile.ts"

/** The tile that was fastest on an H200 within 48 KiB of shared memory; */
export const PTX_TILE: RingTile = { units: 2, chunks: 3, ringA: 3, ringB: 5, ahead: 6 }
/** where c has few columns, or the rows of a are far apart; */
export const FLAT_TILE: RingTile = { units: 1, chunks: 6, ringA: 2, ringB: 7, ahead: 12 }
/** and for what others leave of a turn of the processors, results under the next tile's products. */
export const NARROW_TILE: RingTile = { units: 2, chunks: 2, ringA: 3, ringB: 5, later: true, ahead: 12 }
/** Tiles dealt out by lists. */
export const DEALT_TILE: RingTile = { ...PTX_TILE, dealt: true }

/** Where a block may have 227 KiB: results that wait under the next tile, */
export const DEEP_TILE: DeepTile = { units: 1, chunks: 4, stages: 4, later: true }
export const TALL_TILE: DeepTile = { units: 2, chunks: 2, stages: 4, later: true }
/** and others. */
export const DEEP_ENDED: DeepTile = { units: 1, chunks: 4, stages: 4 }
export const WIDE_TILE: DeepTile = { units: 2, chunks: 3, stages: 4 }
export const WIDE_DEALT: DeepTile = { ...WIDE_TILE, dealt: true }
export const DEEP_TILES: readonly DeepTile[] = [DEEP_TILE, TALL_TILE, DEEP_ENDED, WIDE_TILE]

const ACTIVATIONS: readonly PtxActivation[] = ["gelu", "gelu_tanh", "relu", "relu2", "silu"]
const FORWARD: readonly Finish[] = ["none", "bias", "add"]
/** Activations are there where the result is bf16, with their slopes as a training step asks for them. */
const WANTED: readonly (readonly [PtxLayout, PtxGemm["out"], readonly Finish[]])[] = [
  ...(["nt", "ntp"] as const).flatMap((layout) => [
    [layout, "f32", FORWARD] as const,
    [layout, "bf16", [...FORWARD, ...ACTIVATIONS]] as const,
  ]),
  ["ntp", "bf16", ACTIVATIONS.map((name) => `${name}_slope` as const)],
  ["nn", "f32", ["none", "add"]],
  ["nn", "bf16", ["none", "add", "factor"]],
  ["tn", "f32", ["none", "sums", "add"]],
]

type Named = readonly [layout: PtxLayout, out: PtxGemm["out"], finishes: readonly Finish[]]
type Tiled = readonly [PtxTile, ...Named]
/** What there is of the other tiles. */
const OTHERS: readonly Tiled[] = [
  [FLAT_TILE, "ntp", "bf16", ["none", "bias"]],
  [FLAT_TILE, "nn", "bf16", ["none"]],
  [FLAT_TILE, "nn", "f32", ["none"]],
  [FLAT_TILE, "tn", "f32", ["none", "sums", "add"]],
  [NARROW_TILE, "ntp", "bf16", ["none", "bias"]],
  [NARROW_TILE, "nn", "bf16", ["none"]],
  [DEALT_TILE, "ntp", "bf16", ["none", "bias"]],
  [DEALT_TILE, "nn", "bf16", ["none"]],
  [DEEP_TILE, "ntp", "bf16", ["none", "bias", ...ACTIVATIONS.map((name) => `${name}_slope` as const)]],
  [DEEP_TILE, "nn", "bf16", ["none", "factor"]],
  [TALL_TILE, "ntp", "bf16", ["none", "bias"]],
  [TALL_TILE, "nn", "bf16", ["none", "factor"]],
  ...(["nt", "ntp"] as const).flatMap((layout): readonly Tiled[] => [
    [DEEP_ENDED, layout, "f32", FORWARD],
    [DEEP_ENDED, layout, "bf16", [...(layout === "nt" ? FORWARD : (["add"] as const)), ...ACTIVATIONS]],
  ]),
  [DEEP_ENDED, "nn", "f32", ["none", "add"]],
  [DEEP_ENDED, "nn", "bf16", ["none", "add"]],
  [DEEP_ENDED, "tn", "f32", ["none", "sums", "add"]],
  [WIDE_DEALT, "ntp", "bf16", ["none", "bias"]],
  [WIDE_DEALT, "nn", "bf16", ["none"]],
  [WIDE_TILE, "ntp", "bf16", ["none", "bias"]],
  [WIDE_TILE, "nn", "bf16", ["none"]],
  [WIDE_TILE, "tn", "f32", ["none", "sums", "add"]],
]

const keyOf = ({ layout, out, finish, tile }: PtxGemm): string => `${layout} ${out} ${finish} ${tileName(tile)}`
const gemms = [...WANTED.map((named) => [PTX_TILE, ...named] as const), ...OTHERS].flatMap(([tile, layout, out, finishes]) =>
  finishes.map((finish): PtxGemm => ({ layout, out, finish, tile })),
)
const known = new Map(gemms.map((gemm): [string, GemmKernel] => [keyOf(gemm), ptxGemm(gemm)]))

/** The pack's kernel for a product; undefined where there is none. */
export const ptxGemmOf = (gemm: PtxGemm): GemmKernel | undefined => known.get(keyOf(gemm))

export const ptxGemmKernels: readonly GemmKernel[] = [...known.values()]
