/** assemble(): a kernel's recording becomes SPIR-V words. */
import { FunctionWriter } from "./spirv-assemble-function.ts"
import { Interface } from "./spirv-assemble-interface.ts"
import { emitMatrix } from "./spirv-assemble-matrix.ts"
import { emitAtomic, emitLoad, emitStore } from "./spirv-assemble-memory.ts"
import { instruction, Module } from "./spirv-assemble-module.ts"
import { typeId } from "./spirv-assemble-type.ts"
import type { Kernel, Variant } from "./spirv-kernel.ts"
import { type Block, type Callback, type Node, needed, type SubgroupName } from "./spirv-node.ts"
import { type CapabilityName, OP, SCOPE } from "./spirv-opcode.ts"
import { type Form, formOf, GROUP_OPERATIONS, type GroupOperation, type GroupOperationName } from "./spirv-operation.ts"
import type { Plain } from "./spirv-type.ts"

export interface Assembled {
  readonly words: Uint32Array<ArrayBuffer>
  readonly capabilities: readonly CapabilityName[]
  /** Features of Vulkan that it needs beyond those of its capabilities. */
  readonly features: readonly string[]
}

/** The SPIR-V 1.6 module of a kernel's variant. The same recording always gives the same words. */
export function assemble(kernel: Kernel, { chosen }: Variant): Assembled {
  const module = new Module()
  const { root } = kernel.recording
  const used = needed(root)
  const writer = new KernelWriter(new Interface(module, kernel, chosen), used)
  // First, because matrix types of workgroup scope may not come before the size of the workgroup.
  const size = typeof kernel.workgroup === "number" ? undefined : [writer.io.extent(kernel.workgroup), module.u32(1), module.u32(1)]
  const main = new FunctionWriter(writer.io)
  writer.block(main, root)
  main.emit(OP.Return)
  const entry = main.finish(module.type(OP.TypeVoid), module.type(OP.TypeFunction, module.type(OP.TypeVoid)))
  module.modes.push(
    ...(size === undefined
      ? instruction(OP.ExecutionMode, [entry, 17, Number(kernel.workgroup), 1, 1]) // LocalSize
      : instruction(OP.ExecutionModeId, [entry, 38, ...size])), // LocalSizeId
  )
  if (size !== undefined) module.features.add("maintenance4")
  return { words: module.words(entry), capabilities: [...module.capabilities].sort(), features: [...module.features].sort() }
}

const VOTES: Partial<Record<SubgroupName, { readonly code: number; readonly needs: CapabilityName }>> = {
  elect: { code: 333, needs: "GroupNonUniform" },
  all: { code: 334, needs: "GroupNonUniformVote" },
  any: { code: 335, needs: "GroupNonUniformVote" },
  broadcast: { code: 337, needs: "GroupNonUniformBallot" },
  ballot: { code: 339, needs: "GroupNonUniformBallot" },
  shuffle: { code: 345, needs: "GroupNonUniformShuffle" },
  shuffleXor: { code: 346, needs: "GroupNonUniformShuffle" },
}

interface Loop {
  readonly body: Block
  /** Recorded before the condition. */
  readonly test?: Block
  readonly condition: () => number
  readonly begin?: (again: number) => void
  readonly advance?: () => void
  readonly unroll?: boolean
}

class KernelWriter {
  private readonly callbacks = new Map<Callback, number>()

  constructor(
    readonly io: Interface,
    private readonly used: ReadonlySet<Node>,
  ) {}

  block(fn: FunctionWriter, block: Block): void {
    for (const node of block.nodes) if (this.used.has(node)) this.node(fn, node)
  }

  private node(fn: FunctionWriter, node: Node): void {
    const id = this.valueOf(fn, node)
    if (id === undefined) this.statement(fn, node)
    else fn.ids.set(node, id)
  }

