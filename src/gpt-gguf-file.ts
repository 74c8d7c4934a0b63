/** The GGUF container, version 3: keys, tensor list, aligned data, streamed. */

import { renameSync, rmSync } from "node:fs"
import { dirname } from "node:path"
import { AlphaError } from "./base-error.ts"
import { fsyncPath, temporaryName, withFile } from "./base-file.ts"
import { elementCount, writeStream } from "./gpt-safetensors.ts"

/** A metadata value with the type it is stored as. Source of all numbers here: github.com/ggml-org/ggml, docs/gguf.md. */
export type GgufValue =
  | { u32: number }
  | { f32: number }
  | { bool: boolean }
  | { text: string }
  | { i32s: readonly number[] }
  | { texts: readonly string[] }

export interface GgufTensor {
  name: string
  /** Row-major, outermost first; the file lists it innermost first. */
  shape: readonly number[]
  dtype: "F32" | "F16" | "BF16"
  data: () => Uint8Array
}

const TYPE = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, array: 9 } as const
const TENSOR_TYPE = { F32: 0, F16: 1, BF16: 30 } as const
const ALIGNMENT = 32
const VERSION = 3

/** Writes the file as a whole (a temporary name, then a rename). Returns its size in bytes. */
export function writeGgufFile(path: string, keys: Record<string, GgufValue>, tensors: readonly GgufTensor[]): number {
  const head = new ByteWriter()
  head.bytes(new TextEncoder().encode("GGUF"))
  head.u32(VERSION)
  head.u64(tensors.length)
  const all: Record<string, GgufValue> = { ...keys, "general.alignment": { u32: ALIGNMENT } }
  head.u64(Object.keys(all).length)
  for (const [key, value] of Object.entries(all)) {
    head.text(key)
    writeValue(head, value)
  }
  let offset = 0
  const sizes = tensors.map(({ shape, dtype }) => elementCount(shape) * (dtype === "F32" ? 4 : 2))
  tensors.forEach(({ name, shape, dtype }, i) => {
    if (new TextEncoder().encode(name).length > 63)
      throw new AlphaError(`cannot write ${path}: the tensor name ${name} is longer than 63 bytes`)
    head.text(name)
    head.u32(shape.length)
    for (const size of [...shape].reverse()) head.u64(size)
    head.u32(TENSOR_TYPE[dtype])
    head.u64(offset)
    offset += aligned(sizes[i]!)
  })
  head.bytes(new Uint8Array(aligned(head.length) - head.length))

  const temporary = temporaryName(path)
  try {
    const { bytes } = writeStream(temporary, function* () {
      yield head.take()
      for (const [i, { name, data }] of tensors.entries()) {
        const values = data()
        if (values.length !== sizes[i])
          throw new AlphaError(`cannot write ${path}: tensor ${name} has ${values.length} bytes instead of ${sizes[i]}`)
        yield values
        yield new Uint8Array(aligned(values.length) - values.length)
      }
    })
    withFile("write", path, () => renameSync(temporary, path))
    fsyncPath(dirname(path))
    return bytes
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
}

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

function writeValue(out: ByteWriter, value: GgufValue): void {
  if ("u32" in value) {
    out.u32(TYPE.u32)
    out.u32(value.u32)
  } else if ("f32" in value) {
    out.u32(TYPE.f32)
    out.f32(value.f32)
  } else if ("bool" in value) {
    out.u32(TYPE.bool)
    out.bytes(Uint8Array.of(value.bool ? 1 : 0))
  } else if ("text" in value) {
    out.u32(TYPE.text)
    out.text(value.text)
  } else {
    const isTexts = "texts" in value
    out.u32(TYPE.array)
    out.u32(isTexts ? TYPE.text : TYPE.i32)
    if (isTexts) {
      out.u64(value.texts.length)
      for (const text of value.texts) out.text(text)
    } else {
      out.u64(value.i32s.length)
      out.bytes(new Uint8Array(Int32Array.from(value.i32s).buffer))
    }
  }
}

/** Grows as it is written; little-endian. */
class ByteWriter {
  #buffer = new Uint8Array(1 << 16)
  #view = new DataView(this.#buffer.buffer)
  length = 0

  #room(count: number): number {
    const at = this.length
    this.length += count
    if (this.length > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(this.length, 2 * this.#buffer.length))
      larger.set(this.#buffer)
      this.#buffer = larger
      this.#view = new DataView(larger.buffer)
    }
    return at
  }

  bytes(data: Uint8Array): void {
    const at = this.#room(data.length)
    this.#buffer.set(data, at)
  }

  u32(value: number): void {
    const at = this.#room(4)
    this.#view.setUint32(at, value, true)
  }

  u64(value: number): void {
    const at = this.#room(8)
    this.#view.setBigUint64(at, BigInt(value), true)
  }

  f32(value: number): void {
    const at = this.#room(4)
    this.#view.setFloat32(at, value, true)
  }

  text(value: string): void {
    const encoded = new TextEncoder().encode(value)
    this.u64(encoded.length)
    this.bytes(encoded)
  }

  take(): Uint8Array {
    return this.#buffer.subarray(0, this.length)
  }
}
