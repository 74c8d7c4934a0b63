/** The runs that a server shows: those in its directories from their journals, which the database is given too, and what else the database has. */
import { existsSync } from "node:fs"
import type { Log } from "./base-log.ts"
import type { Environment } from "./config.ts"
import {
  type DatabasePlace,
  type DirectoryStore,
  databasePlace,
  filterRuns,
  type Journal,
  type JournalRow,
  type RowQuery,
  type RunAfter,
  type RunDatabase,
  type RunFilter,
  RunMirror,
  type RunStore,
  type RunSummary,
  type RunUpdate,
  runRecord,
  type SeriesQuery,
} from "./db.ts"

import { type LocalRun, serverAlerts } from "./serve-alerts.ts"
import { ApiError } from "./serve-error.ts"

/** How often the database is brought up to date, and the wait after it failed. */
const ROUND_MS = 1000
const AWAY_MS = 5000
/** How long one operation on the database is tried: who waits for a page does not wait for an outage. */
const PATIENCE_MS = 3000

/** The database of a server: the one that is named, or alpha.db where it exists already. */
export function serverDatabase(setting: string | undefined, environment: Environment): DatabasePlace | undefined {
  const isNamed = setting !== undefined || (environment.get("TURSO_DATABASE_URL")?.value ?? "") !== ""
  if (!isNamed && !existsSync("alpha.db")) return undefined
  return { ...databasePlace(setting, environment), patience: PATIENCE_MS }
}

/** A database's place without what might be secret. */
export const databaseName = (url: string): string => (url.startsWith("file:") ? url.slice("file:".length) : new URL(url).host)

export class ServerRuns implements RunStore {
  #database: RunDatabase | undefined
  #isClosed = false
  #problem: string | undefined
  #wake = () => {}
  readonly #ended: Promise<void>
  /** Listeners to all runs. */
  readonly #all = new Set<(update: RunUpdate) => void>()
  /** Those who hear of the database's runs once it is there. */
  readonly #waiting = new Set<(database: RunDatabase) => void>()
  #locals = new Set<string>()

  /** `open`: the one client of this process, where there is a database. */
  constructor(
    private readonly files: DirectoryStore,
    private readonly runsDir: string,
    private readonly open: (() => Promise<RunDatabase>) | undefined,
    private readonly log: Log,
  ) {
    this.#ended = open === undefined ? Promise.resolve() : this.#keep(open)
  }

  /** How the database is: null where there is none. */
  get database(): "ready" | "away" | null {
    return this.open === undefined ? null : this.#database === undefined || this.#problem !== undefined ? "away" : "ready"
  }

  /** Brings the directories into the database until the server ends. */
  async #keep(open: () => Promise<RunDatabase>): Promise<void> {
    let mirror: RunMirror | undefined
    while (!this.#isClosed) {
      try {
        if (mirror === undefined) {
          const database = await open()
          mirror = new RunMirror(database, this.runsDir, (id) => this.files.run(id))
          this.#database = database
          for (const listen of this.#waiting) listen(database)
          this.#waiting.clear()
        }
        await mirror.round()
        if (this.#problem !== undefined) this.log("info", "database", { state: "reached again" })
        this.#problem = undefined
      } catch (error) {
        const { message } = error as Error
        if (this.#problem === undefined) this.log("warn", "database", { error: message, meanwhile: "runs are read from their directories" })
        this.#problem = message
      }
      if (!this.#isClosed) await this.#pause(this.#problem === undefined ? ROUND_MS : AWAY_MS)
    }
    // What a run said last is kept too.
    if (this.#problem === undefined) await mirror?.round().catch(() => {})
    this.#database?.close()
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  async runs(filter: RunFilter = {}): Promise<readonly RunSummary[]> {
    const local = await this.files.runs()
    this.#locals = new Set(local.map(({ id }) => id))
    // An outage of the database hides its own runs alone.
    const others = this.#problem === undefined ? ((await this.#database?.runs().catch(() => [])) ?? []) : []
    return filterRuns([...local, ...others.filter(({ id }) => !this.#locals.has(id))], filter)
  }

  async run(id: string): Promise<RunSummary | undefined> {
    const local = await this.files.run(id)
    if (local !== undefined || this.open === undefined) return local
    // Nobody can say that there is no such run while the database is away.
    const away = () =>
      new ApiError(503, "the database of the runs does not answer", { code: "database_away", headers: { "retry-after-ms": "2000" } })
    if (this.#database === undefined || this.#problem !== undefined) throw away()
    return await this.#database.run(id).catch(() => {
      throw away()
    })
  }

  async #of(id: string): Promise<RunStore> {
    return this.#database === undefined || (await this.files.run(id)) !== undefined ? this.files : this.#database
  }

  config = async (id: string) => (await this.#of(id)).config(id)
  metrics = async (id: string, query: SeriesQuery) => (await this.#of(id)).metrics(id, query)
  through = async (id: string, kind: Journal) => (await this.#of(id)).through(id, kind)
  rows = async (id: string, kind: Journal, query?: RowQuery) => (await this.#of(id)).rows(id, kind, query)
  samples = async (id: string) => (await this.#of(id)).samples(id)
  events = async (id: string) => (await this.#of(id)).events(id)
  checkpoints = async (id: string) => (await this.#of(id)).checkpoints(id)
  setNotes = async (id: string, change: { readonly notes?: string; readonly tags?: readonly string[] }) =>
    (await this.#of(id)).setNotes(id, change)

  alerts = async (id: string): Promise<readonly JournalRow[]> => {
    const told = (await this.events(id)).filter(({ type }) => type === "alert")
    const directory = this.files.find(id)
    return [...told, ...(directory === undefined ? [] : serverAlerts(directory))].toSorted((a, b) => a.time - b.time)
  }

  subscribe(id: string | undefined, after: RunAfter, listener: (update: RunUpdate) => void): () => void {
    let isOpen = true
    const ends: (() => void)[] = []
    const begin = (store: RunStore, one: string | undefined, hear: (update: RunUpdate) => void) => {
      if (isOpen) ends.push(store.subscribe(one, after, hear))
    }
    if (id !== undefined) void this.#of(id).then((store) => begin(store, id, listener))
    else {
      this.#all.add(listener)
      ends.push(() => this.#all.delete(listener))
      begin(this.files, undefined, listener)
      const listen = (database: RunDatabase) =>
        begin(database, undefined, (update) => {
          if (!this.#locals.has(update.run)) listener(update)
        })
      // Which runs are local has to be known before the database tells of any.
      if (this.open !== undefined) {
        void this.runs().then(() => {
          if (this.#database !== undefined) listen(this.#database)
          else if (isOpen) this.#waiting.add(listen)
        })
      }
    }
    return () => {
      isOpen = false
      for (const end of ends) end()
    }
  }

  /** Tells what stands in no journal to those who listen to all runs. */
  announce(update: RunUpdate): void {
    for (const listener of [...this.#all]) listener(update)
  }

  /** What is known of a run that has a directory here. */
  local = (id: string): LocalRun | undefined => {
    const directory = this.files.find(id)
    if (directory === undefined) return undefined
    const { alive, ended } = runRecord(directory)
    return { directory, alive, hasSaid: ended !== undefined }
  }

  close(): void {
    this.#isClosed = true
    this.files.close()
    this.#wake()
  }

  /** After close: the database has what the directories have, and is closed. */
  get ended(): Promise<void> {
    return this.#ended
  }
}
