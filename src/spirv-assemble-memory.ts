/** SPIR-V for loads, stores and atomics; bf16 is converted here, by integer operations. */
import { FunctionWriter } from "./spirv-assemble-function.ts"
import type { Cell, Interface } from "./spirv-assemble-interface.ts"
import { instruction } from "./spirv-assemble-module.ts"
import type { AtomicName, Node, View } from "./spirv-node.ts"
import { OP, SCOPE } from "./spirv-opcode.ts"
import { bytesOf, type Plain, resolve } from "./spirv-type.ts"

const ALIGNED = 2
const NON_PRIVATE = 0x20

/**
 * Memory operands. What lanes exchange must be non-private: always in shared memory, in buffers where the kernel has a barrier for them. It is
 * the barriers that make it available and visible; said at each access, Mesa 22.3 makes a barrier of every load and hangs where lanes diverge.
 */
export function memoryOperands(io: Interface, { memory }: View, align: number): number[] {
  if (memory.kind === "shared") return [NON_PRIVATE]
  const isExchanged = io.kernel.recording.exchangesBuffers && memory.access === "readWrite"
  return [isExchanged ? ALIGNED | NON_PRIVATE : ALIGNED, align]
}

type AccessNode = Node & { readonly view: View }

/** The numbers of the cells that hold a pack, from the number of the pack. */
function cellIndices(fn: FunctionWriter, index: Node, cells: number): number[] {
  const first = fn.id(index)
  if (cells === 1) return [first]
  const { scalar } = index.type as Plain
  const type = fn.module.scalar(scalar)
  const start = fn.value(OP.IMul, type, first, fn.module.literal(scalar, cells))
  return Array.from({ length: cells }, (_, i) => (i === 0 ? start : fn.value(OP.IAdd, type, start, fn.module.literal(scalar, i))))
}

const cellsOf = ({ count }: View, type: ReturnType<typeof resolve>, { stride }: Cell): number =>
  Math.max(1, (count * bytesOf(type)) / stride)

export function emitLoad(fn: FunctionWriter, node: AccessNode): void {
  const { module, io } = fn
  const { view } = node
  const type = resolve(view.element, io.chosen)
  const cell = io.cellOf(view, false)
  const indices = cellIndices(fn, node.args[0]!, cellsOf(view, type, cell))
  const cells = indices.map((index) =>
    fn.value(OP.Load, cell.type, fn.cellPointer(view, cell, index), ...memoryOperands(io, view, cell.stride)),
  )
  const f32 = module.scalar("f32")
  const u32 = module.scalar("u32")
  if (view.count === 1) {
    const bits = () => fn.value(OP.ShiftLeftLogical, u32, fn.value(OP.UConvert, u32, cells[0]!), module.u32(16))
    fn.ids.set(node, "stored" in type ? fn.value(OP.Bitcast, f32, bits()) : cells[0]!)
    return
  }
  const word = "stored" in type ? u32 : f32
  const words = cells.flatMap((id) =>
    cell.stride === 4 ? [id] : Array.from({ length: cell.stride / 4 }, (_, i) => fn.value(OP.CompositeExtract, word, id, i)),
  )
  const halves = (id: number) => [
    fn.value(OP.Bitcast, f32, fn.value(OP.ShiftLeftLogical, u32, id, module.u32(16))),
    fn.value(OP.Bitcast, f32, fn.value(OP.BitwiseAnd, u32, id, module.u32(0xffff0000))),
  ]
  fn.parts.set(node, "stored" in type ? words.flatMap(halves) : words)
}

export function emitStore(fn: FunctionWriter, node: AccessNode): void {
  const { module, io } = fn
  const { view } = node
  const type = resolve(view.element, io.chosen)
  const cell = io.cellOf(view, false)
  const [index, ...values] = node.args
  const ids = values.map((value) => fn.id(value))
  const u32 = module.scalar("u32")
  const bits = (id: number) => fn.value(OP.FunctionCall, u32, bf16Bits(io), id)
  const pair = (low: number, high: number) =>
    fn.value(OP.BitwiseOr, u32, bits(low), fn.value(OP.ShiftLeftLogical, u32, bits(high), module.u32(16)))
  const store = (at: number, id: number) => fn.emit(OP.Store, fn.cellPointer(view, cell, at), id, ...memoryOperands(io, view, cell.stride))
  if (view.count === 1) {
    store(fn.id(index!), "stored" in type ? fn.value(OP.UConvert, cell.type, bits(ids[0]!)) : ids[0]!)
    return
  }
  const words = "stored" in type ? ids.flatMap((id, i) => (i % 2 === 0 ? [pair(id, ids[i + 1]!)] : [])) : ids
  const perCell = cell.stride / 4
  cellIndices(fn, index!, cellsOf(view, type, cell)).forEach((at, i) => {
    const own = words.slice(i * perCell, (i + 1) * perCell)
    store(at, perCell === 1 ? own[0]! : fn.value(OP.CompositeConstruct, cell.type, ...own))
  })
}

/** The function from f32 to the 16 bits of the nearest bf16, halves to even; every NaN becomes 0x7fc0. */
function bf16Bits(io: Interface): number {
  return io.module.once("bf16 bits", () => {
    const fn = new FunctionWriter(io)
    const { module } = fn
    const [f32, u32] = [module.scalar("f32"), module.scalar("u32")]
    const given = module.fresh()
    const value = fn.value(OP.Bitcast, u32, given)
    const odd = fn.value(OP.BitwiseAnd, u32, fn.value(OP.ShiftRightLogical, u32, value, module.u32(16)), module.u32(1))
    const sum = fn.value(OP.IAdd, u32, fn.value(OP.IAdd, u32, value, module.u32(0x7fff)), odd)
    const rounded = fn.value(OP.ShiftRightLogical, u32, sum, module.u32(16))
    const magnitude = fn.value(OP.BitwiseAnd, u32, value, module.u32(0x7fffffff))
    const isNan = fn.value(OP.UGreaterThan, module.scalar("bool"), magnitude, module.u32(0x7f800000))
    fn.emit(OP.ReturnValue, fn.value(OP.Select, u32, isNan, module.u32(0x7fc0), rounded))
    return fn.finish(u32, module.type(OP.TypeFunction, u32, f32), instruction(OP.FunctionParameter, [f32, given]))
  })
}

const ATOMICS: Record<AtomicName, { readonly u32: number; readonly i32: number }> = {
  exchange: { u32: 229, i32: 229 },
  compareExchange: { u32: 230, i32: 230 },
  add: { u32: 234, i32: 234 },
  min: { u32: 237, i32: 236 },
  max: { u32: 239, i32: 238 },
  and: { u32: 240, i32: 240 },
  or: { u32: 241, i32: 241 },
  xor: { u32: 242, i32: 242 },
}

export function emitAtomic(fn: FunctionWriter, node: AccessNode & { readonly kind: "atomic" }): void {
  const { module, io } = fn
  const { view } = node
  const [index, value, expected] = node.args.map((arg) => fn.id(arg))
  const pointer = fn.cellPointer(view, io.cellOf(view, false), index!)
  // Relaxed, among all workgroups of the queue family: needs no device-scope feature.
  const scope = module.u32(view.memory.kind === "shared" ? SCOPE.Workgroup : SCOPE.QueueFamily)
  const relaxed = module.u32(0)
  const operands = expected === undefined ? [relaxed, value!] : [relaxed, relaxed, value!, expected]
  const { scalar } = node.type as Plain<"u32" | "i32">
  fn.ids.set(node, fn.value(ATOMICS[node.name][scalar], module.scalar(scalar), pointer, scope, ...operands))
}
