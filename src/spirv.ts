/** The kernel language: typed buffers, push constants, structured control flow, and what becomes of a recording. */
export { type Assembled, assemble } from "./spirv-assemble.ts"
export { checkKernel } from "./spirv-check.ts"
export type { Var } from "./spirv-flow.ts"
export { constant, type Kernel, kernel, type Variant } from "./spirv-kernel.ts"
export { type PushField, pushBytes } from "./spirv-layout.ts"
export type { Matrices as Body, Tensor } from "./spirv-matrix.ts"
export {
  type PackReads,
  type PackWrites,
  type ReadBuffer,
  type ReadWriteBuffer,
  read,
  readWrite,
  type SharedArray,
  type WriteBuffer,
  write,
} from "./spirv-memory.ts"
export { type PackEntry, pack, readPack } from "./spirv-pack.ts"
export { type Dispatch, simulate } from "./spirv-simulate.ts"
export { DeviceMemory } from "./spirv-simulate-memory.ts"
export { act, bf16, bool, type Choice, choice, f32, i32, type MatrixType, u32, u64, vec2, vec3, vec4 } from "./spirv-type.ts"
export type { Bool, F32, FloatMatrix, FloatVector, I32, Index, MatrixValue, U32, U64 } from "./spirv-value.ts"
