/** Serialises kernel calls into the memory that C walks: commands, argument structs and tables. */
import { allocate, type Fields, kernelAddress, type NativeCall } from "./native.ts"
import type { Node } from "./program.ts"
import type { Tensor } from "./tensor.ts"

export interface Commands {
  readonly count: number
  /** Address of `count` pairs (kernel, arguments). */
  readonly address: number
  free(): void
}

type Cell = Tensor | number | undefined

/** One slab of 8-byte cells: all commands, then all structs and tables. */
export function allocateCommands(nodes: readonly Node[], address: (t: Tensor) => number): Commands {
  const calls = nodes.map((node) => node.op.cpu(node.inputs, node.outputs, node.attrs, (output) => node.accumulate[output]))
  const cells = 2 * calls.length + calls.reduce((sum, call) => sum + cellsOf(call), 0)
  const memory = allocate(cells * 8, "the command list")
  const ints = new BigInt64Array(memory.view(0, cells * 8))
  const floats = new Float64Array(memory.view(0, cells * 8))
  const base = memory.address
  let next = 2 * calls.length
  const put = (at: number, kind: string, value: Cell) => {
    if (kind === "float") floats[at] = value as number
    else if (kind === "int") ints[at] = BigInt(value as number)
    else ints[at] = value === undefined ? 0n : BigInt(address(value as Tensor))
  }
  calls.forEach((call, i) => {
    const entries = Object.entries(call.fields)
    const struct = next
    next += entries.length
    ints[2 * i] = BigInt(kernelAddress(call.kernel))
    ints[2 * i + 1] = BigInt(base + struct * 8)
    entries.forEach(([name, field], j) => {
      const value = call.args[name]
      if (typeof field === "string") return put(struct + j, field, value as Cell)
      ints[struct + j] = BigInt(base + next * 8)
      for (const row of value as readonly Readonly<Record<string, Cell>>[]) {
        for (const [column, kind] of Object.entries(field)) put(next++, kind, row[column])
      }
    })
  })
  return { count: calls.length, address: base, free: memory.free }
}

/** 8-byte cells of a call's struct and tables. */
function cellsOf(call: NativeCall<Tensor>): number {
  const fields: Fields = call.fields
  return Object.entries(fields).reduce((sum, [name, field]) => {
    if (typeof field === "string") return sum + 1
    return sum + 1 + (call.args[name] as readonly unknown[]).length * Object.keys(field).length
  }, 0)
}
