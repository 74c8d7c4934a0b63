/** One pass over text files: checksum, UTF-8 check, number of characters. */

import { isAscii, isUtf8 } from "node:buffer"
import { open } from "node:fs/promises"
import { AlphaError, EXIT } from "./base-error.ts"
import { fileError, firstInvalidUtf8 } from "./base-file.ts"
import type { DataOptions, Source } from "./data-types.ts"

/** What a pass over a file found. */
export interface Scan {
  sha256: string
  /** Unicode code points. */
  characters: number
  /** Code points per block of BLOCK bytes, to find a character again. */
  perBlock: number[]
}

/** A file and what scanning it found. */
export interface ScannedSource {
  source: Source
  scan: Scan
}

const BLOCK = 4 << 20

/** First bytes of files that are not text, and what to do about them. */
const SIGNATURES: [bytes: number[], what: string, hint: string][] = [
  [[0x1f, 0x8b], "gzip data", "decompress it first: gunzip"],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a], "xz data", "decompress it first: unxz"],
  [[0x28, 0xb5, 0x2f, 0xfd], "zstd data", "decompress it first: unzstd"],
  [[0x42, 0x5a, 0x68], "bzip2 data", "decompress it first: bunzip2"],
  [[0x50, 0x4b, 0x03, 0x04], "a zip archive", "unpack it first: unzip"],
  [[0x50, 0x41, 0x52, 0x31], "a Parquet file", "convert it to .jsonl with a text field"],
  [[0xff, 0xfe], "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"],
  [[0xfe, 0xff], "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"],
]

/** Scans `source`; throws AlphaError naming the file and the offset of the first byte that is not UTF-8 text. */
export async function scanText(source: Source, onBytes: (done: number) => void): Promise<Scan> {
  const hasher = new Bun.CryptoHasher("sha256")
  const perBlock: number[] = []
  let characters = 0
  let carry = new Uint8Array(0) // the start of a character that the last block cut
  let at = 0
  for await (const block of blocksOf(source.path, 0, Infinity)) {
    hasher.update(block)
    const bytes = carry.length > 0 ? Buffer.concat([carry, block]) : block
    const start = at - carry.length
    const whole = bytes.length - cutCharacter(bytes)
    checkText(source, bytes.subarray(0, whole), start)
    carry = bytes.slice(whole)
    const count = countCharacters(block)
    perBlock.push(count)
    characters += count
    at += block.length
    onBytes(block.length)
  }
  if (carry.length > 0) throw notText(source, at - carry.length, carry[0]!, undefined)
  return { sha256: hasher.digest("hex"), characters, perBlock }
}

/** Scans one file after another; `onProgress` may throw, which ends it. */
export async function scanAll(sources: readonly Source[], onProgress: DataOptions["onProgress"]): Promise<ScannedSource[]> {
  const total = sources.reduce((sum, { bytes }) => sum + bytes, 0)
  const files: ScannedSource[] = []
  let done = 0
  for (const source of sources) {
    const scan = await scanText(source, (bytes) => {
      done += bytes
      onProgress?.({ label: "check text", done, total })
    })
    files.push({ source, scan })
  }
  return files
}

/** Throws AlphaError naming file and offset unless `bytes`, which stand at `at` of `source` and cut no character, are UTF-8 text. */
export function checkText(source: Source, bytes: Uint8Array, at: number): void {
  const nul = bytes.indexOf(0)
  if (nul < 0 && isUtf8(bytes)) return
  const bad = nul >= 0 ? nul : firstInvalidUtf8(bytes)
  throw notText(source, at + bad, bytes[bad]!, at === 0 ? bytes : undefined)
}

/** Byte offset of character `index` (0 ≤ index ≤ characters) of a scanned file. */
export async function characterOffset(source: Source, scan: Scan, index: number): Promise<number> {
  let before = 0
  for (const [number, count] of scan.perBlock.entries()) {
    if (index < before + count) {
      for await (const block of blocksOf(source.path, number * BLOCK, (number + 1) * BLOCK)) {
        for (let i = 0, seen = before; i < block.length; i++) {
          if ((block[i]! & 0xc0) !== 0x80 && seen++ === index) return number * BLOCK + i
        }
      }
    }
    before += count
  }
  return source.bytes
}

/** Bytes from … to of a file in blocks of at most BLOCK bytes, each valid until the next. Ends early at the end of the file. */
export async function* blocksOf(path: string, from: number, to: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const file = await open(path, "r").catch((error) => {
    throw fileError("read", path, error)
  })
  try {
    const block = new Uint8Array(Math.min(BLOCK, Math.max(0, to - from)))
    for (let at = from; at < to; ) {
      let filled = 0
      while (filled < block.length && at + filled < to) {
        const { bytesRead } = await file.read(block, filled, Math.min(block.length - filled, to - at - filled), at + filled)
        if (bytesRead === 0) break
        filled += bytesRead
      }
      if (filled === 0) return
      yield block.subarray(0, filled)
      at += filled
    }
  } catch (error) {
    throw fileError("read", path, error)
  } finally {
    await file.close()
  }
}

/** Bytes at the end that start a UTF-8 character without finishing it (0 to 3). */
function cutCharacter(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back]!
    if ((byte & 0xc0) === 0x80) continue
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1
    return length > back ? back : 0
  }
  return 0
}

/** Code points that start in `bytes`: every byte but the continuations 10xxxxxx, four at a time. */
export function countCharacters(bytes: Uint8Array): number {
  if (isAscii(bytes)) return bytes.length
  let continuations = 0
  const aligned = bytes.byteOffset % 4 === 0 ? bytes.length >>> 2 : 0
  const words = new Uint32Array(bytes.buffer, aligned > 0 ? bytes.byteOffset : 0, aligned)
  for (let i = 0; i < aligned; i++) {
    const word = words[i]!
    const flags = (word >>> 7) & (~word >>> 6) & 0x01010101
    continuations += Math.imul(flags, 0x01010101) >>> 24
  }
  for (let i = aligned * 4; i < bytes.length; i++) if ((bytes[i]! & 0xc0) === 0x80) continuations++
  return bytes.length - continuations
}

function notText(source: Source, offset: number, byte: number, head: Uint8Array | undefined): AlphaError {
  const known = head && SIGNATURES.find(([bytes]) => bytes.every((value, i) => head[i] === value))
  const hex = `0x${byte.toString(16).padStart(2, "0")}`
  const what = known ? `this is ${known[1]}` : byte === 0 ? "binary data (a NUL byte)" : "not UTF-8 text"
  return new AlphaError(`data ${source.name}: ${what}, byte ${hex} at offset ${offset} — expected UTF-8 text`, {
    hint: known?.[2] ?? (byte === 0 ? "token shards must end in .bin" : "convert it, for example: iconv -f latin1 -t utf-8"),
    code: EXIT.data,
  })
}
