/** Lines of a journal on disk: read piece by piece, as rows, found by their number. */
import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs"
import { withFile } from "./base-file.ts"
import type { JournalRow } from "./db-types.ts"

const PIECE = 1 << 20
const NEWLINE = 10

export interface Line {
  /** Byte offsets of the line; `end` is behind its newline. */
  readonly start: number
  readonly end: number
  readonly text: string
  /** Without the newline; valid until the next line. */
  readonly bytes: Uint8Array
}

/** Complete lines of an open file from byte `from` on. */
export function* linesOf(file: number, from: number, size = PIECE): Generator<Line> {
  const piece = Buffer.allocUnsafe(size)
  let rest = Buffer.alloc(0)
  let start = from
  for (let at = from; ; ) {
    const got = readSync(file, piece, 0, size, at)
    if (got === 0) return
    at += got
    const bytes = rest.length === 0 ? piece.subarray(0, got) : Buffer.concat([rest, piece.subarray(0, got)])
    let done = 0
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, done)) {
      yield { start, end: start + end + 1 - done, text: bytes.toString("utf8", done, end), bytes: bytes.subarray(done, end) }
      start += end + 1 - done
      done = end + 1
    }
    rest = Buffer.from(bytes.subarray(done))
  }
}

export function parseRow(text: string): Record<string, unknown> | undefined {
  try {
    const row: unknown = JSON.parse(text)
    return typeof row === "object" && row !== null && !Array.isArray(row) ? (row as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

/** A line as a row: what older journals left out is filled in; a line that is no JSON object keeps its number. */
export function rowOf(text: string, seq: number): JournalRow {
  const row = parseRow(text) ?? { type: "damaged" }
  const time = typeof row.time === "string" ? Date.parse(row.time) : row.time
  return { ...row, seq, time: typeof time === "number" && Number.isFinite(time) ? time : 0, type: String(row.type ?? "row") }
}

/** Calls `work` with the journal open for reading; undefined where there is none. */
export function withJournal<T>(path: string, flags: "r" | "r+", work: (file: number) => T): T | undefined {
  if (!existsSync(path)) return undefined
  return withFile("read", path, () => {
    const file = openSync(path, flags)
    try {
      return work(file)
    } finally {
      closeSync(file)
    }
  })
}

/** End of the last whole line and the number of lines before it. Looks at the tail alone where the last line has its number. */
export function soundEnd(file: number): { end: number; count: number } {
  const size = fstatSync(file).size
  for (let span = Math.min(size, 1 << 16); span > 0; span = Math.min(size, span * 8)) {
    const tail = Buffer.allocUnsafe(span)
    readSync(file, tail, 0, span, size - span)
    for (let stop = tail.lastIndexOf(NEWLINE); stop >= 0; ) {
      const before = stop === 0 ? -1 : tail.lastIndexOf(NEWLINE, stop - 1)
      if (before < 0 && span < size) break
      const row = parseRow(tail.toString("utf8", before + 1, stop))
      if (row !== undefined) return { end: size - span + stop + 1, count: countTo(file, row.seq, size - span + stop + 1) }
      stop = before
    }
    if (span === size) break
  }
  return { end: 0, count: 0 }
}

function countTo(file: number, seq: unknown, end: number): number {
  if (typeof seq === "number" && Number.isSafeInteger(seq) && seq >= 0) return seq + 1
  let count = 0
  for (const line of linesOf(file, 0)) if (line.end <= end) count++
  return count
}

/** Number that a line carries; undefined in journals of older versions. */
export function numberIn(text: string): number | undefined {
  const plain = /^\{"seq":(\d{1,15})[,}]/.exec(text)?.[1]
  const seq = plain === undefined ? parseRow(text)?.seq : Number(plain)
  return typeof seq === "number" && Number.isSafeInteger(seq) ? seq : undefined
}

/** Lines are looked at one by one in a piece of this size. */
const NEAR = 1 << 16

/** Byte at which row `seq` begins, or the file ends without it; undefined where lines do not carry their numbers. */
export function offsetOf(file: number, seq: number): number | undefined {
  const first = linesOf(file, 0, NEAR).next().value as Line | undefined
  if (seq <= 0 || first === undefined) return 0
  if (numberIn(first.text) !== 0) return undefined
  let [low, high] = [0, fstatSync(file).size]
  while (high - low > NEAR) {
    const middle = Math.floor((low + high) / 2)
    const lines = linesOf(file, middle, NEAR)
    lines.next() // the rest of a line
    const line = lines.next().value as Line | undefined
    if (line === undefined || line.start >= high) high = middle
    else {
      const number = numberIn(line.text)
      if (number === undefined) return undefined
      if (number <= seq) low = line.start
      else high = line.start
    }
  }
  let end = low
  for (const line of linesOf(file, low, NEAR)) {
    const number = numberIn(line.text)
    if (number === seq) return line.start
    if (number === undefined || number > seq) return undefined
    end = line.end
  }
  return end
}

/** Whether the bytes from `start` to `end` are still the line that had this CRC-32. */
export function isSame(file: number, start: number, end: number, crc: number): boolean {
  const bytes = Buffer.allocUnsafe(end - start)
  if (readSync(file, bytes, 0, bytes.length, start) !== bytes.length) return false
  return bytes[bytes.length - 1] === NEWLINE && Bun.hash.crc32(bytes.subarray(0, -1)) === crc
}
