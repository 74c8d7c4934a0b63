/** Numbers of a run in memory, and any stretch of them in few buckets of which each keeps its least and greatest value. */
import type { JournalRow, Series, SeriesQuery, XAxis } from "./db-types.ts"

/** Journal keys whose names differ in the API. */
const NAMES: Readonly<Record<string, string>> = {
  val_loss: "valLoss",
  tokens_per_s: "tokensPerS",
  ms_per_step: "msPerStep",
  bits_per_byte: "bitsPerByte",
}

/** Name of a journal column in MetricRow. */
export const metricName = (key: string): string => NAMES[key] ?? key

/** Rows of which the least and greatest value are kept at hand. */
const BLOCK = 64

class Growing {
  values = new Float64Array(256)
  grow(length: number, fill: number): void {
    if (length <= this.values.length) return
    const larger = new Float64Array(Math.max(length, this.values.length * 2)).fill(fill)
    larger.set(this.values)
    this.values = larger
  }
}

/** One column; NaN where a row has no value. */
class Column {
  readonly #raw = new Growing()
  readonly #min = new Growing()
  readonly #max = new Growing()

  constructor() {
    this.#raw.values.fill(Number.NaN)
    this.#min.values.fill(Number.POSITIVE_INFINITY)
    this.#max.values.fill(Number.NEGATIVE_INFINITY)
  }

  set(row: number, value: number): void {
    this.#raw.grow(row + 1, Number.NaN)
    const block = Math.floor(row / BLOCK)
    this.#min.grow(block + 1, Number.POSITIVE_INFINITY)
    this.#max.grow(block + 1, Number.NEGATIVE_INFINITY)
    this.#raw.values[row] = value
    if (value < this.#min.values[block]!) this.#min.values[block] = value
    if (value > this.#max.values[block]!) this.#max.values[block] = value
  }

  at(row: number): number {
    return this.#raw.values[row] ?? Number.NaN
  }

  /** Of rows from to `to` (exclusive); null where none has a value. */
  range(from: number, to: number): { min: number | null; max: number | null; last: number | null } {
    let min = Number.POSITIVE_INFINITY
    let max = Number.NEGATIVE_INFINITY
    for (let row = from; row < to; ) {
      if (row % BLOCK === 0 && row + BLOCK <= to) {
        const block = row / BLOCK
        min = Math.min(min, this.#min.values[block] ?? min)
        max = Math.max(max, this.#max.values[block] ?? max)
        row += BLOCK
      } else {
        const value = this.at(row++)
        if (value < min) min = value
        if (value > max) max = value
      }
    }
    if (min > max) return { min: null, max: null, last: null }
    let row = to - 1
    while (Number.isNaN(this.at(row))) row--
    return { min, max, last: this.at(row) }
  }
}

/** The metrics of one run by column. */
export class MetricColumns {
  #count = 0
  readonly #columns = new Map<string, Column>()
  readonly #x = { step: new Growing(), tokens: new Growing(), time: new Growing() }

  get count(): number {
    return this.#count
  }

  append(row: JournalRow): void {
    const at = this.#count++
    for (const axis of ["step", "tokens", "time"] as const) {
      const { values } = this.#x[axis]
      const before = at === 0 ? 0 : (values[at - 1] as number)
      const value = row[axis]
      this.#x[axis].grow(at + 1, 0)
      // An evaluation has no count of tokens: it stands where the step before it stood. Clocks that are set back leave x as it was.
      this.#x[axis].values[at] = typeof value === "number" ? Math.max(value, before) : before
    }
    for (const key in row) {
      const value = row[key]
      if (typeof value !== "number" || !Number.isFinite(value) || key === "seq") continue
      const name = metricName(key)
      const column = this.#columns.get(name) ?? new Column()
      this.#columns.set(name, column)
      column.set(at, value)
    }
  }

  /** Value of a column in the last row at or before `step` that has one. */
  valueAt(name: string, step: number): number | null {
    const end = this.#search("step", step + 0.5)
    const column = this.#columns.get(name)
    for (let row = end - 1; column !== undefined && row >= 0; row--) {
      const value = column.at(row)
      if (!Number.isNaN(value)) return value
    }
    return null
  }

  /** `flopsPerToken` turns tokens into FLOPs. */
  query({ columns, x, from, to, points }: SeriesQuery, flopsPerToken: number): Series {
    const axis = x === "flops" ? "tokens" : x
    const scale = x === "flops" ? flopsPerToken : 1
    const first = from === undefined ? 0 : this.#search(axis, from / scale)
    const end = to === undefined ? this.#count : this.#search(axis, to / scale, true)
    const rows = Math.max(0, end - first)
    const buckets = Math.min(rows, Math.max(1, points))
    const xs: number[] = []
    const series = Object.fromEntries(
      columns.map((name) => [name, { min: [] as (number | null)[], max: [] as (number | null)[], last: [] as (number | null)[] }]),
    )
    for (let i = 0; i < buckets; i++) {
      const a = first + Math.floor((i * rows) / buckets)
      const b = first + Math.floor(((i + 1) * rows) / buckets)
      const found = columns.map((name) => this.#columns.get(name)?.range(a, b) ?? { min: null, max: null, last: null })
      if (found.every(({ last }) => last === null)) continue
      xs.push((this.#x[axis].values[b - 1] as number) * scale)
      for (const [at, name] of columns.entries()) {
        const { min, max, last } = found[at]!
        series[name]!.min.push(min)
        series[name]!.max.push(max)
        series[name]!.last.push(last)
      }
    }
    return { x: xs, columns: series, rows }
  }

  /** First row whose x is not below `value` (`past`: above it). */
  #search(axis: Exclude<XAxis, "flops">, value: number, past = false): number {
    const { values } = this.#x[axis]
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >>> 1
      const x = values[middle] as number
      if (past ? x <= value : x < value) low = middle + 1
      else high = middle
    }
    return low
  }
}
