/** Cooperative matrices of a simulated workgroup: one value for all lanes that hold a matrix together. */
import { AlphaError } from "./base-error.ts"
import { type Block, type Callback, isMatrix, type MatrixDetail, type Node, type Variable, type View } from "./spirv-node.ts"
import type { Accesses } from "./spirv-simulate-access.ts"
import type { Lanes, Register, Registers } from "./spirv-simulate-lanes.ts"
import { bf16Cut, bf16Rounded, codec } from "./spirv-simulate-memory.ts"
import { bf16, bytesOf, type Extent, f32, type MatrixType, type TensorType } from "./spirv-type.ts"

type MatrixNode = Node & { readonly kind: "matrix" } & MatrixDetail

/** Lanes that hold a matrix together; `number` tells them apart. */
interface Holders {
  readonly number: number
  readonly lanes: Lanes
}

/** A shape in memory, and the part of it that is touched. */
interface Layout {
  readonly shape: readonly number[]
  readonly strides: readonly number[]
  readonly from: readonly number[]
  readonly span: readonly number[]
}

/** What matrices need of the simulation around them. */
export interface MatrixHost {
  readonly kernel: string
  readonly registers: Registers
  readonly accesses: Accesses
  readonly subgroupSize: number
  extent(size: Extent): number
  /** Runs a callback's block for some lanes. */
  block(block: Block, lanes: Lanes): void
}

const ARITHMETIC = {
  add: (a: number, b: number) => a + b,
  sub: (a: number, b: number) => a - b,
  mul: (a: number, b: number) => a * b,
  div: (a: number, b: number) => a / b,
} as const

export class MatrixSimulation {
  /** By node or variable and holders. */
  private readonly values = new Map<unknown, Map<number, Float32Array>>()
  private readonly tensors = new Map<Node, Map<number, Layout>>()

  constructor(private readonly host: MatrixHost) {}

  private fail(what: string, lane: number): never {
    throw new AlphaError(`kernel ${this.host.kernel}: ${what} (lane ${lane})`)
  }

  /** The groups of lanes that hold matrices of this scope; all of each must be here. */
  private holders(scope: MatrixType["scope"], lanes: Lanes): Holders[] {
    const { registers, subgroupSize } = this.host
    if (scope === "workgroup") {
      if (lanes.length !== registers.size) this.fail(`a matrix operation reached by ${lanes.length} of ${registers.size} lanes`, lanes[0]!)
      return [{ number: -1, lanes }]
    }
    const groups = Map.groupBy(lanes, (lane) => Math.floor(lane / subgroupSize))
    return [...groups].map(([number, own]) => {
      if (own.length !== subgroupSize) this.fail(`a matrix operation reached by ${own.length} lanes of subgroup ${number}`, own[0]!)
      return { number, lanes: own }
    })
  }

  private keep(key: unknown, number: number, value: Float32Array): void {
    if (!this.values.has(key)) this.values.set(key, new Map())
    this.values.get(key)!.set(number, value)
  }
  private valueOf(key: unknown, number: number): Float32Array {
    return this.values.get(key)!.get(number)!
  }

  private size({ rows, columns }: MatrixType): readonly [rows: number, columns: number] {
    return [this.host.extent(rows), this.host.extent(columns)]
  }

  /** The number that all of these lanes must have. */
  private same(node: Node, lanes: Lanes): number {
    const register = this.host.registers.get(node)
    const first = lanes[0]!
    for (const lane of lanes)
      if (register[lane] !== register[first]) this.fail("an operand of a matrix operation differs among its lanes", lane)
    return Number(register[first])
  }

  get(node: Node & { readonly kind: "get" }, lanes: Lanes): void {
    for (const { number } of this.holders((node.type as MatrixType).scope, lanes))
      this.keep(node, number, this.valueOf(node.variable, number))
  }
  set(variable: Variable, from: Node, lanes: Lanes): void {
    for (const { number } of this.holders((variable.type as MatrixType).scope, lanes))
      this.keep(variable, number, this.valueOf(from, number))
  }

  run(node: MatrixNode, lanes: Lanes): void {
    if (node.does === "tensor" || node.does === "slice") {
      this.layout(node, lanes)
      return
    }
    const type = (node.type ?? node.args.find((arg) => isMatrix(arg.type))!.type) as MatrixType
    for (const held of this.holders(type.scope, lanes)) {
      const result = this.result(node, type, held)
      if (result !== undefined) this.keep(node, held.number, type.element === "bf16" ? result.map(bf16Rounded) : result)
    }
  }

