/** Who listens to runs of the database: rows that this process writes are told at once, those of others at the next look. */
import { JOURNALS, type Journal, type JournalRow, type RunAfter, type RunUpdate } from "./db-types.ts"

/** How often is looked for rows of other processes, in ms. */
const LOOK_MS = 2000
/** How far other processes' clocks and the time of their writing may be behind, in ms. */
const BEHIND_MS = 10 * LOOK_MS

interface Subscription {
  readonly run: string | undefined
  readonly listener: (update: RunUpdate) => void
  /** Highest seq told by run and journal. */
  readonly told: Map<string, number>
  /** Those that were cut back, until their next row is told. */
  readonly rewound: Set<string>
  /** When the last look that succeeded began, in ms; 0 before the first. */
  looked: number
}

/** What is asked of the database. */
export interface Subscribable {
  /** Runs and when they changed. */
  records(): Promise<readonly { readonly id: string; readonly updatedAt: number }[]>
  /** The id of a run that is named; throws where there is none. */
  idOf(name: string): Promise<string>
  through(id: string, kind: Journal): Promise<number>
  rowsAfter(id: string, kind: Journal, after: number): Promise<readonly JournalRow[]>
}

export class Subscriptions {
  readonly #all = new Set<Subscription>()
  #timer: ReturnType<typeof setInterval> | undefined
  #looking = false

  constructor(private readonly database: Subscribable) {}

  /** Rows of a run, or of all, from behind those of `after` on; returns what ends it. */
  add(name: string | undefined, after: RunAfter, listener: (update: RunUpdate) => void): () => void {
    const subscription: Subscription = { run: undefined, listener, told: new Map(), rewound: new Set(), looked: 0 }
    const begin = async () => {
      const run = name === undefined ? undefined : await this.database.idOf(name)
      Object.assign(subscription, { run })
      for (const { id } of run === undefined ? await this.database.records() : [{ id: run }]) {
        for (const kind of JOURNALS)
          subscription.told.set(`${id}/${kind}`, after === undefined ? await this.database.through(id, kind) : (after[kind] ?? -1))
      }
      this.#all.add(subscription)
      await this.#look(subscription)
    }
    let ended = false
    const started = begin().catch(() => {})
    this.#timer ??= setInterval(() => void this.#lookAll(), LOOK_MS)
    return () => {
      if (ended) return
      ended = true
      void started.then(() => this.#all.delete(subscription))
      this.#all.delete(subscription)
    }
  }

  /** Rows were written. */
  tell(id: string, kind: Journal, rows: readonly JournalRow[]): void {
    for (const subscription of this.#all) tellOne(subscription, id, kind, rows)
  }

  /** Rows from `seq` on were taken back. */
  rewind(id: string, kind: Journal, seq: number): void {
    const key = `${id}/${kind}`
    for (const { told, rewound } of this.#all) {
      if ((told.get(key) ?? -1) < seq) continue
      told.set(key, seq - 1)
      rewound.add(key)
    }
  }

  close(): void {
    clearInterval(this.#timer)
    this.#all.clear()
  }

  async #lookAll(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    try {
      for (const subscription of this.#all) await this.#look(subscription)
    } catch {
      // The database is away: the next look goes back to the last one that succeeded.
    } finally {
      this.#looking = false
    }
  }

  /** Tells what other processes have written since the last look. */
  async #look(subscription: Subscription): Promise<void> {
    const { run, told } = subscription
    const now = Date.now()
    const since = subscription.looked - BEHIND_MS
    for (const { id, updatedAt } of await this.database.records()) {
      if ((run !== undefined && id !== run) || updatedAt < since) continue
      for (const kind of JOURNALS) tellOne(subscription, id, kind, await this.database.rowsAfter(id, kind, told.get(`${id}/${kind}`) ?? -1))
    }
    subscription.looked = now
  }
}

function tellOne({ run, told, rewound, listener }: Subscription, id: string, kind: Journal, rows: readonly JournalRow[]): void {
  if (run !== undefined && run !== id) return
  const key = `${id}/${kind}`
  for (const row of rows) {
    // A row after a gap waits for the next look, which reads what is missing too.
    if (row.seq !== (told.get(key) ?? -1) + 1) continue
    told.set(key, row.seq)
    listener({ run: id, kind, row, ...(rewound.delete(key) ? { rewound: true } : {}) })
  }
}
