/** Matrix products on a GPU: by matrix instructions or by the portable kernels. */
import type { GpuTarget, Launches } from "./op-gpu.ts"
import { matrixGemm } from "./op-matmul-matrix.ts"
import { portableGemm } from "./op-matmul-portable.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** Launches of a matrix product: by matrix instructions where the device has them and they take this one, else by the portable kernels. */
export function gemm(given: Gemm, target: GpuTarget): Launches {
  return (target.matrix === "none" ? undefined : matrixGemm(given, target)) ?? portableGemm(given, target)
}

export type { Gemm } from "./op-matmul-request.ts"