  /** The id of what a node computes; undefined when it is a statement, or a load, which names its results itself. */
  private valueOf(fn: FunctionWriter, node: Node): number | undefined {
    const { module } = this.io
    const type = () => typeId(this.io, node.type!)
    const args = () => node.args.map((arg) => fn.id(arg))
    switch (node.kind) {
      case "operation":
        return this.operation(fn, node, formOf(node.name, (node.args[0]!.type as Plain).scalar)!)
      case "select":
        return fn.value(OP.Select, type(), ...args())
      case "construct":
        if (node.args.every(({ kind }) => kind === "literal")) return module.constant(OP.ConstantComposite, type(), ...args())
        return fn.value(OP.CompositeConstruct, type(), ...args())
      case "extract":
        return fn.value(OP.CompositeExtract, type(), ...args(), node.component)
      case "part":
        return fn.parts.get(node.args[0]!)![node.component]!
      case "get":
        return fn.value(OP.Load, type(), fn.variable(node.variable))
      case "subgroup":
        return this.subgroup(fn, node.name, node.type as Plain, node.args)
      default:
        return undefined
    }
  }

  private statement(fn: FunctionWriter, node: Node): void {
    switch (node.kind) {
      case "set":
        fn.emit(OP.Store, fn.variable(node.variable), fn.id(node.args[0]!))
        break
      case "load":
        emitLoad(fn, node)
        break
      case "store":
        emitStore(fn, node)
        break
      case "atomic":
        emitAtomic(fn, node)
        break
      case "barrier":
        this.barrier(fn, node)
        break
      case "if":
        this.selection(fn, fn.id(node.args[0]!), node.yes, node.no)
        break
      case "for":
        this.forLoop(fn, node)
        break
      case "while":
        this.loop(fn, { ...node, condition: () => fn.id(node.condition) })
        break
      case "break":
        this.breakIf(fn, fn.id(node.args[0]!))
        break
      case "matrix":
        emitMatrix(
          fn,
          node,
          (callback) => this.callback(callback),
          (callback, ids) => this.inline(fn, callback, ids),
        )
    }
  }

  private barrier(fn: FunctionWriter, { buffers, scope: wanted }: Node & { readonly kind: "barrier" }): void {
    const { module } = this.io
    const scope = module.u32(wanted === "subgroup" ? SCOPE.Subgroup : SCOPE.Workgroup)
    // AcquireRelease | WorkgroupMemory | MakeAvailable | MakeVisible, and UniformMemory for buffers.
    fn.emit(OP.ControlBarrier, scope, scope, module.u32(0x6108 | (buffers ? 0x40 : 0)))
  }

  private operation(fn: FunctionWriter, node: Node, { code, glsl, high, packs }: Form): number {
    const { module } = this.io
    const type = typeId(this.io, node.type!)
    const args = node.args.map((arg) => fn.id(arg))
    if (packs) return this.packed(fn, args)
    if (glsl) return fn.value(OP.ExtInst, type, module.glsl, code, ...args)
    if (!high) return fn.value(code, type, ...args)
    const pair = module.once(`pair of ${type}`, () => module.struct([type, type]))
    return fn.value(OP.CompositeExtract, type, fn.value(code, pair, ...args), 1)
  }

  /** Two f32 as a word of two bf16. */
  private packed(fn: FunctionWriter, args: readonly number[]): number {
    const { module } = this.io
    module.capabilities.add("BFloat16TypeKHR")
    const narrow = module.type(OP.TypeVector, module.type(OP.TypeFloat, 16, 0), 2)
    const pair = fn.value(OP.CompositeConstruct, module.plain({ scalar: "f32", size: 2 }), ...args)
    return fn.value(OP.Bitcast, module.scalar("u32"), fn.value(OP.FConvert, narrow, pair))
  }

  private subgroup(fn: FunctionWriter, name: SubgroupName, type: Plain, args: readonly Node[]): number {
    const { module } = this.io
    const scope = module.u32(SCOPE.Subgroup)
    const ids = args.map((arg) => fn.id(arg))
    const vote = VOTES[name]
    module.capabilities.add("GroupNonUniform")
    if (vote !== undefined) {
      module.capabilities.add(vote.needs)
      return fn.value(vote.code, module.plain(type), scope, ...ids)
    }
    const { group, codes }: GroupOperation = GROUP_OPERATIONS[name as GroupOperationName]
    module.capabilities.add("GroupNonUniformArithmetic")
    return fn.value(codes[type.scalar]!, module.plain(type), scope, group, ...ids)
  }