  private result(node: MatrixNode, type: MatrixType, held: Holders): Float32Array | undefined {
    const [rows, columns] = this.size(type)
    const matrix = (i: number) => this.valueOf(node.args[i], held.number)
    switch (node.does) {
      case "splat":
        return new Float32Array(rows * columns).fill(this.same(node.args[0]!, held.lanes))
      case "mulAdd": {
        const [inner] = this.size(node.args[1]!.type as MatrixType)
        return multiply(matrix(0), matrix(1), matrix(2), inner, columns)
      }
      case "arithmetic": {
        if (node.op === "neg") return matrix(0).map((value) => -value)
        const [other, combine] = [matrix(1), ARITHMETIC[node.op]]
        return matrix(0).map((value, i) => combine(value, other[i]!))
      }
      case "scale": {
        const factor = this.same(node.args[1]!, held.lanes)
        return matrix(0).map((value) => value * factor)
      }
      case "convert":
        return type.element === "bf16" ? matrix(0).map(bf16Cut) : matrix(0) // to nearest or towards zero, as the driver likes
      case "map":
      case "each":
        return this.map(node, held, columns)
      case "reduce":
        return this.reduce(node, node.callback, node.along, held, [rows, columns])
      case "load":
      case "store":
        return this.plainAccess(node, type, held, [rows, columns])
      case "loadTensor":
      case "storeTensor":
        return this.tensorAccess(node, type, held, [rows, columns])
    }
    return undefined
  }

  /** A callback's results for `count` calls, as many at once as the workgroup has lanes; `set` gives the parameters of call i to a lane. */
  private call(callback: Callback, count: number, set: (registers: readonly Register[], lane: number, i: number) => void): Float32Array {
    const { registers } = this.host
    const parameters = callback.parameters.map((node) => registers.get(node))
    const out = new Float32Array(count)
    for (let start = 0; start < count; start += registers.size) {
      const lanes = Array.from({ length: Math.min(registers.size, count - start) }, (_, lane) => lane)
      for (const lane of lanes) set(parameters, lane, start + lane)
      this.host.block(callback.root, lanes)
      const result = registers.get(callback.result)
      for (const lane of lanes) out[start + lane] = Number(result[lane])
    }
    return out
  }

  private map(node: MatrixNode & { readonly does: "map" | "each" }, held: Holders, columns: number): Float32Array {
    const [given, ...operands] = node.args
    const from = this.valueOf(given, held.number)
    const sources = operands.map((operand) =>
      isMatrix(operand.type) ? this.valueOf(operand, held.number) : this.same(operand, held.lanes),
    )
    return this.call(node.callback, from.length, (parameters, lane, i) => {
      const elements = [from[i]!, ...sources.map((source) => (typeof source === "number" ? source : source[i]!))]
      ;(node.does === "map" ? [Math.floor(i / columns), i % columns, ...elements] : elements).forEach((value, p) => {
        parameters[p]![lane] = value
      })
    })
  }

  private reduce(node: Node, callback: Callback, along: "row" | "column", held: Holders, [rows, columns]: readonly [number, number]) {
    const from = this.valueOf(node.args[0], held.number)
    const [height, width] = this.size(node.args[0]!.type as MatrixType)
    const [lines, length] = along === "row" ? [height, width] : [width, height]
    const at = (line: number, i: number) => from[along === "row" ? line * width + i : i * width + line]!
    let totals = Float32Array.from({ length: lines }, (_, line) => at(line, 0))
    for (let i = 1; i < length; i++) {
      const before = totals
      totals = this.call(callback, lines, ([a, b], lane, line) => {
        a![lane] = before[line]!
        b![lane] = at(line, i)
      }) as Float32Array<ArrayBuffer>
    }
    return Float32Array.from({ length: rows * columns }, (_, i) => totals[along === "row" ? Math.floor(i / columns) : i % columns]!)
  }

  private codec(type: MatrixType) {
    return codec(type.element === "bf16" ? bf16 : f32)
  }

  /** KHR loads and stores: rows or columns `stride` elements of the memory apart. */
  private plainAccess(
    node: MatrixNode & { readonly does: "load" | "store"; readonly view: View },
    type: MatrixType,
    { number, lanes }: Holders,
    [rows, columns]: readonly [number, number],
  ): Float32Array | undefined {
    const { accesses } = this.host
    const [index, stride] = [this.same(node.args[0]!, lanes), this.same(node.args[1]!, lanes)]
    const { read, write, bytes } = this.codec(type)
    const cell = bytesOf(accesses.typeOf(node.view))
    const [first, pitch] = [index * cell, stride * cell]
    if (first % 16 !== 0 || pitch % 16 !== 0)
      this.fail(`a matrix in ${node.view.memory.name} at byte ${first}, stride ${pitch}: not aligned to 16`, lanes[0]!)
    const isRows = node.layout === "row"
    const [lines, length] = isRows ? [rows, columns] : [columns, rows]
    const given = node.does === "store" ? this.valueOf(node.args[2], number) : undefined
    const out = new Float32Array(rows * columns)
    for (let line = 0; line < lines; line++) {
      const does = given === undefined ? "read" : "write"
      const { data, at } = accesses.span(node.view, first + line * pitch, length * bytes, does, lanes[0]!)
      for (let i = 0; i < length; i++) {
        const place = isRows ? line * columns + i : i * columns + line
        if (given === undefined) out[place] = Number(read(data, at + i * bytes))
        else write(data, at + i * bytes, given[place]!)
      }
    }
    return given === undefined ? out : undefined
  }

