/** Matrix products by the portable kernels. */
import type { GpuTarget, Launches } from "./op-gpu.ts"
import type { Gemm } from "./op-matmul-request.ts"

export function portableGemm({ layout }: Gemm, _: GpuTarget): Launches {
  throw new TypeError(`matmul ${layout}: no kernel`)
}
