/** The reading end of a journal: goes on while it grows, and notices where it was cut back. */
import { fstatSync } from "node:fs"
import { isSame, linesOf, numberIn, offsetOf, rowOf, soundEnd, withJournal } from "./db-lines.ts"
import type { JournalRow } from "./db-types.ts"

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

/** Whether a row that a reader was behind still stands there. */
export const isAtPlace = (path: string, { start, end, crc }: JournalPlace): boolean =>
  withJournal(path, "r", (file) => isSame(file, start, end, crc)) ?? false
