/** Series of runs as charts draw them: fetched in buckets, put on the axis, smoothed, and grown by live rows. */
import type { Series } from "./db.ts"
import { call } from "./serve-dash-client-dom.ts"
import type { Axis, View } from "./serve-dash-client-view.ts"

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

/** Times in ms since 1970 are greater than this; seconds of a run are not. */
const EPOCH_MS = 1e11
const origins = new Map<string, number>()

/** Where time 0 of the axis stands for a run: its start. */
export const setOrigin = (run: string, startedAt: number): void => void origins.set(run, startedAt)

export async function fetchSeries(
  run: string,
  columns: readonly string[],
  view: View,
  points: number,
  signal: AbortSignal,
): Promise<RunSeries> {
  const onTime = view.x === "time"
  const origin = onTime ? (origins.get(run) ?? 0) : 0
  const unit = onTime ? 1000 : 1
  const query = new URLSearchParams({ columns: columns.join(","), x: view.x, points: String(points) })
  // Time goes as ms since 1970, which is how rows carry it.
  if (view.from !== undefined) query.set("from", String(view.from * unit + origin))
  if (view.to !== undefined) query.set("to", String(view.to * unit + origin))
  const { x, columns: told } = await call<Series>(`/api/runs/${encodeURIComponent(run)}/metrics?${query}`, { signal })
  const isEpoch = onTime && (x[0] ?? 0) > EPOCH_MS
  const start = isEpoch ? origin || (x[0] as number) : 0
  return {
    run,
    x: isEpoch ? x.map((value) => (value - start) / unit) : [...x],
    columns: new Map(
      Object.entries(told).map(([name, { min, max, last }]) => [name, { min: [...min], max: [...max], last: [...last] }] as const),
    ),
    origin: start,
    unit: isEpoch ? unit : 1,
  }
}

/** Journal names of the columns that the API names otherwise. */
const NAMES: Readonly<Record<string, string>> = {
  tokens_per_s: "tokensPerS",
  ms_per_step: "msPerStep",
  val_loss: "valLoss",
  bits_per_byte: "bitsPerByte",
}

/** Adds a live row at the end; false where its place on the axis is not known, and the series must be fetched. */
export function grow(series: RunSeries, axis: Axis, row: Readonly<Record<string, unknown>>): boolean {
  const raw = axis === "step" ? row.step : axis === "tokens" ? row.tokens : axis === "time" ? row.time : undefined
  if (typeof raw !== "number") return false
  const x = (raw - series.origin) / series.unit
  const last = series.x.at(-1) ?? Number.NEGATIVE_INFINITY
  if (x < last) return true
  const index = x === last ? series.x.length - 1 : series.x.push(x) - 1
  for (const [name, column] of series.columns) {
    const journal = Object.keys(NAMES).find((key) => NAMES[key] === name)
    const told = row[name] ?? (journal === undefined ? undefined : row[journal])
    if (typeof told === "number") for (const values of [column.min, column.max, column.last]) values[index] = told
    else if (column.last.length <= index) for (const values of [column.min, column.max, column.last]) values[index] = null
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
