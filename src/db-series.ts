/** Any stretch of a run's numbers in few buckets, of which each has its least, greatest and last value: from blocks, and from rows at the edges. */
import { AXES, type Axis, BLOCK, type Blocks, type Extremes, numbersOf, placeOf } from "./db-blocks.ts"
import type { JournalRow, Series, SeriesQuery } from "./db-types.ts"

/** Most rows that are read for one answer; a longer stretch is answered from blocks. */
const MOST_ROWS = 32_768

/** Rows of the run from `from` to `to` (exclusive), which begins at a block; fewer where the journal was cut meanwhile. */
export type ReadRows = (from: number, to: number) => Promise<readonly JournalRow[]>

/** Rows in memory with their places on the axes. */
class Stretch {
  readonly #places: Readonly<Record<Axis, Float64Array>>
  readonly #values = new Map<string, Float64Array>()

  constructor(
    readonly from: number,
    rows: readonly JournalRow[],
    before: Readonly<Record<Axis, number>>,
    names: readonly string[],
  ) {
    const empty = () => new Float64Array(rows.length).fill(Number.NaN)
    this.#places = { step: empty(), tokens: empty(), time: empty() }
    for (const name of names) this.#values.set(name, empty())
    const at = { ...before }
    rows.forEach((row, i) => {
      for (const axis of AXES) {
        at[axis] = placeOf(row, axis, at[axis])
        this.#places[axis][i] = at[axis]
      }
      for (const [name, value] of numbersOf(row)) {
        const values = this.#values.get(name)
        if (values !== undefined) values[i] = value
      }
    })
  }

  get to(): number {
    return this.from + this.#places.step.length
  }

  place(axis: Axis, row: number): number {
    return this.#places[axis][row - this.from] ?? Number.NaN
  }

  fold(name: string, from: number, to: number, seen: Extremes): void {
    const values = this.#values.get(name)
    for (let row = from; values !== undefined && row < Math.min(to, this.to); row++) {
      const value = values[row - this.from] as number
      if (Number.isNaN(value)) continue
      if (!(value >= seen.min)) seen.min = value
      if (!(value <= seen.max)) seen.max = value
      seen.last = value
    }
  }
}

/** The rows from `from` to `to`, read from the beginning of a block on. */
async function stretch(blocks: Blocks, read: ReadRows, from: number, to: number, names: readonly string[]): Promise<Stretch> {
  const first = Math.floor(from / BLOCK)
  const before = (axis: Axis) => (first === 0 ? 0 : blocks.place(axis, first - 1))
  const rows = to > from ? await read(first * BLOCK, to) : []
  return new Stretch(first * BLOCK, rows, { step: before("step"), tokens: before("tokens"), time: before("time") }, names)
}

/** First row whose place is not below `value` (`past`: is above it). */
async function search(blocks: Blocks, read: ReadRows, axis: Axis, value: number, past = false): Promise<number> {
  const block = blocks.search(axis, value, past)
  const from = block * BLOCK
  if (from >= blocks.count) return blocks.count
  const rows = await stretch(blocks, read, from, Math.min(from + BLOCK, blocks.count), [])
  for (let row = from; row < rows.to; row++) {
    const x = rows.place(axis, row)
    if (past ? x > value : x >= value) return row
  }
  return rows.to
}

/** Rows of a bucket: the same for the same stretch, so that curves do not tremble while a run grows; whole blocks where they are many. */
function bucketSize(first: number, end: number, points: number): number {
  const rows = end - first
  const buckets = (size: number) => Math.floor((end - 1) / size) - Math.floor(first / size) + 1
  let size = Math.max(1, Math.ceil(rows / points))
  const unit = size >= BLOCK || rows > MOST_ROWS ? BLOCK : 1
  size = Math.ceil(size / unit) * unit
  while (buckets(size) > points && size < end) size += unit
  return size
}

/** `flopsPerToken` turns tokens into FLOPs. All columns asked for are in `blocks`. */
export async function querySeries(
  blocks: Blocks,
  read: ReadRows,
  { columns, x, from, to, points }: SeriesQuery,
  flopsPerToken: number,
): Promise<Series> {
  const axis = x === "flops" ? "tokens" : x
  const scale = x === "flops" ? flopsPerToken : 1
  const first = from === undefined || scale === 0 ? 0 : await search(blocks, read, axis, from / scale)
  const end = to === undefined || scale === 0 ? blocks.count : await search(blocks, read, axis, to / scale, true)
  const rows = Math.max(0, end - first)
  const xs: number[] = []
  const series = Object.fromEntries(
    columns.map((name) => [name, { min: [] as (number | null)[], max: [] as (number | null)[], last: [] as (number | null)[] }]),
  )
  if (rows === 0) return { x: xs, columns: series, rows }
  const size = bucketSize(first, end, Math.max(1, points))
  const isWhole = size % BLOCK === 0 && size >= BLOCK
  // Blocks serve from the first whole one on; the last may be open, and is whole when nothing lies behind it.
  const head = Math.min(end, Math.ceil(first / BLOCK) * BLOCK)
  const tail = end === blocks.count ? end : Math.max(head, Math.floor(end / BLOCK) * BLOCK)
  const edges = isWhole
    ? [await stretch(blocks, read, first, head, columns), await stretch(blocks, read, tail, end, columns)]
    : [await stretch(blocks, read, first, end, columns)]
  const place = (row: number): number => {
    const edge = edges.find((one) => row >= one.from && row < one.to)
    return edge?.place(axis, row) ?? blocks.place(axis, Math.floor(row / BLOCK))
  }
  for (let a = first; a < end; ) {
    const b = Math.min(end, (Math.floor(a / size) + 1) * size)
    const seen = columns.map((name): Extremes => {
      const found = { min: Number.NaN, max: Number.NaN, last: Number.NaN }
      if (!isWhole) {
        edges[0]!.fold(name, a, b, found)
        return found
      }
      if (a < head) edges[0]!.fold(name, a, Math.min(b, head), found)
      const [low, high] = [Math.max(a, head), Math.min(b, tail)]
      if (low < high) blocks.fold(name, low / BLOCK, Math.ceil(high / BLOCK), found)
      if (b > tail) edges[1]!.fold(name, Math.max(a, tail), b, found)
      return found
    })
    const last = b - 1
    a = b
    if (seen.every((one) => Number.isNaN(one.last))) continue
    xs.push(place(last) * scale)
    columns.forEach((name, i) => {
      const { min, max, last: value } = seen[i]!
      series[name]!.min.push(Number.isNaN(min) ? null : min)
      series[name]!.max.push(Number.isNaN(max) ? null : max)
      series[name]!.last.push(Number.isNaN(value) ? null : value)
    })
  }
  return { x: xs, columns: series, rows }
}

/** Value of a column in the last row at or before `step` that has one. */
export async function valueAt(blocks: Blocks, read: ReadRows, name: string, step: number): Promise<number | null> {
  const end = await search(blocks, read, "step", step, true)
  const block = Math.floor(end / BLOCK)
  const near = await stretch(blocks, read, block * BLOCK, end, [name])
  const seen = { min: Number.NaN, max: Number.NaN, last: Number.NaN }
  near.fold(name, block * BLOCK, end, seen)
  if (!Number.isNaN(seen.last)) return seen.last
  for (let before = block - 1; before >= 0; before--) {
    const value = blocks.last(name, before)
    if (!Number.isNaN(value)) return value
  }
  return null
}
