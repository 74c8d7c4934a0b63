/** Named tensors in .safetensors files: checked positioned reads, streamed writes with stable bytes. */

import { closeSync, fstatSync, fsyncSync, openSync, readSync, writeSync } from "node:fs"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile } from "./base-file.ts"

/** Element types that alpha reads and writes, with their sizes in bytes. */
export const DTYPE_SIZE = { F32: 4, BF16: 2, F16: 2, I32: 4, I64: 8, U8: 1 } as const
export type StoredDtype = keyof typeof DTYPE_SIZE

/** Sizes of the other element types of the format: such a tensor may stand in a file, but its values are never read. */
const FOREIGN_SIZE = new Map(Object.entries({ BOOL: 1, I8: 1, F8_E4M3: 1, F8_E5M2: 1, I16: 2, U16: 2, U32: 4, F64: 8, U64: 8 }))

/** One named tensor on its way to or from disk; data is read lazily so that a 3 GB model needs no second copy. */
export interface NamedTensor {
  name: string
  /** Row-major, outermost first; [] is a scalar. */
  shape: readonly number[]
  dtype: StoredDtype
  /** All bytes, little-endian. */
  data: () => Uint8Array
}

/** A tensor that lies in a file: its bytes can also be read piece by piece. */
export interface StoredTensor extends NamedTensor {
  readonly path: string
  readonly byteLength: number
  /** Fills `into` with the tensor's bytes from `start` on. */
  read: (into: Uint8Array, start: number) => void
}

export interface SafetensorsFile {
  path: string
  metadata: Record<string, string>
  tensors: Map<string, StoredTensor>
  /** Tensors of element types that alpha cannot read, by name. */
  foreign: Map<string, string>
}

const MAX_HEADER_BYTES = 100_000_000

/** Elements of a shape. */
export const elementCount = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)

/**
 * Opens a .safetensors file: reads the header and checks every name, dtype, shape, offset, gap and overlap against the file's size.
 * Throws AlphaError naming the file, and the tensor where there is one. Source: github.com/huggingface/safetensors, "Format".
 */
export function readSafetensors(path: string): SafetensorsFile {
  return withFile("read", path, () => {
    const file = openSync(path, "r")
    try {
      return parse(path, file)
    } finally {
      closeSync(file)
    }
  })
}

function parse(path: string, file: number): SafetensorsFile {
  const fail = (what: string): never => {
    throw new AlphaError(`${path}: not a valid safetensors file: ${what}`, { hint: "copy or download the file again", code: EXIT.data })
  }
  const size = fstatSync(file).size
  if (size < 8) fail(`${size} bytes, shorter than the 8-byte header length`)
  const lengthBytes = new Uint8Array(8)
  readFully(file, lengthBytes, 0, path)
  const headerBytes = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true))
  if (headerBytes < 2 || headerBytes > MAX_HEADER_BYTES) fail(`the header length ${headerBytes} is not between 2 and ${MAX_HEADER_BYTES}`)
  if (8 + headerBytes > size) fail(`the header needs ${8 + headerBytes} bytes, the file has ${size} (truncated?)`)
  const headerText = new Uint8Array(headerBytes)
  readFully(file, headerText, 8, path)

  let header: unknown
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(headerText))
  } catch (error) {
    return fail(`the header is not JSON (${(error as Error).message})`)
  }
  if (!isObject(header)) return fail("the header is not a JSON object")

  const metadata: Record<string, string> = {}
  const tensors = new Map<string, StoredTensor>()
  const foreign = new Map<string, string>()
  const ranges: { name: string; begin: number; end: number }[] = []
  const dataStart = 8 + headerBytes
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") {
      if (!isObject(entry)) return fail("__metadata__ is not an object")
      for (const [key, value] of Object.entries(entry))
        metadata[key] = typeof value === "string" ? value : fail(`__metadata__ ${key} is not text`)
      continue
    }
    if (!isObject(entry)) return fail(`tensor ${name}: not an object`)
    const { dtype, shape, data_offsets: offsets } = entry
    const isKnown = typeof dtype === "string" && Object.hasOwn(DTYPE_SIZE, dtype)
    const elementSize = isKnown ? DTYPE_SIZE[dtype as StoredDtype] : typeof dtype === "string" ? FOREIGN_SIZE.get(dtype) : undefined
    if (elementSize === undefined) return fail(`tensor ${name}: unknown dtype ${JSON.stringify(dtype)}`)
    if (!isSizes(shape) || !Number.isSafeInteger(elementCount(shape))) return fail(`tensor ${name}: bad shape ${JSON.stringify(shape)}`)
    if (!isSizes(offsets) || offsets.length !== 2) return fail(`tensor ${name}: bad data_offsets ${JSON.stringify(offsets)}`)
    const [begin, end] = offsets as [number, number]
    const byteLength = elementCount(shape) * elementSize
    if (begin > end || dataStart + end > size)
      return fail(`tensor ${name}: bytes ${begin} to ${end} lie outside the ${size - dataStart} bytes of data (truncated?)`)
    if (byteLength !== end - begin)
      return fail(`tensor ${name}: shape (${shape}) of ${dtype} needs ${byteLength} bytes, its offsets give ${end - begin}`)
    ranges.push({ name, begin, end })
    if (isKnown) tensors.set(name, stored(path, name, shape, dtype as StoredDtype, dataStart + begin, byteLength))
    else foreign.set(name, dtype as string)
  }
  ranges.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let covered = 0
  for (const { name, begin, end } of ranges) {
    if (begin !== covered)
      return fail(
        `tensor ${name}: starts at byte ${begin}, ${begin < covered ? "inside another tensor" : `leaving a gap after byte ${covered}`}`,
      )
    covered = end
  }
  if (dataStart + covered !== size) return fail(`${size - dataStart - covered} bytes after the last tensor`)
  return { path, metadata, tensors, foreign }
}

