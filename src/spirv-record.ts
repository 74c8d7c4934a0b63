/** The recorder: appends nodes to the current block, once each, and refuses what cannot be a kernel. */
import { AlphaError } from "./base-error.ts"
import { Block, type Callback, type Detail, isPlain, type Node, type SharedMemory, sources } from "./spirv-node.ts"
import { formOf, OPERATIONS, type Operation, type OperationName } from "./spirv-operation.ts"
import { bool, type Plain, plain, type ScalarName, type Type, typeName, u32 } from "./spirv-type.ts"

const RANGES: Partial<Record<ScalarName, readonly [number, number]>> = {
  u32: [0, 0xffffffff],
  i32: [-0x80000000, 0x7fffffff],
  u64: [0, Number.MAX_SAFE_INTEGER],
}
const ARRAYS = { bool: Uint8Array, u32: Uint32Array, i32: Int32Array, f32: Float32Array } as const

export class Recorder {
  block = new Block(undefined)
  readonly shared: SharedMemory[] = []
  exchangesBuffers = false
  /** Functions by what they were recorded from, so that each is one in SPIR-V. */
  readonly callbacks = new Map<unknown, readonly Callback[]>()
  private count = 0
  private readonly globals = new Map<string, Node>()

  constructor(readonly kernel: string) {}

  fail(message: string, hint?: string): never {
    throw new AlphaError(`kernel ${this.kernel}: ${message}`, { hint })
  }

  /** Appends a node to the current block. Throws when an operand was computed in a block that does not enclose it. */
  add(detail: Detail, type: Type | undefined, args: readonly Node[] = []): Node {
    for (const { block, kind } of "variable" in detail ? [...args, { ...detail.variable, kind: "k.var" }] : sources({ ...detail, args })) {
      if (block !== undefined && !this.block.isWithin(block))
        this.fail(
          `a value (${kind}) is used outside the block it was computed in`,
          "carry it out in a k.var, or pass it as an operand of map",
        )
    }
    const node = { ...detail, number: this.count++, type, args, block: this.block }
    this.block.nodes.push(node)
    return node
  }

  /** A value that depends on its operands only: the same one where an enclosing block already has it. */
  pure(detail: Detail, type: Type, args: readonly Node[]): Node {
    const { kind, ...rest } = detail
    const key = `${kind} ${Object.values(rest)} ${args.map(({ number }) => number)}`
    const found = this.block.find(key)
    if (found !== undefined) return found
    const node = this.add(detail, type, args)
    this.block.known.set(key, node)
    return node
  }

  /** A value that is the same everywhere in the kernel. */
  global(key: string, detail: Detail, type: Type): Node {
    const found = this.globals.get(key)
    if (found !== undefined) return found
    const node: Node = { ...detail, number: this.count++, type, args: [], block: undefined }
    this.globals.set(key, node)
    return node
  }

  literal(type: Plain, value: number | boolean): Node {
    const { scalar } = type
    if (typeof value !== (scalar === "bool" ? "boolean" : "number")) this.fail(`${value} is no ${scalar}`)
    const range = RANGES[scalar]
    if (range !== undefined && !(Number.isInteger(value) && Number(value) >= range[0] && Number(value) <= range[1]))
      this.fail(`${value} is no ${scalar}`)
    const one = plain(scalar, 1)
    const exact = scalar === "f32" ? Math.fround(value as number) : value
    const node = this.global(`${scalar} ${Object.is(exact, -0) ? "-0" : exact}`, { kind: "literal", value: exact }, one)
    return this.splat(node, type)
  }

  private splat(node: Node, type: Plain): Node {
    return type.size === 1 ? node : this.pure({ kind: "construct" }, type, Array(type.size).fill(node))
  }

  /** A node or TypeScript literal as an operand of type `type`; a scalar beside a vector is repeated. */
  operand(value: Node | number | boolean, type: Plain): Node {
    if (typeof value !== "object") return this.literal(type, value)
    if (value.type === type) return value
    if (isPlain(value.type) && value.type === plain(type.scalar, 1)) return this.splat(value, type)
    return this.fail(`${isPlain(value.type) ? typeName(value.type) : "a matrix"} where ${typeName(type)} is needed`)
  }

  operation(name: OperationName, first: Node, rest: readonly (Node | number | boolean)[]): Node {
    const type = first.type
    if (!isPlain(type)) this.fail(`${name} of a matrix`)
    const form = formOf(name, type.scalar)
    if (form === undefined) this.fail(`${name} is not defined for ${type.scalar}`)
    const { result } = OPERATIONS[name] as Operation
    const args = [first, ...rest.map((value) => this.operand(value, type))]
    const resultType = result === "same" ? type : plain(result, type.size)
    return this.folded(name, args, resultType) ?? this.pure({ kind: "operation", name }, resultType, args)
  }

  /** The result where it is known while recording: of literals, and of +0, −0, ·1, /1 and shifts by 0 on integers. */
  private folded(name: OperationName, args: readonly Node[], type: Plain): Node | undefined {
    const values = args.map((arg) => (arg.kind === "literal" ? arg.value : undefined))
    const { scalar } = args[0]!.type as Plain
    if (type.size > 1 || scalar === "u64" || type.scalar === "u64") return undefined
    if (values.every((value) => value !== undefined)) {
      const js = formOf(name, scalar)!.js as (...operands: unknown[]) => number
      const slot = new ARRAYS[type.scalar as keyof typeof ARRAYS](1)
      slot[0] = js(...values.map(Number))
      return this.literal(type, type === bool ? slot[0] !== 0 : slot[0]!)
    }
    if (scalar === "f32" || scalar === "bool") return undefined
    const [left, right] = values
    if (right === 0 && ["add", "sub", "shl", "shr"].includes(name)) return args[0]
    if (right === 1 && ["mul", "div"].includes(name)) return args[0]
    if ((name === "add" && left === 0) || (name === "mul" && left === 1)) return args[1]
    return undefined
  }

  select(condition: Node, yes: Node, no: Node): Node {
    return this.pure({ kind: "select" }, yes.type!, [condition, yes, no])
  }

  extract(of: Node, component: number): Node {
    if (of.kind === "construct") return of.args[component]!
    return this.pure({ kind: "extract", component }, plain((of.type as Plain).scalar, 1), [of])
  }

  /** Records what `body` does in a block of its own inside `parent`; with no parent it sees nothing of its surroundings. */
  inside(parent: Block | undefined, body: () => void): Block {
    const outer = this.block
    const block = new Block(parent)
    this.block = block
    try {
      body()
    } finally {
      this.block = outer
    }
    return block
  }

  index(value: Node | number): Node {
    const node = typeof value === "number" ? this.literal(u32, value) : value
    if (isPlain(node.type) && node.type.size === 1 && (node.type.scalar === "u32" || node.type.scalar === "u64")) return node
    return this.fail("an element number must be u32 or u64")
  }
}
