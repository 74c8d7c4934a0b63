/** Matrix products on a GPU: by Hopper's own instructions, by matrix instructions or by the portable kernels. */
import type { GpuTarget, Launches } from "./op-gpu.ts"
import { matrixGemm } from "./op-matmul-matrix.ts"
import { portableGemm } from "./op-matmul-portable.ts"
import { ptxGemmLaunches } from "./op-matmul-ptx.ts"
import { ptxFewLaunches } from "./op-matmul-ptx-few.ts"
import type { Gemm } from "./op-matmul-request.ts"
import { isSkinny, skinnyGemm } from "./op-matmul-skinny.ts"

/**
 * Launches of a matrix product: by matrix instructions where the device has them and they take this one, else by the portable kernels. All
 * kernels of matrix instructions, those in PTX too, sum K in the same order, so that few rows may have their own.
 */
export function gemm(given: Gemm, target: GpuTarget): Launches {
  const ptx = target.ptx ? (ptxFewLaunches(given, target) ?? ptxGemmLaunches(given, target)) : undefined
  if (ptx !== undefined) return ptx
  const skinny = target.matrix === "none" ? undefined : skinnyGemm(given, target)
  if (skinny !== undefined && isSkinny(given)) return skinny
  return (target.matrix === "none" ? undefined : matrixGemm(given, target)) ?? skinny ?? portableGemm(given, target)
}

export type { Gemm } from "./op-matmul-request.ts"
