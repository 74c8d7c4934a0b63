/** A journal on disk: numbered JSON lines, appended cheaply, a torn tail cut off on open, read on while it grows. */
import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, readSync, statSync, writeSync } from "node:fs"
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
  /** Without the newline; valid until the next line. */
  readonly bytes: Uint8Array
}

/** Complete lines of an open file from byte `from` on. */
function* linesOf(file: number, from: number, size = PIECE): Generator<Line> {
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

/** Number that a line carries; undefined in journals of older versions. */
function numberIn(text: string): number | undefined {
  const plain = /^\{"seq":(\d{1,15})[,}]/.exec(text)?.[1]
  const seq = plain === undefined ? parse(text)?.seq : Number(plain)
  return typeof seq === "number" && Number.isSafeInteger(seq) ? seq : undefined
}

/** Lines are looked at one by one in a piece of this size. */
const NEAR = 1 << 16

/** Byte at which row `seq` begins, or the file ends without it; undefined where lines do not carry their numbers. */
function offsetOf(file: number, seq: number): number | undefined {
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

/** Lines of which a reader knows where they stood. */
const MARKS = 4096
/** Those that a reader looks at before the row that it begins with. */
const MARKS_BEFORE = 1024

/** A place in a journal: behind a line that has been read. */
export interface JournalPlace {
  /** Number of the row behind it. */
  readonly next: number
  /** The line's bytes in the file, and their CRC-32. */
  readonly start: number
  readonly end: number
  readonly crc: number
}

export interface JournalPiece {
  readonly rows: JournalRow[]
  /** Where the journal was cut back since the last call (a run that was resumed): the rows from this number on are void, and `rows` begins there. */
  readonly rewound: number | undefined
}

/** Reads a journal and, later, what was added to it. */
export class JournalReader {
  #offset = 0
  #seq = 0
  /** Places of the last rows, row n at n % MARKS; those from #oldest on are there. */
  readonly #starts = new Float64Array(MARKS)
  readonly #ends = new Float64Array(MARKS)
  readonly #crcs = new Uint32Array(MARKS)
  #oldest = 0
  #sought: number | undefined

  /** `from`: the first row to read, or a place that an earlier reader was at. */
  constructor(
    readonly path: string,
    from: number | JournalPlace | undefined = 0,
  ) {
    if (from === undefined || typeof from === "number") this.#sought = (from ?? 0) > 0 ? from : undefined
    else {
      this.#oldest = from.next - 1
      this.#seq = this.#oldest
      this.#mark(from.start, from.end, from.crc)
    }
  }

  /** Number of the row that is read next. */
  get next(): number {
    return this.#seq
  }

  /** Where it is; undefined at the beginning. */
  get place(): JournalPlace | undefined {
    if (this.#seq <= this.#oldest) return undefined
    const at = (this.#seq - 1) % MARKS
    return { next: this.#seq, start: this.#starts[at]!, end: this.#ends[at]!, crc: this.#crcs[at]! }
  }

  /** The next rows, at most `limit`. */
  read(limit = Number.POSITIVE_INFINITY): JournalPiece {
    const rows: JournalRow[] = []
    let rewound: number | undefined
    const found = withJournal(this.path, "r", (file) => {
      rewound = this.#seek(file)
      if (!this.#isSame(file, this.#seq - 1)) rewound = this.#goBack(file)
      if (limit <= 0 || fstatSync(file).size <= this.#offset) return true
      for (const { text, start, end, bytes } of linesOf(file, this.#offset)) {
        rows.push(rowOf(text, this.#seq))
        this.#mark(start, end, Bun.hash.crc32(bytes))
        if (rows.length >= limit) break
      }
      return true
    })
    if (found === undefined && this.#seq > 0) {
      rewound = 0
      this.#goTo(0)
    }
    return { rows, rewound }
  }

  #mark(start: number, end: number, crc: number): void {
    const at = this.#seq % MARKS
    this.#starts[at] = start
    this.#ends[at] = end
    this.#crcs[at] = crc
    this.#seq++
    this.#oldest = Math.max(this.#oldest, this.#seq - MARKS)
    this.#offset = end
  }

  /** Goes to the row that was asked for, or as far as there are rows, which it returns then: those behind were taken back. */
  #seek(file: number): number | undefined {
    const seq = this.#sought
    if (seq === undefined) return undefined
    this.#sought = undefined
    // Rows before it come along, so that a cut is noticed, and where it is.
    const first = Math.max(0, seq - MARKS_BEFORE)
    const offset = offsetOf(file, first)
    this.#seq = this.#oldest = offset === undefined ? 0 : first
    for (const { text, start, end, bytes } of linesOf(file, offset ?? 0)) {
      const number = offset === undefined ? this.#seq : numberIn(text)
      if (number !== this.#seq) break
      this.#mark(start, end, Bun.hash.crc32(bytes))
      if (this.#seq >= seq) return undefined
    }
    if (offset === undefined) return this.#seq
    const { count } = soundEnd(file)
    this.#goTo(0)
    this.#sought = count > 0 && count < seq ? count : undefined
    this.#seek(file)
    return this.#seq
  }

  #goTo(seq: number): void {
    this.#offset = seq === 0 ? 0 : this.#ends[(seq - 1) % MARKS]!
    this.#seq = seq
    if (seq === 0) this.#oldest = 0
  }

  /** Goes back to behind the last row that is still where it was, or to the beginning; returns the row it is before. */
  #goBack(file: number): number {
    let [low, high] = [this.#oldest - 1, this.#seq - 1]
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (this.#isSame(file, middle)) low = middle
      else high = middle
    }
    this.#goTo(low < this.#oldest ? 0 : low + 1)
    return this.#seq
  }

  /** Whether a row that was read is still where it was. Journals change at their end alone: then all before it are. */
  #isSame(file: number, seq: number): boolean {
    if (seq < this.#oldest) return seq < 0 || this.#seq === this.#oldest
    return isSame(file, this.#starts[seq % MARKS]!, this.#ends[seq % MARKS]!, this.#crcs[seq % MARKS]!)
  }
}

/** Rows of a journal with seq > `after`, at most `limit`. */
export function readJournal(path: string, { after = -1, limit = Number.POSITIVE_INFINITY } = {}): JournalRow[] {
  const rows: JournalRow[] = []
  withJournal(path, "r", (file) => {
    const offset = offsetOf(file, after + 1)
    let seq = offset === undefined ? 0 : Math.max(0, after + 1)
    for (const { text } of linesOf(file, offset ?? 0)) {
      if (rows.length >= limit) break
      if (seq > after) rows.push(rowOf(text, seq))
      seq++
    }
  })
  return rows
}

/** Whether a row that a reader was behind still stands there. */
export const isAtPlace = (path: string, { start, end, crc }: JournalPlace): boolean =>
  withJournal(path, "r", (file) => isSame(file, start, end, crc)) ?? false

function isSame(file: number, start: number, end: number, crc: number): boolean {
  const bytes = Buffer.allocUnsafe(end - start)
  if (readSync(file, bytes, 0, bytes.length, start) !== bytes.length) return false
  return bytes[bytes.length - 1] === NEWLINE && Bun.hash.crc32(bytes.subarray(0, -1)) === crc
}

/** Changes whenever one of the files does. */
export const signatureOf = (paths: readonly string[]): string =>
  paths
    .map((path) => {
      const { mtimeMs = 0, size = -1 } = statSync(path, { throwIfNoEntry: false }) ?? {}
      return `${mtimeMs}:${size}`
    })
    .join()

/** Number of rows of a journal. */
export const countJournal = (path: string): number => withJournal(path, "r", (file) => soundEnd(file).count) ?? 0
