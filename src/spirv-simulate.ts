/** simulate(): runs a kernel in JavaScript, all lanes of a workgroup in lockstep, one workgroup after another. */
import { AlphaError } from "./base-error.ts"
import { constantsOf, type Kernel } from "./spirv-kernel.ts"
import { type Block, type Builtin, isMatrix, type Node, needed } from "./spirv-node.ts"
import { Accesses } from "./spirv-simulate-access.ts"
import { type Lanes, type Register, Registers } from "./spirv-simulate-lanes.ts"
import { MatrixSimulation } from "./spirv-simulate-matrix.ts"
import { DeviceMemory, type Region, SharedCells } from "./spirv-simulate-memory.ts"
import { SUBGROUP_SIZE } from "./spirv-subgroup.ts"
import type { Plain } from "./spirv-type.ts"

type Numbers<T> = { readonly [N in keyof T]: number }
/** A field that may be left out where a kernel has none of the kind. */
type Given<K extends string, T> = keyof T extends never ? { readonly [N in K]?: undefined } : { readonly [N in K]: Numbers<T> }

/** One dispatch. */
export type Dispatch<B, P, L, C> = {
  /** Name of the variant, by default the first. */
  readonly variant?: string
  /** Workgroups along each dimension. */
  readonly grid: readonly [number, number?, number?]
  /** f32: Float32Array, bf16: Uint16Array, …; written in place. */
  readonly buffers: { readonly [N in keyof B]: ArrayBufferView }
  /** Values of specialization constants where they differ from the defaults. */
  readonly constants?: { readonly [N in keyof C]?: number }
  /** Lanes per subgroup, 4 … 64; 32 by default. */
  readonly subgroupSize?: number
  /** Memory that the kernel reaches by addresses it reads. */
  readonly memory?: DeviceMemory
} & Given<"push", P> &
  Given<"params", L>

/** Iterations after which a loop is taken for endless. */
const ENDLESS = 1e7

/**
 * Runs a dispatch. Throws AlphaError where a device would misbehave in silence: an address outside its buffer, a barrier or subgroup
 * operation not reached by all, shared memory read before it is written, two lanes racing for memory. f32 results are rounded after each
 * operation; exp, sin and the like come from JavaScript's Math. A matrix product is summed in f64; a matrix operation must be reached by all
 * lanes that hold the matrix.
 */
export function simulate<B, P, L, C>(kernel: Simulated<B, P, L, C>, dispatch: NoInfer<Dispatch<B, P, L, C>>): void {
  new Simulation(kernel as unknown as Kernel, dispatch as unknown as AnyDispatch).run()
}

type Simulated<B, P, L, C> = { readonly buffers: B; readonly push: P; readonly params: L; readonly constants: C; readonly name: string }
type AnyNumbers = Readonly<Record<string, number>>
interface AnyDispatch {
  readonly variant?: string
  readonly grid: readonly [number, number?, number?]
  readonly buffers: Readonly<Record<string, ArrayBufferView>>
  readonly constants?: AnyNumbers
  readonly subgroupSize?: number
  readonly memory?: DeviceMemory
  readonly push?: AnyNumbers
  readonly params?: AnyNumbers
}

/** The lanes that hold; the same array when all do, which is the common case. */
function lanesWhere(lanes: Lanes, holds: (lane: number) => boolean): Lanes {
  for (const lane of lanes) if (!holds(lane)) return lanes.filter(holds)
  return lanes
}

class Simulation {
  private readonly constants: AnyNumbers
  private readonly used: ReadonlySet<Node>
  private readonly registers: Registers
  private readonly accesses: Accesses
  private readonly shared: readonly SharedCells[]
  private readonly matrices: MatrixSimulation
  private readonly size: number
  private readonly subgroupSize: number

