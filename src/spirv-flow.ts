/** Control flow of a body: variables, ifs, loops, barriers, shared memory, where the lane is. */
import { nodeOf, operandOf, value, vectorOf } from "./spirv-expression.ts"
import { type BufferOf, type BufferSpec, MemoryValue, type SharedArray, type SharedElement, type Storable } from "./spirv-memory.ts"
import { type Access, type Block, type Builtin, isPlain, type Node } from "./spirv-node.ts"
import type { Recorder } from "./spirv-record.ts"
import { f32, i32, type MatrixType, type Plain, u32 } from "./spirv-type.ts"
import type { Bool, F32, FloatVector, I32, IntVector, OperandOf, U32, U64, UintVector, ValueOf } from "./spirv-value.ts"

interface Changing<T> {
  get(): ValueOf<T>
  set(value: OperandOf<T>): void
  update(change: (value: ValueOf<T>) => ValueOf<T>): void
}
/** A value that changes: one per lane, in registers. */
export type Var<T> = Changing<T> & (T extends Plain<"bool"> | MatrixType ? unknown : { add(value: OperandOf<T>): void })

export interface LoopOptions {
  /** Asks the driver to unroll; the trip count should be known when the pipeline is made. */
  readonly unroll?: boolean
}

export class Flow {
  /** Blocks that are bodies of loops. */
  private readonly loops = new Set<Block>()

  constructor(
    /** For the language itself; a body has no use for it. */
    readonly recorder: Recorder,
    private readonly size: Node,
  ) {}

  /** Number of this lane in its workgroup. */
  get lane(): U32 {
    return this.builtin("lane")
  }
  /** Lanes per workgroup. */
  get workgroup(): U32 {
    return value<typeof u32>(this.recorder, this.size)
  }
  /** The most lanes a workgroup may have. */
  protected get mostLanes(): number {
    return this.size.kind === "literal" ? Number(this.size.value) : 1024
  }
  /** Number of this workgroup along the grid's first dimension. */
  get group(): U32 {
    return this.builtin("groupX")
  }
  get groupY(): U32 {
    return this.builtin("groupY")
  }
  get groupZ(): U32 {
    return this.builtin("groupZ")
  }
  /** Workgroups in the grid along its first dimension. */
  get groups(): U32 {
    return this.builtin("groupsX")
  }
  get groupsY(): U32 {
    return this.builtin("groupsY")
  }

  protected builtin(builtin: Builtin): U32 {
    return value<typeof u32>(this.recorder, this.recorder.global(`builtin ${builtin}`, { kind: "builtin", builtin }, u32))
  }

  u32(literal: number): U32 {
    return value<typeof u32>(this.recorder, this.recorder.literal(u32, literal))
  }
  i32(literal: number): I32 {
    return value<typeof i32>(this.recorder, this.recorder.literal(i32, literal))
  }
  f32(literal: number): F32 {
    return value<typeof f32>(this.recorder, this.recorder.literal(f32, literal))
  }

  vector(x: F32, y: F32): FloatVector<2>
  vector(x: F32, y: F32, z: F32): FloatVector<3>
  vector(x: F32, y: F32, z: F32, w: F32): FloatVector<4>
  vector(x: U32, y: U32): UintVector<2>
  vector(x: U32, y: U32, z: U32): UintVector<3>
  vector(x: U32, y: U32, z: U32, w: U32): UintVector<4>
  vector(x: I32, y: I32): IntVector<2>
  vector(x: I32, y: I32, z: I32): IntVector<3>
  vector(x: I32, y: I32, z: I32, w: I32): IntVector<4>
  vector(...parts: unknown[]): unknown {
    return value(this.recorder, vectorOf(this.recorder, parts))
  }

