/** Values of all lanes of a workgroup, and the operations over them. */
import { AlphaError } from "./base-error.ts"
import type { Node, SubgroupName } from "./spirv-node.ts"
import { formOf, GROUP_OPERATIONS, type GroupOperation, type GroupOperationName, type OperationName } from "./spirv-operation.ts"
import type { Plain, ScalarName } from "./spirv-type.ts"

const ARRAYS = { bool: Uint8Array, u32: Uint32Array, i32: Int32Array, u64: BigUint64Array, f32: Float32Array } as const
/** Component c of lane l at [l · size + c]; the array's type rounds f32 and wraps integers. */
export type Register = Record<number, number | bigint>
export type Lanes = readonly number[]

/** Operations that some second operands leave undefined. */
const PARTIAL: ReadonlySet<OperationName> = new Set(["div", "mod", "shl", "shr"])

type Binary = (a: number, b: number) => number

// The same loop three times: a JavaScript engine makes one fast that meets arrays of one kind only.
function ofFloats(js: Binary, out: Float32Array, a: Float32Array, b: Float32Array, size: number, lanes: Lanes): void {
  for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) out[i] = js(a[i]!, b[i]!)
}
function ofWords(js: Binary, out: Uint32Array, a: Uint32Array, b: Uint32Array, size: number, lanes: Lanes): void {
  for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) out[i] = js(a[i]!, b[i]!)
}
function testWords(js: Binary, out: Uint8Array, a: Uint32Array, b: Uint32Array, size: number, lanes: Lanes): void {
  for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) out[i] = js(a[i]!, b[i]!)
}
type Wrong = (x: number | bigint) => boolean

/** The first lane that has a wrong number; words apart from the others, as above. */
function findWord(b: Uint32Array, wrong: Wrong, size: number, lanes: Lanes): number | undefined {
  for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) if (wrong(b[i]!)) return lane
  return undefined
}
function findOther(b: Register, wrong: Wrong, size: number, lanes: Lanes): number | undefined {
  for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) if (wrong(b[i]!)) return lane
  return undefined
}

export class Registers {
  private readonly known = new Map<unknown, Register>()

  constructor(
    private readonly kernel: string,
    /** Lanes per workgroup. */
    readonly size: number,
    private readonly subgroupSize: number,
  ) {}

  /** The register of a node or variable. */
  of(key: unknown, { scalar, size }: { readonly scalar: ScalarName; readonly size: number }): Register {
    const known = this.known.get(key)
    if (known !== undefined) return known
    const register = new ARRAYS[scalar](this.size * size) as unknown as Register
    this.known.set(key, register)
    return register
  }
  get(node: Node): Register {
    return this.of(node, node.type as Plain)
  }
  fill(key: unknown, type: Plain, value: number | boolean | bigint): void {
    const register = this.of(key, type) as unknown as number[]
    register.fill(type.scalar === "u64" ? (BigInt(value) as never) : Number(value))
  }

