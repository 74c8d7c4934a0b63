/** Series of runs, fetched in buckets and put on the axis. */
import type { Series } from "./db.ts"
import type { RunSeries } from "./serve-dash-client-curve.ts"
import { call } from "./serve-dash-client-dom.ts"
import type { View } from "./serve-dash-client-view.ts"

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