  /** A variable; a number fills a vector or a matrix. */
  var<T extends Plain>(type: T, initial: OperandOf<T>): Var<T>
  var<T extends MatrixType>(type: T, initial: ValueOf<T> | number): Var<T>
  var(type: Plain | MatrixType, initial: unknown): unknown {
    const { recorder } = this
    const variable = { type, block: recorder.block }
    const operand = (given: unknown): Node => {
      if (isPlain(type)) return operandOf(recorder, given, type)
      if (typeof given !== "number") return nodeOf(given)
      return recorder.add({ kind: "matrix", does: "splat" }, type, [recorder.literal(f32, given)])
    }
    const get = () => recorder.add({ kind: "get", variable }, type)
    const set = (given: unknown) => {
      recorder.add({ kind: "set", variable }, undefined, [operand(given)])
    }
    set(initial)
    const current = () => value(recorder, get())
    return {
      get: current,
      set,
      add: (by: unknown) => set(value(recorder, recorder.operation("add", get(), [operand(by)]))),
      update: (change: (now: unknown) => unknown) => set(change(current())),
    }
  }

  if(condition: Bool, yes: () => void, no?: () => void): void {
    const { recorder } = this
    const blocks = { yes: recorder.inside(recorder.block, yes), no: no && recorder.inside(recorder.block, no) }
    recorder.add({ kind: "if", ...blocks }, undefined, [nodeOf(condition)])
  }

  /** for (i = start; i < end; i += step); end + step must stay below 2^32. */
  for(start: U32 | number, end: U32 | number, step: U32 | number, body: (i: U32) => void, options: LoopOptions = {}): void {
    const { recorder } = this
    const bounds = [start, end, step].map((bound) => operandOf(recorder, bound, u32))
    let counter: Node | undefined
    const block = this.loop(recorder.block, () => {
      counter = recorder.add({ kind: "counter" }, u32)
      body(value<typeof u32>(recorder, counter))
    })
    recorder.add({ kind: "for", counter: counter!, body: block, unroll: options.unroll === true }, undefined, bounds)
  }

  while(test: () => Bool, body: () => void): void {
    const { recorder } = this
    let condition: Node | undefined
    const testBlock = recorder.inside(recorder.block, () => {
      condition = nodeOf(test())
    })
    const block = this.loop(testBlock, body)
    recorder.add({ kind: "while", test: testBlock, condition: condition!, body: block }, undefined)
  }

  private loop(parent: Block, body: () => void): Block {
    return this.recorder.inside(parent, () => {
      this.loops.add(this.recorder.block)
      body()
    })
  }

  /** Leaves the innermost loop where `condition` holds. */
  breakIf(condition: Bool): void {
    let block: Block | undefined = this.recorder.block
    while (block !== undefined && !this.loops.has(block)) block = block.parent
    if (block === undefined) this.recorder.fail("breakIf outside a loop")
    this.recorder.add({ kind: "break" }, undefined, [nodeOf(condition)])
  }

  /**
   * Every lane of the workgroup waits here for all others; what they wrote to shared memory before is visible after. With "buffers" also
   * what they wrote to buffers. All lanes must come to the same barrier.
   */
  barrier(also?: "buffers"): void {
    if (also !== undefined) this.recorder.exchangesBuffers = true
    this.recorder.add({ kind: "barrier", buffers: also !== undefined, scope: "workgroup" }, undefined)
  }

  /** An array of `length` elements that the workgroup shares; undefined until written. `name` is for error messages. */
  shared<T extends SharedElement>(name: string, element: T, length: number): SharedArray<T> {
    const { recorder } = this
    if (!(Number.isInteger(length) && length > 0)) recorder.fail(`shared ${name}: length ${length}`)
    if (recorder.shared.some((other) => other.name === name)) recorder.fail(`two shared arrays are named ${name}`)
    const memory = { kind: "shared", name, element, length } as const
    recorder.shared.push(memory)
    return new MemoryValue(recorder, { memory, element, count: 1 }) as unknown as SharedArray<T>
  }

  /** The memory at a device address, which must be aligned to 16 bytes. `name` is for error messages. */
  memoryAt<A extends Access, T extends Storable>(
    name: string,
    address: U64,
    { access, element }: BufferSpec<A, T>,
  ): BufferOf<BufferSpec<A, T>> {
    const memory = { kind: "address", name, access, element, address: nodeOf(address) } as const
    return new MemoryValue(this.recorder, { memory, element, count: 1 }) as unknown as BufferOf<BufferSpec<A, T>>
  }
}
