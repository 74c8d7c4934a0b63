/** SPIR-V types of values: scalars, vectors, cooperative matrices, tensor layouts. */
import type { Interface } from "./spirv-assemble-interface.ts"
import { OP, SCOPE } from "./spirv-opcode.ts"
import type { MatrixType, TensorType, Type } from "./spirv-type.ts"

const USES = { a: 0, b: 1, accumulator: 2 } as const
/** What a tensor layout does outside its dimensions. */
const CLAMPS = { none: 0, zero: 1 } as const

export function typeId(io: Interface, type: Type): number {
  if ("scalar" in type) return io.module.plain(type)
  return "use" in type ? matrixType(io, type) : tensorType(io, type)
}

function matrixType(io: Interface, { element, use, scope, rows, columns }: MatrixType): number {
  const { module } = io
  module.capabilities.add("CooperativeMatrixKHR")
  if (element === "bf16") {
    module.capabilities.add("BFloat16TypeKHR")
    module.capabilities.add("BFloat16CooperativeMatrixKHR")
  }
  if (scope === "workgroup") {
    module.features.add("cooperativeMatrixWorkgroupScope")
    module.features.add("cooperativeMatrixFlexibleDimensions")
  }
  const component = element === "bf16" ? module.type(OP.TypeFloat, 16, 0) : module.scalar("f32")
  const scopeId = module.u32(scope === "workgroup" ? SCOPE.Workgroup : SCOPE.Subgroup)
  return module.type(OP.TypeCooperativeMatrix, component, scopeId, io.extent(rows), io.extent(columns), module.u32(USES[use]))
}

function tensorType({ module }: Interface, { rank, outside }: TensorType): number {
  module.capabilities.add("TensorAddressingNV")
  return module.type(OP.TypeTensorLayout, module.u32(rank), module.u32(CLAMPS[outside]))
}