  copy(from: Register, to: Register, size: number, lanes: Lanes): void {
    if (lanes.length === this.size) (to as unknown as Float32Array).set(from as unknown as Float32Array)
    else for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) to[i] = from[i]!
  }

  private fail(what: string, lane: number): never {
    throw new AlphaError(`kernel ${this.kernel}: ${what} (lane ${lane})`)
  }

  operation(node: Node & { readonly name: OperationName }, lanes: Lanes): void {
    const { scalar, size } = node.args[0]!.type as Plain
    const js = formOf(node.name, scalar)!.js as unknown as (...operands: (number | bigint)[]) => number | bigint
    const out = this.get(node)
    const a = this.get(node.args[0]!)
    if (node.args.length === 1) {
      for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) out[i] = js(a[i]!)
      return
    }
    const b = this.get(node.args[1]!)
    if (node.args.length === 3) {
      const c = this.get(node.args[2]!)
      for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) out[i] = js(a[i]!, b[i]!, c[i]!)
      return
    }
    this.check(node.name, scalar, size, b, lanes)
    if (a instanceof Float32Array && out instanceof Float32Array) ofFloats(js as Binary, out, a, b as Float32Array, size, lanes)
    else if (a instanceof Uint32Array && out instanceof Uint32Array) ofWords(js as Binary, out, a, b as Uint32Array, size, lanes)
    else if (a instanceof Uint32Array && out instanceof Uint8Array) testWords(js as Binary, out, a, b as Uint32Array, size, lanes)
    else for (const lane of lanes) for (let i = lane * size; i < (lane + 1) * size; i++) out[i] = js(a[i]!, b[i]!)
  }

  /** Division by zero and shifts by the width or more are undefined on a device. */
  private check(name: OperationName, scalar: ScalarName, size: number, b: Register, lanes: Lanes): void {
    if (scalar === "f32" || !PARTIAL.has(name)) return
    const width = scalar === "u64" ? 64 : 32
    const wrong =
      name === "div" || name === "mod" ? (x: number | bigint) => Number(x) === 0 : (x: number | bigint) => !(x < width && x >= 0)
    const lane = b instanceof Uint32Array ? findWord(b, wrong, size, lanes) : findOther(b, wrong, size, lanes)
    if (lane === undefined) return
    const value = Array.from({ length: size }, (_, c) => b[lane * size + c]!).find(wrong)
    this.fail(name === "div" || name === "mod" ? `${name} by zero` : `${name} by ${value}`, lane)
  }

  select(node: Node, lanes: Lanes): void {
    const { size } = node.type as Plain
    const [condition, yes, no] = node.args.map((arg) => this.get(arg))
    const perLane = (node.args[0]!.type as Plain).size === 1
    const out = this.get(node)
    for (const lane of lanes)
      for (let i = lane * size; i < (lane + 1) * size; i++) out[i] = (condition![perLane ? lane : i] ? yes : no)![i]!
  }

  construct(node: Node, lanes: Lanes): void {
    const { size } = node.type as Plain
    const out = this.get(node)
    node.args.forEach((arg, component) => {
      const from = this.get(arg)
      for (const lane of lanes) out[lane * size + component] = from[lane]!
    })
  }

  /** One component of `from`, which has `size` per lane. */
  extract(node: Node, from: Register, size: number, component: number, lanes: Lanes): void {
    const out = this.get(node)
    for (const lane of lanes) out[lane] = from[lane * size + component]!
  }

  /** Lanes grouped by subgroup; throws when part of a subgroup is elsewhere. */
  private subgroups(name: SubgroupName | "barrier", lanes: Lanes): Lanes[] {
    const groups = new Map<number, number[]>()
    for (const lane of lanes) {
      const group = Math.floor(lane / this.subgroupSize)
      if (!groups.has(group)) groups.set(group, [])
      groups.get(group)!.push(lane)
    }
    for (const [group, present] of groups) {
      if (present.length !== this.subgroupSize)
        this.fail(`subgroup ${name} reached by ${present.length} of the ${this.subgroupSize} lanes of subgroup ${group}`, present[0]!)
    }
    return [...groups.values()]
  }

  /** Throws unless the subgroups are whole. */
  together(lanes: Lanes): void {
    this.subgroups("barrier", lanes)
  }

  subgroup(node: Node & { readonly name: SubgroupName }, lanes: Lanes): void {
    for (const present of this.subgroups(node.name, lanes)) {
      if (node.name in GROUP_OPERATIONS) this.reduce(node, GROUP_OPERATIONS[node.name as GroupOperationName], present)
      else this.exchange(node, present)
    }
  }

  private reduce(node: Node, { group, combine, identity }: GroupOperation, lanes: Lanes): void {
    const { scalar, size } = node.type as Plain
    const [from, out] = [this.get(node.args[0]!), this.get(node)]
    const rounded = new ARRAYS[scalar as "f32"](1)
    const join = (a: number, b: number): number => {
      rounded[0] = combine(a, b)
      return rounded[0]!
    }
    for (let c = 0; c < size; c++) {
      const values = lanes.map((lane) => Number(from[lane * size + c]))
      let running = identity[scalar]!
      lanes.forEach((lane, i) => {
        if (group === 2) out[lane * size + c] = running
        running = join(running, values[i]!)
        if (group === 1) out[lane * size + c] = running
      })
      if (group === 0) {
        const total = tree(values, join)
        for (const lane of lanes) out[lane * size + c] = total
      }
    }
  }

  private exchange(node: Node & { readonly name: SubgroupName }, lanes: Lanes): void {
    const { size } = (node.args[0]?.type as Plain | undefined) ?? { size: 1 }
    const [from, choice] = node.args.map((arg) => this.get(arg))
    const out = this.get(node)
    const votes = () => lanes.map((lane) => Boolean(from![lane]))
    lanes.forEach((lane, i) => {
      if (node.name === "elect") out[lane] = i === 0 ? 1 : 0
      else if (node.name === "any") out[lane] = votes().some(Boolean) ? 1 : 0
      else if (node.name === "all") out[lane] = votes().every(Boolean) ? 1 : 0
      else if (node.name === "ballot")
        ballot(votes()).forEach((bits, c) => {
          out[lane * 4 + c] = bits
        })
      else {
        const source = node.name === "shuffleXor" ? (i ^ Number(choice![lane])) >>> 0 : Number(choice![lane])
        if (source >= this.subgroupSize) this.fail(`${node.name} from lane ${source} of a subgroup of ${this.subgroupSize}`, lane)
        if (node.name === "broadcast" && choice![lane] !== choice![lanes[0]!]) this.fail("broadcast from several lanes", lane)
        for (let c = 0; c < size; c++) out[lane * size + c] = from![lanes[source]! * size + c]!
      }
    })
  }
}

/** Combines neighbours, then neighbouring pairs, and so on: what a butterfly of shuffles does. */
function tree(values: readonly number[], join: (a: number, b: number) => number): number {
  let level = [...values]
  while (level.length > 1) level = Array.from({ length: level.length / 2 }, (_, i) => join(level[2 * i]!, level[2 * i + 1]!))
  return level[0]!
}

/** One bit per lane in four words. */
function ballot(votes: readonly boolean[]): number[] {
  const words = [0, 0, 0, 0]
  votes.forEach((vote, i) => {
    if (vote) words[i >> 5] = (words[i >> 5]! | (1 << (i & 31))) >>> 0
  })
  return words
}
