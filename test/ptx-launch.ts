/** A launch of a PTX kernel, run on the CPU over the bytes of its tensors and scratch. */
import type { Launch, Memory, Scratch, Table } from "../src/program.ts"
import type { PtxKernel } from "../src/ptx.ts"
import type { Tensor } from "../src/tensor.ts"
import { GlobalMemory } from "./ptx-memory.ts"
import { runPtx, type Timing } from "./ptx-run.ts"

const sizeOf = (dtype: string): number => (dtype === "bf16" ? 2 : 4)

const tables = new WeakMap<Table, Uint8Array<ArrayBuffer>>()

/** Bytes of a table of numbers, which keeps what launches write there. */
export function tableBytes(given: Table): Uint8Array<ArrayBuffer> {
  const array = { f32: Float32Array, u32: Uint32Array, i32: Int32Array }[given.dtype as "f32" | "u32" | "i32"]
  const made = tables.get(given) ?? new Uint8Array(array.from(given.values as number[]).buffer)
  tables.set(given, made)
  return made
}

/** `bytesOf`: memory of a tensor or scratch; `live`: the value of a live scalar. */
export function runPtxLaunch(
  { kernel, buffers, told, push, params, groups }: Launch,
  bytesOf: (memory: Tensor | Scratch) => Uint8Array,
  live: (value: Tensor | number | undefined) => number,
  timing: Timing,
  seed = 1,
): void {
  const { text, threads, sharedBytes, cells, params: fields } = kernel as PtxKernel
  const memory = new GlobalMemory()
  const places = new Map<Uint8Array["buffer"], number>()
  const addressOf = (given: Memory | undefined): number => {
    if (given === undefined) return 0
    if ("kind" in given && given.kind === "part") return addressOf(given.of) + given.from * sizeOf(given.of.dtype)
    if ("kind" in given && given.kind === "table" && given.dtype !== "u64") return memory.place(tableBytes(given))
    if ("kind" in given && given.kind === "table") {
      const words = given.values.map((value) => (typeof value === "object" ? BigInt(addressOf(value)) : BigInt(value ?? 0)))
      return memory.place(new Uint8Array(BigUint64Array.from(words).buffer))
    }
    const bytes = bytesOf(given as Tensor | Scratch)
    const known = places.get(bytes.buffer) ?? memory.place(new Uint8Array(bytes.buffer))
    places.set(bytes.buffer, known)
    return known + bytes.byteOffset
  }
  const block = Float32Array.from(Object.keys(fields), (name) => live(params[name]))
  const values: Record<string, number> = { ...push, params: memory.place(new Uint8Array(block.buffer)) }
  for (const name of Object.keys(kernel.buffers)) values[name] = addressOf(buffers[name] ?? told?.[name])
  const missing = cells.filter(({ name }) => values[name] === undefined).map(({ name }) => name)
  if (missing.length > 0) throw new Error(`${kernel.name}: no ${missing.join(", ")}`)
  runPtx({ text, threads, shared: sharedBytes, blocks: groups, parameters: values, floats: values, memory, timing, seed })
}
