/** The numbers of a run in blocks of rows, each with the least, the greatest and the last value of every column; pages of blocks are stored. */
import type { JournalRow, XAxis } from "./db-types.ts"

/** Rows of a block; blocks of a page, which is stored when all its rows are there. */
export const BLOCK = 64
const PAGE_BLOCKS = 256
export const PAGE = BLOCK * PAGE_BLOCKS

export type Axis = Exclude<XAxis, "flops">
export const AXES = ["step", "tokens", "time"] as const satisfies readonly Axis[]

/** Journal keys whose names differ in the API. */
const NAMES: Readonly<Record<string, string>> = {
  val_loss: "valLoss",
  tokens_per_s: "tokensPerS",
  ms_per_step: "msPerStep",
  bits_per_byte: "bitsPerByte",
}

/** Name of a journal column in MetricRow. */
export const metricName = (key: string): string => NAMES[key] ?? key

/** The numbers of a row by their names in MetricRow. */
export function* numbersOf(row: JournalRow): Generator<readonly [name: string, value: number]> {
  for (const key in row) {
    const value = row[key]
    if (typeof value === "number" && Number.isFinite(value) && key !== "seq") yield [metricName(key), value]
  }
}

/** Where a row stands on an axis: never before the row before it. An evaluation has no count of tokens, and clocks are set back. */
export const placeOf = (row: JournalRow, axis: Axis, before: number): number => {
  const value = row[axis]
  return typeof value === "number" ? Math.max(value, before) : before
}

/** One value per block; NaN where there is none. */
class Growing {
  values = new Float64Array(PAGE_BLOCKS).fill(Number.NaN)

  room(length: number): Float64Array {
    if (length > this.values.length) {
      const larger = new Float64Array(Math.max(length, this.values.length * 2)).fill(Number.NaN)
      larger.set(this.values)
      this.values = larger
    }
    return this.values
  }
}

interface Column {
  readonly min: Growing
  readonly max: Growing
  readonly last: Growing
  /** Stored pages that are not in memory yet: those before this one. */
  missing: number
}

/** What a page is stored as: values of each of its blocks under "@axis", and least, greatest, last of each under a column's name. */
export type StoredPage = ReadonlyMap<string, Float64Array>

export class Blocks {
  #count: number
  readonly #axes: Readonly<Record<Axis, Growing>> = { step: new Growing(), tokens: new Growing(), time: new Growing() }
  readonly #columns = new Map<string, Column>()

  /** `stored` pages there are already; their axes come by `load`, their columns when they are asked for. */
  constructor(readonly stored = 0) {
    this.#count = stored * PAGE
  }

  /** Rows so far. */
  get count(): number {
    return this.#count
  }

  /** Bytes in memory, about. */
  get bytes(): number {
    return (this.#columns.size + 1) * 3 * 8 * this.#axes.step.values.length
  }

  /** Takes the next row; returns the number of the page that it completes. */
  append(row: JournalRow): number | undefined {
    const block = Math.floor(this.#count / BLOCK)
    const isFirst = this.#count % BLOCK === 0
    for (const axis of AXES) {
      const values = this.#axes[axis].room(block + 1)
      const before = isFirst ? (block === 0 ? 0 : (values[block - 1] as number)) : (values[block] as number)
      values[block] = placeOf(row, axis, before)
    }
    for (const [name, value] of numbersOf(row)) {
      const { min, max, last } = this.#column(name)
      const [low, high] = [min.room(block + 1), max.room(block + 1)]
      if (!(value >= (low[block] as number))) low[block] = value
      if (!(value <= (high[block] as number))) high[block] = value
      last.room(block + 1)[block] = value
    }
    this.#count++
    return this.#count % PAGE === 0 ? this.#count / PAGE - 1 : undefined
  }

  page(page: number): StoredPage {
    const [from, to] = [page * PAGE_BLOCKS, (page + 1) * PAGE_BLOCKS]
    const stored = new Map<string, Float64Array>()
    for (const axis of AXES) stored.set(`@${axis}`, this.#axes[axis].values.slice(from, to))
    for (const [name, { min, max, last }] of this.#columns) {
      const values = new Float64Array(3 * PAGE_BLOCKS).fill(Number.NaN)
      ;[min, max, last].forEach((part, i) => {
        values.set(part.values.subarray(from, Math.min(to, part.values.length)), i * PAGE_BLOCKS)
      })
      if (!values.every(Number.isNaN)) stored.set(name, values)
    }
    return stored
  }

  /** Puts stored values of a page back. */
  load(page: number, name: string, values: Float64Array): void {
    const [from, to] = [page * PAGE_BLOCKS, (page + 1) * PAGE_BLOCKS]
    const axis = AXES.find((one) => `@${one}` === name)
    if (axis !== undefined) {
      this.#axes[axis].room(to).set(values, from)
      return
    }
    const { min, max, last } = this.#column(name)
    ;[min, max, last].forEach((part, i) => {
      part.room(to).set(values.subarray(i * PAGE_BLOCKS, (i + 1) * PAGE_BLOCKS), from)
    })
  }

  /** Columns among `names` whose stored pages have to be loaded. */
  missing(names: readonly string[]): string[] {
    return names.filter((name) => this.stored > 0 && (this.#columns.get(name)?.missing ?? this.stored) > 0)
  }

  /** All that is stored of these columns is in memory now. */
  isWhole(names: readonly string[]): void {
    for (const name of names) this.#column(name).missing = 0
  }

  #column(name: string): Column {
    let column = this.#columns.get(name)
    if (column === undefined) {
      column = { min: new Growing(), max: new Growing(), last: new Growing(), missing: this.stored }
      this.#columns.set(name, column)
    }
    return column
  }

  /** x of the last row of a block. */
  place(axis: Axis, block: number): number {
    return this.#axes[axis].values[block] ?? 0
  }

  /** The last value in a block; NaN where there is none. */
  last(name: string, block: number): number {
    return this.#columns.get(name)?.last.values[block] ?? Number.NaN
  }

  /** Adds blocks `from` to `to` (exclusive) of a column to what was seen of it. */
  fold(name: string, from: number, to: number, seen: Extremes): void {
    const column = this.#columns.get(name)
    if (column === undefined) return
    const [low, high, last] = [column.min.values, column.max.values, column.last.values]
    const end = Math.min(to, low.length)
    for (let block = from; block < end; block++) {
      if (!((low[block] as number) >= seen.min)) seen.min = Number.isNaN(low[block]) ? seen.min : (low[block] as number)
      if (!((high[block] as number) <= seen.max)) seen.max = Number.isNaN(high[block]) ? seen.max : (high[block] as number)
      if (!Number.isNaN(last[block])) seen.last = last[block] as number
    }
  }

  /** First block whose last row is not below `value` (`past`: is above it); the number of blocks where there is none. */
  search(axis: Axis, value: number, past: boolean): number {
    const { values } = this.#axes[axis]
    let [low, high] = [0, Math.ceil(this.#count / BLOCK)]
    while (low < high) {
      const middle = (low + high) >>> 1
      const x = values[middle] as number
      if (past ? x <= value : x < value) low = middle + 1
      else high = middle
    }
    return low
  }
}

/** Of the values seen so far; NaN of none. */
export interface Extremes {
  min: number
  max: number
  last: number
}
