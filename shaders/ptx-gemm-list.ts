/** The matrix products in PTX that the pack holds. */
import { type GemmKernel, ptxGemm } from "./ptx-gemm.ts"
import type { Finish, PtxActivation, PtxGemm, PtxLayout } from "./ptx-gemm-frame.ts"
import { type PtxTile, tileName } from "./ptx-gemm-tile.ts"

/** The tile that was fastest on an H200 within 48 KiB of shared memory, */
export const PTX_TILE: PtxTile = { units: 2, chunks: 3, ringA: 3, ringB: 5, unrolled: false, ahead: 12 }
/** and where its end is long: what is under the next tile's products is more than these lose by their width. */
export const LATER_TILE: PtxTile = { units: 2, chunks: 2, ringA: 3, ringB: 5, unrolled: false, later: true }
export const NARROW_TILE: PtxTile = { ...LATER_TILE, ahead: 12 }

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

/** Products that the narrow tile does beside the wide one, and the one that it does alone. */
const NARROW: readonly Pick<PtxGemm, "layout" | "finish">[] = [
  { layout: "ntp", finish: "none" },
  { layout: "ntp", finish: "bias" },
  { layout: "nn", finish: "none" },
]
const LATER: readonly Pick<PtxGemm, "layout" | "finish">[] = [{ layout: "nn", finish: "factor" }]

const keyOf = ({ layout, out, finish, tile }: PtxGemm): string => `${layout} ${out} ${finish} ${tileName(tile)}`
const gemms: readonly PtxGemm[] = [
  ...WANTED.flatMap(([layout, out, finishes]) => finishes.map((finish) => ({ layout, out, finish, tile: PTX_TILE }))),
  ...NARROW.map((gemm) => ({ ...gemm, out: "bf16" as const, tile: NARROW_TILE })),
  ...LATER.map((gemm) => ({ ...gemm, out: "bf16" as const, tile: LATER_TILE })),
]
const known = new Map(gemms.map((gemm): [string, GemmKernel] => [keyOf(gemm), ptxGemm(gemm)]))

/** The pack's kernel for a product; undefined where there is none. */
export const ptxGemmOf = (gemm: PtxGemm): GemmKernel | undefined => known.get(keyOf(gemm))

export const ptxGemmKernels: readonly GemmKernel[] = [...known.values()]
