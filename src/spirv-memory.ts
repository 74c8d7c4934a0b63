/** Buffers, addresses and shared memory as a body reads and writes them. */
import { nodeOf, operandOf, value } from "./spirv-expression.ts"
import type { Access, AtomicName, Node, View } from "./spirv-node.ts"
import type { Recorder } from "./spirv-record.ts"
import { type Bf16, type Choice, f32, type Plain, type Size, type Stored, typeName } from "./spirv-type.ts"
import type { F32, Index, OperandOf, ValueOf } from "./spirv-value.ts"

/** What a buffer's elements may be: no bool, and no vectors of three, whose stride differs between layouts. */
export type Storable = Plain<"u32" | "i32" | "f32", 1 | 2 | 4> | Plain<"u64", 1> | Bf16 | Choice
type FloatStored = Plain<"f32", 1> | Bf16 | Choice
type Atomic = Plain<"u32" | "i32", 1>

/** A buffer in a kernel's declaration. */
export interface BufferSpec<A extends Access = Access, T extends Storable = Storable> {
  readonly access: A
  readonly element: T
}
export const read = <T extends Storable>(element: T): BufferSpec<"read", T> => ({ access: "read", element })
/** Written only; what it held before does not matter. */
export const write = <T extends Storable>(element: T): BufferSpec<"write", T> => ({ access: "write", element })
export const readWrite = <T extends Storable>(element: T): BufferSpec<"readWrite", T> => ({ access: "readWrite", element })

/** `n` neighbouring floats at once, by number of the pack: at(i) holds elements n·i … n·i + n − 1, loaded in pieces of up to 16 bytes. */
export interface PackReads {
  at(index: Index): readonly F32[]
}
export interface PackWrites {
  set(index: Index, values: readonly F32[]): void
}
type PackSize = 2 | 4 | 8

interface Reads<T> {
  readonly element: T
  at(index: Index): ValueOf<T>
}
interface Writes<T> {
  readonly element: T
  set(index: Index, value: OperandOf<T>): void
}
/** Each returns what was there before. The order among lanes is open, so use them where it does not matter. */
export interface Atomics<T> {
  atomicAdd(index: Index, value: OperandOf<T>): ValueOf<T>
  atomicMin(index: Index, value: OperandOf<T>): ValueOf<T>
  atomicMax(index: Index, value: OperandOf<T>): ValueOf<T>
  atomicAnd(index: Index, value: OperandOf<T>): ValueOf<T>
  atomicOr(index: Index, value: OperandOf<T>): ValueOf<T>
  atomicXor(index: Index, value: OperandOf<T>): ValueOf<T>
  atomicExchange(index: Index, value: OperandOf<T>): ValueOf<T>
  /** Writes `value` where `expected` stands. */
  atomicCompareExchange(index: Index, value: OperandOf<T>, expected: OperandOf<T>): ValueOf<T>
}
type AtomicsOf<T> = T extends Atomic ? Atomics<T> : unknown

interface ReadViews {
  /** The same bytes as elements of another type; the element number counts those. */
  as<U extends Storable>(type: U): ReadBuffer<U>
}
interface WriteViews {
  as<U extends Storable>(type: U): WriteBuffer<U>
}
interface ReadWriteViews {
  as<U extends Storable>(type: U): ReadWriteBuffer<U>
}
export type ReadBuffer<T> = Reads<T> & ReadViews & (T extends FloatStored ? { pack(count: PackSize): PackReads } : unknown)
export type WriteBuffer<T> = Writes<T> & WriteViews & (T extends FloatStored ? { pack(count: PackSize): PackWrites } : unknown)
export type ReadWriteBuffer<T> = Reads<T> &
  Writes<T> &
  ReadWriteViews &
  AtomicsOf<T> &
  (T extends FloatStored ? { pack(count: PackSize): PackReads & PackWrites } : unknown)

export type BufferOf<B> =
  B extends BufferSpec<infer A, infer T> ? { read: ReadBuffer<T>; write: WriteBuffer<T>; readWrite: ReadWriteBuffer<T> }[A] : never

export type SharedElement = Plain<"u32" | "i32" | "f32", Size>
export type SharedArray<T> = Reads<T> & Writes<T> & AtomicsOf<T> & { readonly length: number }

/** Memory at run time of the recording; the interfaces above say what may be done with which. */
export class MemoryValue {
  constructor(
    readonly recorder: Recorder,
    readonly view: View,
  ) {}

  get element(): Stored {
    return this.view.element
  }

  get length(): number | undefined {
    return this.view.memory.kind === "shared" ? this.view.memory.length : undefined
  }

  private get type(): Plain {
    const { element } = this.view
    return "scalar" in element ? element : f32
  }

  at(index: Index): unknown {
    const { recorder, view, type } = this
    if (view.memory.kind !== "shared" && view.memory.access === "write") recorder.fail(`${view.memory.name} is write-only`)
    const load = recorder.add({ kind: "load", view }, view.count === 1 ? type : undefined, [this.index(index)])
    if (view.count === 1) return value(recorder, load)
    return Array.from({ length: view.count }, (_, component) => value(recorder, recorder.pure({ kind: "part", component }, f32, [load])))
  }

  set(index: Index, given: unknown): void {
    const { recorder, view, type } = this
    if (view.memory.kind !== "shared" && view.memory.access === "read") recorder.fail(`${view.memory.name} is read-only`)
    const values = Array.isArray(given) ? given : [given]
    if (values.length !== view.count) recorder.fail(`${view.memory.name}: ${values.length} values for a pack of ${view.count}`)
    recorder.add({ kind: "store", view }, undefined, [this.index(index), ...values.map((one) => operandOf(recorder, one, type))])
  }

  pack(count: PackSize): MemoryValue {
    return new MemoryValue(this.recorder, { ...this.view, count })
  }

  as(element: Storable): MemoryValue {
    return new MemoryValue(this.recorder, { ...this.view, element, count: 1 })
  }

  private index(index: Index): Node {
    return this.recorder.index(typeof index === "number" ? index : nodeOf(index))
  }

  private atomic(name: AtomicName, index: Index, operands: readonly unknown[]): unknown {
    const { recorder, view, type } = this
    if (type.size > 1 || (type.scalar !== "u32" && type.scalar !== "i32")) recorder.fail(`atomic ${name} on ${typeName(view.element)}`)
    const args = [this.index(index), ...operands.map((one) => operandOf(recorder, one, type))]
    return value(recorder, recorder.add({ kind: "atomic", name, view }, type, args))
  }

  atomicAdd(index: Index, by: unknown): unknown {
    return this.atomic("add", index, [by])
  }
  atomicMin(index: Index, by: unknown): unknown {
    return this.atomic("min", index, [by])
  }
  atomicMax(index: Index, by: unknown): unknown {
    return this.atomic("max", index, [by])
  }
  atomicAnd(index: Index, by: unknown): unknown {
    return this.atomic("and", index, [by])
  }
  atomicOr(index: Index, by: unknown): unknown {
    return this.atomic("or", index, [by])
  }
  atomicXor(index: Index, by: unknown): unknown {
    return this.atomic("xor", index, [by])
  }
  atomicExchange(index: Index, by: unknown): unknown {
    return this.atomic("exchange", index, [by])
  }
  atomicCompareExchange(index: Index, by: unknown, expected: unknown): unknown {
    return this.atomic("compareExchange", index, [by, expected])
  }
}