function stored(path: string, name: string, shape: number[], dtype: StoredDtype, offset: number, byteLength: number): StoredTensor {
  const read = (into: Uint8Array, start: number) =>
    withFile("read", path, () => {
      const file = openSync(path, "r")
      try {
        readFully(file, into, offset + start, path)
      } finally {
        closeSync(file)
      }
    })
  const data = () => {
    const bytes = new Uint8Array(byteLength)
    read(bytes, 0)
    return bytes
  }
  return { name, shape, dtype, path, byteLength, read, data }
}

/** Reads bytes.length bytes at `position`, or fails: a file that shrank meanwhile is an error. */
function readFully(file: number, bytes: Uint8Array, position: number, path: string): void {
  for (let done = 0; done < bytes.length; ) {
    const count = readSync(file, bytes, done, Math.min(bytes.length - done, 1 << 30), position + done)
    if (count === 0)
      throw new AlphaError(`${path}: ends at byte ${position + done}, ${bytes.length - done} bytes were still expected`, {
        code: EXIT.data,
      })
    done += count
  }
}

/**
 * Writes tensors in the given order after sorting them by falling element size (so that each is aligned), streaming one at a time,
 * flushes the file and returns its size and SHA-256. The same input gives the same bytes.
 */
export function writeSafetensors(
  path: string,
  tensors: readonly NamedTensor[],
  metadata: Record<string, string> = {},
): { bytes: number; sha256: string } {
  const ordered = [...tensors].sort((a, b) => DTYPE_SIZE[b.dtype] - DTYPE_SIZE[a.dtype])
  const header: Record<string, unknown> = Object.keys(metadata).length === 0 ? {} : { __metadata__: metadata }
  let end = 0
  for (const { name, shape, dtype } of ordered) {
    if (Object.hasOwn(header, name)) throw new AlphaError(`cannot write ${path}: two tensors are named ${name}`)
    const begin = end
    end += elementCount(shape) * DTYPE_SIZE[dtype]
    header[name] = { dtype, shape, data_offsets: [begin, end] }
  }
  const text = new TextEncoder().encode(JSON.stringify(header))
  // Spaces after the JSON put the data on a multiple of 8 bytes, as the reference implementation does.
  const head = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true)
  head.set(text, 8)

  return writeStream(path, function* () {
    yield head
    for (const { name, shape, dtype, data } of ordered) {
      const bytes = data()
      const wanted = elementCount(shape) * DTYPE_SIZE[dtype]
      if (bytes.length !== wanted)
        throw new AlphaError(`cannot write ${path}: tensor ${name} has ${bytes.length} bytes, shape (${shape}) of ${dtype} needs ${wanted}`)
      yield bytes
    }
  })
}

/** Writes the pieces one after the other, flushes, and returns size and SHA-256. Not atomic: for use in a directory or name that is renamed afterwards. */
export function writeStream(path: string, pieces: () => Iterable<Uint8Array>): { bytes: number; sha256: string } {
  return withFile("write", path, () => {
    const file = openSync(path, "w")
    const hasher = new Bun.CryptoHasher("sha256")
    let total = 0
    try {
      for (const piece of pieces()) {
        hasher.update(piece)
        total += piece.length
        // A single write(2) moves at most 2^31 - 4096 bytes.
        for (let done = 0; done < piece.length; ) done += writeSync(file, piece, done, Math.min(piece.length - done, 1 << 30))
      }
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    return { bytes: total, sha256: hasher.digest("hex") }
  })
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0)
}