  constructor(
    private readonly kernel: Kernel,
    private readonly dispatch: AnyDispatch,
  ) {
    const { root, shared } = kernel.recording
    const variant = dispatch.variant === undefined ? kernel.variants[0] : kernel.variants.find(({ name }) => name === dispatch.variant)
    if (variant === undefined) this.fail(`no variant ${dispatch.variant}`)
    this.used = needed(root)
    this.subgroupSize = dispatch.subgroupSize ?? SUBGROUP_SIZE.value
    const defaults = constantsOf(kernel.constants).map(({ name, value }) => [name, value])
    this.constants = { ...Object.fromEntries(defaults), ...dispatch.constants, [SUBGROUP_SIZE.name]: this.subgroupSize }
    this.size = typeof kernel.workgroup === "number" ? kernel.workgroup : this.constants[kernel.workgroup]!
    this.registers = new Registers(kernel.name, this.size, this.subgroupSize)
    const cells = new Map(shared.map((memory) => [memory, new SharedCells(memory)]))
    this.shared = [...cells.values()]
    const memory = dispatch.memory ?? new DeviceMemory()
    const { regions, written } = this.bind(memory)
    const isWritten = ({ view }: Region) => written === "any" || written.has(view.buffer)
    this.accesses = new Accesses(kernel.name, variant.chosen, this.registers, memory, regions, cells, isWritten)
    this.matrices = new MatrixSimulation({
      kernel: kernel.name,
      registers: this.registers,
      accesses: this.accesses,
      subgroupSize: this.subgroupSize,
      extent: (size) => (typeof size === "number" ? size : this.constants[size]!),
      block: (block, lanes) => void this.block(block, lanes),
    })
    for (const node of this.used) if (node.block === undefined) this.fill(node)
  }

  private fail(what: string): never {
    throw new AlphaError(`kernel ${this.kernel.name}: ${what}`)
  }

  /** Gives the buffers addresses; says which JavaScript buffers the kernel may write. */
  private bind(memory: DeviceMemory): { regions: Map<string, Region>; written: Set<ArrayBufferLike> | "any" } {
    const regions = new Map<string, Region>()
    const written = new Set<ArrayBufferLike>()
    for (const [name, { access }] of Object.entries(this.kernel.buffers)) {
      const view = this.dispatch.buffers[name]
      if (view === undefined) this.fail(`buffer ${name} is missing`)
      if (view.byteOffset % 16 !== 0) this.fail(`buffer ${name} is not aligned to 16 bytes`)
      regions.set(name, memory.find(memory.place(name, view))!)
      if (access !== "read") written.add(view.buffer)
    }
    const byAddress = [...this.used].some((node) => "view" in node && node.view.memory.kind === "address" && node.kind !== "load")
    return { regions, written: byAddress ? "any" : written }
  }

  /** Sets a value that is the same in all workgroups. */
  private fill(node: Node): void {
    const { dispatch, registers } = this
    const type = node.type as Plain
    if (node.kind === "literal") registers.fill(node, type, node.value)
    if (node.kind === "constant") registers.fill(node, type, this.constants[node.constant.name]!)
    if (node.kind === "push" || node.kind === "param") {
      const value = (node.kind === "push" ? dispatch.push : dispatch.params)?.[node.name]
      if (value === undefined) this.fail(`${node.name} is missing`)
      registers.fill(node, type, value)
    }
  }

  run(): void {
    const [x, y = 1, z = 1] = this.dispatch.grid
    const lanes = Array.from({ length: this.size }, (_, lane) => lane)
    if (this.size % this.subgroupSize !== 0)
      this.fail(`a workgroup of ${this.size} is no multiple of the subgroup's ${this.subgroupSize} lanes`)
    for (let group = 0; group < x * y * z; group++) {
      const places = { groupX: group % x, groupY: Math.floor(group / x) % y, groupZ: Math.floor(group / (x * y)), groupsX: x, groupsY: y }
      for (const node of this.used) if (node.kind === "builtin") this.place(node, node.builtin, places)
      for (const cells of this.shared) cells.clear()
      this.accesses.group = group
      this.accesses.sharedEpoch++
      this.accesses.bufferEpoch++
      this.block(this.kernel.recording.root, lanes)
    }
  }

  private place(node: Node, builtin: Builtin, places: Readonly<Record<string, number>>): void {
    const known = places[builtin]
    const register = this.registers.get(node)
    for (let lane = 0; lane < this.size; lane++) {
      if (known !== undefined) register[lane] = known
      else if (builtin === "lane") register[lane] = lane
      else register[lane] = builtin === "subgroup" ? Math.floor(lane / this.subgroupSize) : lane % this.subgroupSize
    }
  }

