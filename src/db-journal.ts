/** A journal on disk: numbered JSON lines, appended cheaply, a torn tail cut off on open, read on while it grows. */
import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs"
import { join } from "node:path"
import { withFile } from "./base-file.ts"
import type { Journal, JournalRow } from "./db-types.ts"

const PIECE = 1 << 20
const NEWLINE = 10

export const journalPath = (directory: string, journal: Journal): string => join(directory, `${journal}.jsonl`)

interface Line {
  /** Byte offsets of the line; `end` is behind its newline. */
  readonly start: number
  readonly end: number
  readonly text: string
}

/** Complete lines of an open file from byte `from` on. */
function* linesOf(file: number, from: number): Generator<Line> {
  const piece = Buffer.allocUnsafe(PIECE)
  let rest = Buffer.alloc(0)
  let start = from
  for (let at = from; ; ) {
    const got = readSync(file, piece, 0, PIECE, at)
    if (got === 0) return
    at += got
    const bytes = rest.length === 0 ? piece.subarray(0, got) : Buffer.concat([rest, piece.subarray(0, got)])
    let done = 0
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, done)) {
      yield { start, end: start + end + 1 - done, text: bytes.toString("utf8", done, end) }
      start += end + 1 - done
      done = end + 1
    }
    rest = Buffer.from(bytes.subarray(done))
  }
}

function parse(text: string): Record<string, unknown> | undefined {
  try {
    const row: unknown = JSON.parse(text)
    return typeof row === "object" && row !== null && !Array.isArray(row) ? (row as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

/** A line as a row: what older journals left out is filled in; a line that is no JSON object keeps its number. */
function rowOf(text: string, seq: number): JournalRow {
  const row = parse(text) ?? { type: "damaged" }
  const time = typeof row.time === "string" ? Date.parse(row.time) : row.time
  return { ...row, seq, time: typeof time === "number" && Number.isFinite(time) ? time : 0, type: String(row.type ?? "row") }
}

/** Calls `work` with the journal open for reading; undefined where there is none. */
function withJournal<T>(path: string, flags: "r" | "r+", work: (file: number) => T): T | undefined {
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
function soundEnd(file: number): { end: number; count: number } {
  const size = fstatSync(file).size
  for (let span = Math.min(size, 1 << 16); span > 0; span = Math.min(size, span * 8)) {
    const tail = Buffer.allocUnsafe(span)
    readSync(file, tail, 0, span, size - span)
    for (let stop = tail.lastIndexOf(NEWLINE); stop >= 0; ) {
      const before = stop === 0 ? -1 : tail.lastIndexOf(NEWLINE, stop - 1)
      if (before < 0 && span < size) break
      const row = parse(tail.toString("utf8", before + 1, stop))
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

/** The writing end of a journal; one per file and process. */
export class JournalWriter {
  readonly #file: number
  #size: number
  #seq: number

  /** Opens or makes the file and cuts off what a kill or a full disk left behind the last whole line. */
  constructor(readonly path: string) {
    const { file, end, count } = withFile("open", path, () => {
      const file = openSync(path, existsSync(path) ? "r+" : "w+")
      const { end, count } = soundEnd(file)
      if (fstatSync(file).size > end) ftruncateSync(file, end)
      return { file, end, count }
    })
    this.#file = file
    this.#size = end
    this.#seq = count
  }

  /** Number that the next row gets. */
  get next(): number {
    return this.#seq
  }

  /** Writes one row with its number and, unless it has one, its time. After an error the file ends with the row before. */
  append(row: object): JournalRow {
    const { time: given, ...columns } = row as Record<string, unknown>
    const stored = { seq: this.#seq, time: given ?? Date.now(), ...columns } as JournalRow
    const bytes = Buffer.from(`${JSON.stringify(stored)}\n`)
    withFile("write", this.path, () => {
      try {
        for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done, bytes.length - done, this.#size + done)
      } catch (error) {
        ftruncateSync(this.#file, this.#size)
        throw error
      }
    })
    this.#size += bytes.length
    this.#seq++
    return stored
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** Cuts a journal before its first row of a step after `step`: a run that continues there writes those rows again. */
export function rewindJournal(path: string, step: number): void {
  withJournal(path, "r+", (file) => {
    let keep = 0
    for (const { text, end } of linesOf(file, 0)) {
      const row = parse(text)
      if (row === undefined || (typeof row.step === "number" && row.step > step)) break
      keep = end
    }
    if (keep < fstatSync(file).size) ftruncateSync(file, keep)
  })
}

/** Reads a journal and, later, what was added to it. */
export class JournalReader {
  #offset = 0
  #last: Line | undefined
  #seq = 0

  constructor(readonly path: string) {}

  /** Number of the row that is read next. */
  get next(): number {
    return this.#seq
  }

  /**
   * The next rows, at most `limit`. `rewound`: the journal was cut back since the last call (a resumed run), and the rows are those from its
   * beginning on.
   */
  read(limit = Number.POSITIVE_INFINITY): { rows: JournalRow[]; rewound: boolean } {
    const rows: JournalRow[] = []
    let rewound = false
    const found = withJournal(this.path, "r", (file) => {
      if (!this.#isSame(file)) {
        rewound = true
        this.#reset()
      }
      if (limit <= 0) return true
      for (const line of linesOf(file, this.#offset)) {
        rows.push(rowOf(line.text, this.#seq++))
        this.#offset = line.end
        this.#last = line
        if (rows.length >= limit) break
      }
      return true
    })
    if (found === undefined && this.#seq > 0) {
      rewound = true
      this.#reset()
    }
    return { rows, rewound }
  }

  #reset(): void {
    this.#offset = 0
    this.#seq = 0
    this.#last = undefined
  }

  /** Whether the line that was read last is still where it was. */
  #isSame(file: number): boolean {
    const last = this.#last
    if (last === undefined) return true
    const bytes = Buffer.alloc(last.end - last.start)
    return readSync(file, bytes, 0, bytes.length, last.start) === bytes.length && bytes.toString("utf8", 0, bytes.length - 1) === last.text
  }
}

/** Rows of a journal with seq > `after`, at most `limit`. */
export function readJournal(path: string, { after = -1, limit = Number.POSITIVE_INFINITY } = {}): JournalRow[] {
  const rows: JournalRow[] = []
  withJournal(path, "r", (file) => {
    let seq = 0
    for (const { text } of linesOf(file, 0)) {
      if (rows.length >= limit) break
      if (seq > after) rows.push(rowOf(text, seq))
      seq++
    }
  })
  return rows
}
