/** SPIR-V for cooperative matrices and tensor addressing. */
import type { FunctionWriter } from "./spirv-assemble-function.ts"
import { memoryOperands } from "./spirv-assemble-memory.ts"
import { typeId } from "./spirv-assemble-type.ts"
import { type Callback, isMatrix, type MatrixDetail, type Node } from "./spirv-node.ts"
import { OP, STORAGE } from "./spirv-opcode.ts"
import type { MatrixType, TensorType } from "./spirv-type.ts"

type MatrixNode = Node & { readonly kind: "matrix" } & MatrixDetail

const ARITHMETIC = { add: OP.FAdd, sub: OP.FSub, mul: OP.FMul, div: OP.FDiv, neg: OP.FNegate } as const
const ALONG = { row: 1, column: 2 } as const
const LAYOUT = { row: 0, column: 1 } as const

type Inline = (callback: Callback, ids: readonly number[]) => number

/** `functionOf` gives the id of a callback's function, `inline` that of its result after its code. */
export function emitMatrix(fn: FunctionWriter, node: MatrixNode, functionOf: (callback: Callback) => number, inline: Inline): void {
  const id = node.does === "each" ? each(fn, node, inline) : resultOf(fn, node, functionOf)
  if (id !== undefined) fn.ids.set(node, id)
}

/** Lanes that share a matrix's elements. */
const LANES = 32

/** The components of this lane one by one, through variables: what is in a matrix has no other name. */
function each(fn: FunctionWriter, node: MatrixNode & { readonly does: "each" }, inline: Inline): number {
  const { module, io } = fn
  const type = node.type as MatrixType
  const [matrix, f32] = [typeId(io, type), module.scalar("f32")]
  const pointer = module.pointer(STORAGE.Function, f32)
  const sources = node.args.map((arg, i) => {
    const id = fn.id(arg)
    if (!isMatrix(arg.type)) return () => id
    const variable = fn.temporary(`operand ${i}`, matrix)
    fn.emit(OP.Store, variable, id)
    return (component: number) => fn.value(OP.Load, f32, fn.value(OP.AccessChain, pointer, variable, component))
  })
  const result = fn.temporary("result", matrix)
  for (let i = 0; i < (Number(type.rows) * Number(type.columns)) / LANES; i++) {
    const component = module.u32(i)
    const values = sources.map((source) => source(component))
    const place = fn.value(OP.AccessChain, pointer, result, component)
    fn.emit(OP.Store, place, inline(node.callback, values))
  }
  return fn.value(OP.Load, matrix, result)
}

function resultOf(
  fn: FunctionWriter,
  node: Exclude<MatrixNode, { readonly does: "each" }>,
  functionOf: (callback: Callback) => number,
): number | undefined {
  const { module, io } = fn
  const type = node.type === undefined ? 0 : typeId(io, node.type)
  const args = node.args.map((arg) => fn.id(arg))
  switch (node.does) {
    case "splat":
      if (node.args[0]!.kind === "literal") return module.constant(OP.ConstantComposite, type, ...args)
      return fn.value(OP.CompositeConstruct, type, ...args)
    case "mulAdd":
      return fn.value(OP.CooperativeMatrixMulAdd, type, ...args)
    case "arithmetic":
      return fn.value(ARITHMETIC[node.op], type, ...args)
    case "scale":
      return fn.value(OP.MatrixTimesScalar, type, ...args)
    case "convert":
      if ((node.type as MatrixType).use !== (node.args[0]!.type as MatrixType).use)
        module.capabilities.add("CooperativeMatrixConversionsNV")
      return fn.value(OP.FConvert, type, ...args)
    case "map": {
      module.capabilities.add("CooperativeMatrixPerElementOperationsNV")
      const [matrix, ...operands] = args
      return fn.value(OP.CooperativeMatrixPerElementOp, type, matrix!, functionOf(node.callback), ...operands)
    }
    case "reduce":
      module.capabilities.add("CooperativeMatrixReductionsNV")
      return fn.value(OP.CooperativeMatrixReduce, type, args[0]!, ALONG[node.along], functionOf(node.callback))
    case "load": {
      const [pointer, stride] = [fn.cellPointer(node.view, io.cellOf(node.view, true), args[0]!), args[1]!]
      const operands = memoryOperands(io, node.view, 16)
      return fn.value(OP.CooperativeMatrixLoad, type, pointer, module.u32(LAYOUT[node.layout]), stride, ...operands)
    }
    case "store": {
      const [pointer, stride, matrix] = [fn.cellPointer(node.view, io.cellOf(node.view, true), args[0]!), args[1]!, args[2]!]
      const operands = memoryOperands(io, node.view, 16)
      fn.emit(OP.CooperativeMatrixStore, pointer, matrix, module.u32(LAYOUT[node.layout]), stride, ...operands)
      return undefined
    }
    case "loadTensor": {
      module.capabilities.add("CooperativeMatrixTensorAddressingNV")
      const pointer = fn.cellPointer(node.view, io.cellOf(node.view, true), args[0]!)
      const before = module.constant(OP.Undef, type) // what elements outside would keep; none do
      const view = node.transposed ? [1, transposedView(fn)] : [0]
      return fn.value(OP.CooperativeMatrixLoadTensor, type, pointer, before, args[1]!, ...memoryOperands(io, node.view, 16), ...view)
    }
    case "storeTensor": {
      module.capabilities.add("CooperativeMatrixTensorAddressingNV")
      const pointer = fn.cellPointer(node.view, io.cellOf(node.view, true), args[0]!)
      fn.emit(OP.CooperativeMatrixStoreTensor, pointer, args[2]!, args[1]!, ...memoryOperands(io, node.view, 16), 0)
      return undefined
    }
    case "tensor": {
      const { rank } = node.type as TensorType
      const empty = fn.value(OP.CreateTensorLayout, type)
      const dense = fn.value(OP.TensorLayoutSetDimension, type, empty, ...args.slice(0, rank))
      return node.hasStrides ? fn.value(OP.TensorLayoutSetStride, type, dense, ...args.slice(rank)) : dense
    }
    case "slice":
      return fn.value(OP.TensorLayoutSlice, type, ...args)
  }
}

/** A view that exchanges the two dimensions of what is loaded. */
function transposedView(fn: FunctionWriter): number {
  const { module } = fn
  const type = module.type(OP.TypeTensorView, module.u32(2), module.literal("bool", false), module.u32(1), module.u32(0))
  return fn.value(OP.CreateTensorView, type)
}
