/** All kernels in PTX. */
import type { PtxKernel } from "../src/ptx.ts"
import { ptxAttentionCached } from "./ptx-attention-cached.ts"
import { ptxAttentionKernels } from "./ptx-attention-list.ts"
import { ptxFewKernels } from "./ptx-few-list.ts"
import { ptxGemmKernels } from "./ptx-gemm-list.ts"
import { ptxRoom } from "./ptx-room.ts"
import { ptxStackKernels } from "./ptx-stack.ts"

export const ptxKernels: readonly PtxKernel[] = [
  ...ptxGemmKernels,
  ...ptxFewKernels,
  ptxAttentionCached,
  ...ptxAttentionKernels,
  ...ptxStackKernels,
  ptxRoom,
] as readonly PtxKernel[]
