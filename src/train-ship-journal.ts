/** Journal files as they are shipped: blocks of whole lines, and marks by which two copies find where they part. */
import { type FileHandle, open } from "node:fs/promises"

const NEWLINE = 10
const PIECE = 1 << 18

export interface Block {
  readonly rows: readonly unknown[]
  /** Bytes of these rows in the file. */
  readonly bytes: number
}

/** The file for reading; undefined where there is none yet. */
const opened = (path: string): Promise<FileHandle | undefined> =>
  open(path, "r").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined
    throw error
  })

/** Whole lines from byte `offset`, at most `maxRows` of them and about `maxBytes`; undefined where there is no whole line yet. */
export async function readBlock(path: string, offset: number, maxRows: number, maxBytes: number): Promise<Block | undefined> {
  const file = await opened(path)
  if (file === undefined) return undefined
  try {
    for (let size = maxBytes; ; size *= 4) {
      const buffer = Buffer.allocUnsafe(size)
      const { bytesRead } = await file.read(buffer, 0, size, offset)
      const rows: unknown[] = []
      let at = 0
      while (rows.length < maxRows) {
        const end = buffer.subarray(0, bytesRead).indexOf(NEWLINE, at)
        if (end < 0) break
        rows.push(parse(buffer.toString("utf8", at, end)))
        at = end + 1
      }
      if (rows.length > 0) return { rows, bytes: at }
      if (bytesRead < size) return undefined
    }
  } finally {
    await file.close()
  }
}

/** A line that a failing disk spoilt keeps its place, so that the rows after it keep their numbers. */
function parse(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return { type: "damaged" }
  }
}

/** Calls back with the bytes of every whole line, line break and all; between pieces of the file the process does its other work. */
async function eachLine(path: string, visit: (line: Uint8Array) => boolean): Promise<void> {
  const file = await opened(path)
  if (file === undefined) return
  try {
    let rest: Uint8Array = new Uint8Array(0)
    const piece = Buffer.allocUnsafe(PIECE)
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, PIECE, null)
      if (bytesRead === 0) return
      const bytes = rest.length === 0 ? piece.subarray(0, bytesRead) : Buffer.concat([rest, piece.subarray(0, bytesRead)])
      let at = 0
      for (let end = bytes.indexOf(NEWLINE, at); end >= 0; end = bytes.indexOf(NEWLINE, at)) {
        if (!visit(bytes.subarray(at, end + 1))) return
        at = end + 1
      }
      rest = Buffer.from(bytes.subarray(at))
    }
  } finally {
    await file.close()
  }
}

/** Whole lines of a journal. */
export async function countRows(path: string): Promise<number> {
  let rows = 0
  await eachLine(path, () => ++rows > 0)
  return rows
}

/** Byte offset of row `row`, or of the end where there are fewer. */
export async function offsetOf(path: string, row: number): Promise<number> {
  let [rows, bytes] = [0, 0]
  if (row === 0) return 0
  await eachLine(path, (line) => {
    rows++
    bytes += line.length
    return rows < row
  })
  return bytes
}

/** Row counts at which a copy of `rows` rows is compared: the end, and back from it in doubling steps. */
export function markCounts(rows: number): number[] {
  const counts = [rows]
  for (let back = 1; back < rows; back *= 2) counts.push(rows - back)
  return rows === 0 ? [] : counts
}

/** SHA-256 of the first n rows, for every n of `counts` that the file has. */
export async function prefixMarks(path: string, counts: readonly number[]): Promise<Map<number, string>> {
  const wanted = new Set(counts)
  const last = Math.max(0, ...counts)
  const marks = new Map<number, string>()
  const hasher = new Bun.CryptoHasher("sha256")
  let rows = 0
  if (last === 0) return marks
  await eachLine(path, (line) => {
    hasher.update(line)
    rows++
    if (wanted.has(rows)) marks.set(rows, hasher.copy().digest("hex"))
    return rows < last
  })
  return marks
}
