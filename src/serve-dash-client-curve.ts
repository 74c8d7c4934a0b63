/** Curves as charts draw them: smoothed, grown by live rows, looked up under the crosshair. */
import type { XAxis } from "./db.ts"

type Values = (number | null)[]

export interface Column {
  readonly min: Values
  readonly max: Values
  readonly last: Values
}

/** One run's columns over one axis. */
export interface RunSeries {
  readonly run: string
  /** x as the axis shows it; time in seconds since the run's first row. */
  readonly x: number[]
  readonly columns: Map<string, Column>
  /** Of the server's x: what the axis shows is (x − origin) / unit. */
  readonly origin: number
  readonly unit: number
}

/** Journal names of the columns that the API names otherwise. */
const NAMES: Readonly<Record<string, string>> = {
  tokens_per_s: "tokensPerS",
  ms_per_step: "msPerStep",
  val_loss: "valLoss",
  bits_per_byte: "bitsPerByte",
}

/** Adds a live row at the end; false where its place on the axis is not known, and the series must be fetched. */
export function grow(series: RunSeries, axis: XAxis, row: Readonly<Record<string, unknown>>): boolean {
  const raw = axis === "step" ? row.step : axis === "tokens" ? row.tokens : axis === "time" ? row.time : undefined
  if (typeof raw !== "number") return false
  const x = (raw - series.origin) / series.unit
  const last = series.x.at(-1) ?? Number.NEGATIVE_INFINITY
  if (x < last) return true
  const index = x === last ? series.x.length - 1 : series.x.push(x) - 1
  for (const [name, { min, max, last: newest }] of series.columns) {
    const journal = Object.keys(NAMES).find((key) => NAMES[key] === name)
    const told = row[name] ?? (journal === undefined ? undefined : row[journal])
    if (typeof told !== "number") {
      if (newest.length <= index) for (const values of [min, max, newest]) values[index] = null
      continue
    }
    // The last bucket may hold more rows than this one.
    min[index] = Math.min(told, min[index] ?? told)
    max[index] = Math.max(told, max[index] ?? told)
    newest[index] = told
  }
  return true
}

/** The moving average's weight holds for this part of the axis: a line looks alike however many points it has. */
const PARTS = 300

/** Exponential moving average along `at`, which rises, without the bias of its start; gaps stay gaps. */
export function smoothed(at: readonly number[], values: readonly (number | null)[], weight: number): Values {
  if (weight === 0) return [...values]
  const part = ((at.at(-1) ?? 0) - (at[0] ?? 0)) / PARTS || 1
  let average = 0
  let mass = 0
  let before = (at[0] ?? 0) - part
  return values.map((value, i) => {
    if (value === null || !Number.isFinite(value)) return null
    const past = weight ** (((at[i] as number) - before) / part)
    before = at[i] as number
    average = average * past + value * (1 - past)
    mass = mass * past + (1 - past)
    return mass === 0 ? value : average / mass
  })
}

/** Index of the last x that is not after `at` (or the nearest, where it is nearer); -1 for none. */
export function nearest(x: readonly number[], at: number): number {
  let [low, high] = [0, x.length - 1]
  if (high < 0) return -1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if ((x[middle] as number) <= at) low = middle
    else high = middle - 1
  }
  const after = x[low + 1]
  return after !== undefined && after - at < at - (x[low] as number) ? low + 1 : low
}