  private layout(node: MatrixNode & { readonly does: "tensor" | "slice" }, lanes: Lanes): void {
    const { subgroupSize } = this.host
    const { rank } = node.type as TensorType
    // A layout has no scope of its own: it is kept for the workgroup and for each subgroup, whose lanes must agree when it is used.
    const groups = Map.groupBy(lanes, (lane) => Math.floor(lane / subgroupSize))
    const all = [...groups].map(([number, own]) => [number, own] as const)
    const kept = this.tensors.get(node) ?? new Map<number, Layout>()
    this.tensors.set(node, kept)
    for (const [number, own] of all) {
      const numbers = node.args.filter(({ type }) => type !== undefined && "scalar" in type).map((arg) => this.same(arg, own))
      if (node.does === "tensor") {
        const shape = numbers.slice(0, rank)
        const dense = shape.map((_, i) => shape.slice(i + 1).reduce((product, size) => product * size, 1))
        kept.set(number, { shape, strides: node.hasStrides ? numbers.slice(rank) : dense, from: shape.map(() => 0), span: shape })
      } else {
        const before = this.tensors.get(node.args[0]!)!.get(number)!
        const from = before.from.map((start, i) => start + numbers[2 * i]!)
        kept.set(number, { ...before, from, span: before.span.map((_, i) => numbers[2 * i + 1]!) })
      }
    }
  }

  /** Loads and stores by tensor addressing. */
  private tensorAccess(
    node: MatrixNode & { readonly does: "loadTensor" | "storeTensor"; readonly view: View },
    type: MatrixType,
    { number, lanes }: Holders,
    [rows, columns]: readonly [number, number],
  ): Float32Array | undefined {
    const { accesses, subgroupSize } = this.host
    const subgroups = [...new Set(lanes.map((lane) => Math.floor(lane / subgroupSize)))]
    const layouts = subgroups.map((subgroup) => this.tensors.get(node.args[1]!)!.get(subgroup)!)
    const [layout] = layouts as [Layout]
    if (layouts.some((other) => JSON.stringify(other) !== JSON.stringify(layout))) this.fail("a tensor differs among lanes", lanes[0]!)
    const { shape, strides, from, span } = layout
    const isTurned = node.does === "loadTensor" && node.transposed
    const [lines, length] = isTurned ? [columns, rows] : [rows, columns]
    if (span.reduce((product, size) => product * size, 1) !== lines * length)
      this.fail(`a slice of ${span.join("×")} for a matrix of ${rows}×${columns}`, lanes[0]!)
    const { read, write, bytes } = this.codec(type)
    const base = this.same(node.args[0]!, lanes) * bytes
    if (base % 16 !== 0) this.fail(`a tensor in ${node.view.memory.name} at byte ${base}, not aligned to 16`, lanes[0]!)
    const given = node.does === "storeTensor" ? this.valueOf(node.args[2], number) : undefined
    const out = new Float32Array(rows * columns)
    const isClamped = (node.args[1]!.type as TensorType).outside === "zero"
    for (let i = 0; i < lines * length; i++) {
      let rest = i
      let offset = 0
      let isInside = true
      for (let d = span.length - 1; d >= 0; d--) {
        const coordinate = from[d]! + (rest % span[d]!)
        rest = Math.floor(rest / span[d]!)
        offset += coordinate * strides[d]!
        isInside &&= coordinate < shape[d]!
      }
      if (!isInside && isClamped) continue
      if (!isInside) this.fail(`a tensor of ${shape.join("×")} in ${node.view.memory.name} is left by a slice from ${from}`, lanes[0]!)
      const place = isTurned ? (i % length) * columns + Math.floor(i / length) : i
      const { data, at } = accesses.span(node.view, base + offset * bytes, bytes, given === undefined ? "read" : "write", lanes[0]!)
      if (given === undefined) out[place] = Number(read(data, at))
      else write(data, at, given[place]!)
    }
    return given === undefined ? out : undefined
  }
}

/** Depth of an instruction: what is summed exactly before it is rounded. Larger matrices are such instructions one after the other. */
const DEPTH = 16

/** a (rows, inner) · b (inner, columns) + c, rounded after every DEPTH of inner. */
function multiply(a: Float32Array, b: Float32Array, c: Float32Array, inner: number, columns: number): Float32Array {
  const sums = Float64Array.from(c)
  for (let row = 0; row < c.length / columns; row++) {
    const own = sums.subarray(row * columns, (row + 1) * columns)
    for (let k = 0; k < inner; k++) {
      const factor = a[row * inner + k]!
      for (let column = 0; column < columns; column++) own[column]! += factor * b[k * columns + column]!
      if (k % DEPTH === DEPTH - 1) own.set(Float32Array.from(own))
    }
  }
  return Float32Array.from(sums)
}
