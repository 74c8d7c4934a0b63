/** What the journals, the database, the server's routes and the views know of a run. */

/** Journals of a run directory: metrics.jsonl, events.jsonl, samples.jsonl. */
export const JOURNALS = ["metrics", "events", "samples"] as const
export type Journal = (typeof JOURNALS)[number]

/** One line of a journal. `seq` counts the lines of its file from 0 without gaps; `time` is in ms since 1970. */
export interface JournalRow {
  readonly seq: number
  readonly time: number
  readonly type: string
  readonly step?: number
  readonly [column: string]: unknown
}

export const RUN_STATES = ["running", "stalled", "crashed", "finished", "stopped"] as const
export type RunState = (typeof RUN_STATES)[number]

/** A run in one row of a list; null is what is not known (yet). Losses in nats per token. */
export interface RunSummary {
  readonly id: string
  readonly name: string
  readonly state: RunState
  /** Last logged step, and the step at which the run ends. */
  readonly step: number
  readonly steps: number | null
  readonly loss: number | null
  readonly valLoss: number | null
  readonly bestValLoss: number | null
  readonly tokensPerS: number | null
  /** Tokens trained on so far. */
  readonly tokens: number
  readonly msPerStep: number | null
  readonly device: string | null
  readonly precision: string | null
  readonly parameters: number | null
  readonly preset: string | null
  /** Domain of the run's data; null where it has none. */
  readonly domain: string | null
  /** ms since 1970. */
  readonly startedAt: number
  readonly updatedAt: number
  readonly host: string | null
  readonly notes: string
  readonly tags: readonly string[]
}

/** One logged step, or one evaluation (then loss, lr … are null). */
export interface MetricRow {
  readonly seq: number
  readonly step: number
  /** ms since 1970. */
  readonly time: number
  readonly loss: number | null
  readonly valLoss: number | null
  readonly lr: number | null
  readonly gradNorm: number | null
  readonly tokens: number | null
  readonly tokensPerS: number | null
  readonly msPerStep: number | null
  readonly mfu: number | null
  readonly skipped: number | null
  readonly bitsPerByte: number | null
  /** Further columns under the journal's names: gpu_power_w … */
  readonly [column: string]: number | null
}

export interface CheckpointRow {
  readonly step: number
  readonly path: string
  readonly bytes: number
  /** Of the weights; null where it was never computed. */
  readonly sha256: string | null
  readonly loss: number | null
  readonly valLoss: number | null
  readonly best: boolean
  readonly time: number
}

export type XAxis = "step" | "tokens" | "time" | "flops"

export interface SeriesQuery {
  /** Names of MetricRow. */
  readonly columns: readonly string[]
  readonly x: XAxis
  /** Inclusive bounds on x. */
  readonly from?: number | undefined
  readonly to?: number | undefined
  /** Most buckets in the answer. */
  readonly points: number
}

/** Buckets along x; each keeps the least and the greatest value that fell into it, so that no spike is lost. null: no value there. */
export interface Series {
  /** x of each bucket's last row, rising. */
  readonly x: readonly number[]
  readonly columns: Readonly<
    Record<
      string,
      { readonly min: readonly (number | null)[]; readonly max: readonly (number | null)[]; readonly last: readonly (number | null)[] }
    >
  >
  /** Rows behind the buckets. */
  readonly rows: number
}

/** What the runs on one kind of data came to. */
export interface DomainSummary {
  readonly id: string
  readonly runs: number
  readonly running: number
  /** Trained on by all its runs together. */
  readonly tokens: number
  /** Of the run written to last. */
  readonly loss: number | null
  readonly bestValLoss: number | null
  readonly bestRun: string | null
  readonly updatedAt: number
}

export interface RunFilter {
  readonly states?: readonly RunState[] | undefined
  readonly tag?: string | undefined
  /** Part of the name. */
  readonly name?: string | undefined
  readonly limit?: number | undefined
}

/** Rows of one journal in the order of `seq`. */
export interface RowQuery {
  readonly after?: number | undefined
  readonly limit?: number | undefined
}

export interface RunUpdate {
  readonly run: string
  readonly kind: Journal
  readonly row: JournalRow
  /** The run was resumed before this row: those of its journal with this number or a higher one that were told before are void. */
  readonly rewound?: true
}

/** After which rows a listener goes on, by journal; undefined: from now on. */
export type RunAfter = Readonly<Partial<Record<Journal, number>>> | undefined

/** What a view needs of runs; over the database or over run directories. `id` may be the id or the name. */
export interface RunStore {
  runs(filter?: RunFilter): Promise<readonly RunSummary[]>
  run(id: string): Promise<RunSummary | undefined>
  /** The run's config.json. */
  config(id: string): Promise<unknown>
  metrics(id: string, query: SeriesQuery): Promise<Series>
  /** Number of a journal's last row; −1 of none. */
  through(id: string, kind: Journal): Promise<number>
  /** Journal lines as they were written, with seq > after. */
  rows(id: string, kind: Journal, query?: RowQuery): Promise<readonly JournalRow[]>
  samples(id: string): Promise<readonly JournalRow[]>
  events(id: string): Promise<readonly JournalRow[]>
  checkpoints(id: string): Promise<readonly CheckpointRow[]>
  setNotes(id: string, change: { readonly notes?: string; readonly tags?: readonly string[] }): Promise<void>
  /** Calls back with every new row, of all runs when `id` is undefined, that comes after `after` (seq per journal; absent: from now on). Returns the end of it. */
  subscribe(id: string | undefined, after: RunAfter, listener: (update: RunUpdate) => void): () => void
  close(): void
}