  private selection(fn: FunctionWriter, condition: number, yes: Block, no: Block | undefined): void {
    const [yesLabel, merge] = [fn.module.fresh(), fn.module.fresh()]
    const noLabel = no === undefined ? merge : fn.module.fresh()
    fn.emit(OP.SelectionMerge, merge, 0)
    fn.emit(OP.BranchConditional, condition, yesLabel, noLabel)
    fn.begin(yesLabel)
    this.block(fn, yes)
    fn.emit(OP.Branch, merge)
    if (no !== undefined) {
      fn.begin(noLabel)
      this.block(fn, no)
      fn.emit(OP.Branch, merge)
    }
    fn.begin(merge)
  }

  /** Where breakIf of the innermost loop goes. */
  private exit = 0

  private forLoop(fn: FunctionWriter, node: Node & { readonly kind: "for" }): void {
    const { module } = this.io
    const [start, end, step] = node.args.map((arg) => fn.id(arg))
    const u32 = module.scalar("u32")
    const [counter, next] = [module.fresh(), module.fresh()]
    fn.ids.set(node.counter, counter)
    const before = fn.label
    this.loop(fn, {
      ...node,
      condition: () => fn.value(OP.ULessThan, module.scalar("bool"), counter, end!),
      begin: (again) => fn.emit(OP.Phi, u32, counter, start!, before, next, again),
      advance: () => fn.emit(OP.IAdd, u32, next, counter, step!),
    })
  }

  /** header (begin) → test (condition) → body → again (advance) → header. */
  private loop(fn: FunctionWriter, { unroll, test, condition, body, begin, advance }: Loop): void {
    const fresh = () => fn.module.fresh()
    const [header, testing, inside, again, merge] = [fresh(), fresh(), fresh(), fresh(), fresh()]
    fn.emit(OP.Branch, header)
    fn.begin(header)
    begin?.(again)
    fn.emit(OP.LoopMerge, merge, again, unroll === true ? 1 : 0)
    fn.emit(OP.Branch, testing)
    fn.begin(testing)
    if (test !== undefined) this.block(fn, test)
    fn.emit(OP.BranchConditional, condition(), inside, merge)
    fn.begin(inside)
    const outer = this.exit
    this.exit = merge
    this.block(fn, body)
    this.exit = outer
    fn.emit(OP.Branch, again)
    fn.begin(again)
    advance?.()
    fn.emit(OP.Branch, header)
    fn.begin(merge)
  }

  private breakIf(fn: FunctionWriter, condition: number): void {
    const [leave, stay] = [fn.module.fresh(), fn.module.fresh()]
    fn.emit(OP.SelectionMerge, stay, 0)
    fn.emit(OP.BranchConditional, condition, leave, stay)
    fn.begin(leave)
    fn.emit(OP.Branch, this.exit)
    fn.begin(stay)
  }

  /** A callback's code, as part of another function; returns the id of its result. */
  private inline(fn: FunctionWriter, callback: Callback, ids: readonly number[]): number {
    callback.parameters.forEach((node, i) => {
      fn.ids.set(node, ids[i]!)
    })
    this.block(fn, callback.root)
    return fn.id(callback.result)
  }

  private callback(callback: Callback): number {
    const known = this.callbacks.get(callback)
    if (known !== undefined) return known
    const { module } = this.io
    const fn = new FunctionWriter(this.io)
    const types = callback.parameters.map(({ type }) => typeId(this.io, type!))
    const parameters = callback.parameters.flatMap((node, i) => {
      const id = module.fresh()
      fn.ids.set(node, id)
      return instruction(OP.FunctionParameter, [types[i]!, id])
    })
    this.block(fn, callback.root)
    fn.emit(OP.ReturnValue, fn.id(callback.result))
    const result = typeId(this.io, callback.result.type!)
    const id = fn.finish(result, module.type(OP.TypeFunction, result, ...types), parameters)
    this.callbacks.set(callback, id)
    return id
  }
}
