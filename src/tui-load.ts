/** What the screen needs of the store, and no more. */
import { CHART_COLUMNS, GPU_COLUMNS } from "./tui-charts.ts"
import type { RunSource } from "./tui-remote.ts"
import { type Detail, type State, shown } from "./tui-state.ts"

export interface Loaded extends State {
  /** What `error` says in words. */
  readonly cause?: unknown
}

/** The state with the store's newest answers. A store that does not answer leaves the old ones, with the reason in `error`. */
export async function load(state: State, store: RunSource, points: number): Promise<Loaded> {
  try {
    const runs = await store.runs()
    const details = new Map<string, Detail>()
    const fresh: State = { ...state, runs }
    for (const { id } of shown(fresh)) details.set(id, await detailOf(fresh, id, store, points))
    return { ...fresh, details, error: undefined, now: Date.now() }
  } catch (error) {
    return { ...state, error: error instanceof Error ? error.message : String(error), cause: error, now: Date.now() }
  }
}

async function detailOf(state: State, id: string, store: RunSource, points: number): Promise<Detail> {
  const old = state.details.get(id) ?? {}
  switch (state.tab) {
    case "charts":
      return { ...old, axis: state.axis, series: await store.metrics(id, { columns: CHART_COLUMNS, x: state.axis, points }) }
    case "gpu":
      return {
        ...old,
        axis: state.axis,
        series: await store.metrics(id, { columns: [...CHART_COLUMNS, ...GPU_COLUMNS], x: state.axis, points }),
      }
    case "events":
      return { ...old, events: await store.events(id) }
    case "samples":
      return { ...old, samples: await store.samples(id) }
    case "config":
      return { ...old, config: (await store.config(id)) ?? {} }
  }
}
