/** A run store in memory, over what a test says of one run. */
import type { Journal, JournalRow, RunStore, RunSummary, RunUpdate } from "../src/db.ts"

export interface FakeRuns extends RunStore {
  readonly summaries: RunSummary[]
  readonly journals: Map<string, Record<Journal, JournalRow[]>>
  /** A new row, told to the listeners. */
  add(id: string, kind: Journal, columns: { type: string; [column: string]: unknown }): JournalRow
}

export const fakeSummary = (id: string, state: RunSummary["state"] = "running"): RunSummary => ({
  id,
  name: "novels",
  state,
  step: 3,
  steps: 10,
  loss: 2.5,
  valLoss: null,
  bestValLoss: null,
  tokensPerS: 100,
  tokens: 300,
  msPerStep: 1,
  device: "cpu",
  precision: "f32",
  parameters: 1000,
  preset: null,
  domain: "novels",
  startedAt: 1,
  updatedAt: 2,
  host: "here",
  notes: "",
  tags: [],
})

export function fakeRuns(ids: readonly string[] = ["run-1"]): FakeRuns {
  const listeners = new Set<(update: RunUpdate) => void>()
  const journals = new Map<string, Record<Journal, JournalRow[]>>(ids.map((id) => [id, { metrics: [], events: [], samples: [] }]))
  const rows = (id: string, kind: Journal) => journals.get(id)?.[kind] ?? []
  const store: FakeRuns = {
    summaries: ids.map((id) => fakeSummary(id)),
    journals,
    add(id, kind, columns) {
      const row: JournalRow = { seq: rows(id, kind).length, time: 1000, ...columns }
      rows(id, kind).push(row)
      for (const listener of [...listeners]) listener({ run: id, kind, row })
      return row
    },
    runs: async () => store.summaries,
    run: async (id) => store.summaries.find((run) => run.id === id || run.name === id),
    config: async (id) => ({ id }),
    metrics: async (_id, { columns }) => ({
      x: [1],
      columns: Object.fromEntries(columns.map((name) => [name, { min: [1], max: [2], last: [2] }])),
      rows: 2,
    }),
    rows: async (id, kind, { after = -1, limit = 1e9 } = {}) =>
      rows(id, kind)
        .filter(({ seq }) => seq > after)
        .slice(0, limit),
    through: async (id, kind) => rows(id, kind).length - 1,
    samples: async (id) => rows(id, "samples"),
    events: async (id) => rows(id, "events"),
    checkpoints: async () => [
      { step: 5, path: "/secret/place/step-000005", bytes: 10, sha256: null, loss: 1, valLoss: null, best: true, time: 1 },
    ],
    async setNotes(id, change) {
      const at = store.summaries.findIndex((run) => run.id === id)
      store.summaries[at] = { ...store.summaries[at]!, ...change }
    },
    subscribe(id, after, listener) {
      const own = (update: RunUpdate) => {
        if (id === undefined || update.run === id) listener(update)
      }
      if (after !== undefined)
        for (const kind of ["metrics", "events", "samples"] as const)
          for (const row of rows(id ?? "", kind)) if (row.seq > (after[kind] ?? -1)) own({ run: id ?? "", kind, row })
      listeners.add(own)
      return () => listeners.delete(own)
    },
    close() {},
  }
  return store
}
