/** Matrix products by matrix instructions. */
import type { GpuTarget, Launches } from "./op-gpu.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** Undefined where the portable kernels must do it. */
export function matrixGemm(_: Gemm, __: GpuTarget): Launches | undefined {
  return undefined
}
