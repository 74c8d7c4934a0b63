/** The matrix products of few rows in PTX that the pack holds. */
import { type FewKernel, ptxFew } from "./ptx-few.ts"
import { type HeldKernel, ptxFewHeld } from "./ptx-few-held.ts"
import { FEW_TILES, type FewTile } from "./ptx-few-tile.ts"

export const ptxFewOf: ReadonlyMap<FewTile, Readonly<Record<"f32" | "bf16", FewKernel>>> = new Map(
  FEW_TILES.map((tile) => [tile, { f32: ptxFew(tile, "f32"), bf16: ptxFew(tile, "bf16") }]),
)

export const ptxFewKernels: readonly (FewKernel | HeldKernel)[] = [
  ...[...ptxFewOf.values()].flatMap(({ f32, bf16 }) => [f32, bf16]),
  ptxFewHeld,
]
