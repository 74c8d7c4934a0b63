/** The second kernel language: PTX text with Hopper's instructions, for devices that take it inside a Vulkan command buffer. */
export { Ptx, type Shared } from "./ptx-hopper.ts"
export { cellBytes, dynamicBytes, MOST_DYNAMIC, type PtxKernel, ptxKernel } from "./ptx-kernel.ts"
export { lastPtxPack, type PtxEntry, ptxEntry, ptxPack, readPtxPack } from "./ptx-pack.ts"
export type { F32, Operand, Predicate, U32, U64 } from "./ptx-register.ts"
export { type TensorMapSpec, tensorMapWords } from "./ptx-tensor-map.ts"