  /** Runs a block for some lanes; returns those that did not leave a loop in it. */
  private block(block: Block, lanes: Lanes): Lanes {
    let present = lanes
    for (const node of block.nodes) {
      if (present.length === 0) break
      if (this.used.has(node)) present = this.node(node, present)
    }
    return present
  }

  private node(node: Node, lanes: Lanes): Lanes {
    const { registers, accesses } = this
    switch (node.kind) {
      case "operation":
        registers.operation(node, lanes)
        break
      case "select":
        registers.select(node, lanes)
        break
      case "construct":
        registers.construct(node, lanes)
        break
      case "extract":
        registers.extract(node, registers.get(node.args[0]!), (node.args[0]!.type as Plain).size, node.component, lanes)
        break
      case "part":
        accesses.part(node, lanes)
        break
      case "get":
        if (isMatrix(node.type)) {
          this.matrices.get(node, lanes)
          break
        }
        registers.copy(registers.of(node.variable, node.type as Plain), registers.get(node), (node.type as Plain).size, lanes)
        break
      case "set": {
        if (isMatrix(node.variable.type)) {
          this.matrices.set(node.variable, node.args[0]!, lanes)
          break
        }
        const type = node.variable.type as Plain
        registers.copy(registers.get(node.args[0]!), registers.of(node.variable, type), type.size, lanes)
        break
      }
      case "load":
        accesses.load(node, lanes)
        break
      case "store":
        accesses.store(node, lanes)
        break
      case "atomic":
        accesses.atomic(node, lanes)
        break
      case "subgroup":
        registers.subgroup(node, lanes)
        break
      case "barrier":
        if (node.scope !== "subgroup") this.barrier(node.buffers, lanes)
        else registers.together(lanes)
        break
      case "if":
        return this.selection(registers.get(node.args[0]!), node.yes, node.no, lanes)
      case "for":
        this.forLoop(node, lanes)
        break
      case "while":
        this.whileLoop(node, lanes)
        break
      case "break": {
        const leaves = registers.get(node.args[0]!)
        return lanesWhere(lanes, (lane) => !leaves[lane])
      }
      case "matrix":
        this.matrices.run(node, lanes)
    }
    return lanes
  }

  private barrier(buffers: boolean, lanes: Lanes): void {
    if (lanes.length !== this.size) {
      const missing = Array.from({ length: this.size }, (_, lane) => lane).find((lane) => !lanes.includes(lane))
      this.fail(`a barrier is reached by ${lanes.length} of ${this.size} lanes, not by lane ${missing} (workgroup ${this.accesses.group})`)
    }
    this.accesses.sharedEpoch++
    if (buffers) this.accesses.bufferEpoch++
  }

  private selection(condition: Register, yes: Block, no: Block | undefined, lanes: Lanes): Lanes {
    const taken = lanesWhere(lanes, (lane) => Boolean(condition[lane]))
    const rest = taken.length === lanes.length ? [] : lanes.filter((lane) => !condition[lane])
    const [left, right] = [this.block(yes, taken), no === undefined ? rest : this.block(no, rest)]
    return left.length + right.length === lanes.length ? lanes : [...left, ...right].sort((a, b) => a - b)
  }

  private forLoop(node: Node & { readonly kind: "for" }, lanes: Lanes): void {
    const [start, end, step] = node.args.map((arg) => this.registers.get(arg))
    const counter = this.registers.get(node.counter)
    this.registers.copy(start!, counter, 1, lanes)
    let present: Lanes = lanes
    for (let turns = 0; ; turns++) {
      present = lanesWhere(present, (lane) => counter[lane]! < end![lane]!)
      if (present.length === 0) return
      if (turns > ENDLESS) this.fail("a loop does not end")
      present = this.block(node.body, present)
      for (const lane of present) counter[lane] = Number(counter[lane]) + Number(step![lane])
    }
  }

  private whileLoop(node: Node & { readonly kind: "while" }, lanes: Lanes): void {
    let present = lanes
    for (let turns = 0; ; turns++) {
      this.block(node.test, present)
      const condition = this.registers.get(node.condition)
      present = lanesWhere(present, (lane) => Boolean(condition[lane]))
      if (present.length === 0) return
      if (turns > ENDLESS) this.fail("a loop does not end")
      present = this.block(node.body, present)
    }
  }
}
