/** All kernels in PTX. */
import type { PtxKernel } from "../src/ptx.ts"
import { ptxAttentionKernels } from "./ptx-attention-list.ts"
import { ptxGemmKernels } from "./ptx-gemm-list.ts"

export const ptxKernels: readonly PtxKernel[] = [...ptxGemmKernels, ...ptxAttentionKernels] as readonly PtxKernel[]
