/** Runs as they lie in their directories, without a database. */
import { existsSync, readdirSync, rmSync, statSync } from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { readJson, sha256, writeAtomic } from "./base-file.ts"
import { isAlive, readHolder } from "./base-process.ts"
import { checkpointsOf, type RunRecordFacts } from "./db-facts.ts"
import { RunFiles } from "./db-files.ts"
import { countJournal, journalPath, readJournal } from "./db-journal.ts"
import { JournalReader } from "./db-journal-reader.ts"
import { querySeries, valueAt } from "./db-series.ts"
import { beats, readBeat } from "./db-state.ts"
import {
  type CheckpointRow,
  JOURNALS,
  type Journal,
  type JournalRow,
  type RowQuery,
  type RunAfter,
  type RunFilter,
  type RunStore,
  type RunSummary,
  type RunUpdate,
  type Series,
  type SeriesQuery,
} from "./db-types.ts"

/** How often subscriptions look for new rows, in ms. */
const LOOK_MS = 500
/** Most rows of a journal that are told at one look. */
const MOST_TOLD = 5000

/** Directories of the runs under `runsDir`. */
export function runDirectories(runsDir: string): string[] {
  if (!existsSync(runsDir)) return []
  return readdirSync(runsDir)
    .filter((name) => existsSync(join(runsDir, name, "config.json")))
    .sort()
    .map((name) => join(runsDir, name))
}

/** A run's record; null where it is damaged: the rows are there all the same, and one run must not hide the others. */
function readRecord(path: string): unknown {
  try {
    return readJson(path)
  } catch (error) {
    if (!(error instanceof AlphaError)) throw error
    return null
  }
}

/** What config.json, lock and notes.json of a run say. Its id is the one in config.json; older runs are named by where they lie. */
export function runRecord(directory: string): RunRecordFacts {
  const path = join(directory, "config.json")
  const config = readRecord(path) as { id?: unknown } | null
  const { mtimeMs } = statSync(path)
  const holder = readHolder(join(directory, "lock"))
  const beat = readBeat(directory)
  const notes = existsSync(join(directory, "notes.json")) ? ((readRecord(join(directory, "notes.json")) ?? {}) as Notes) : {}
  return {
    id: typeof config?.id === "string" ? config.id : sha256(resolve(directory)).slice(0, 32),
    name: basename(directory),
    config,
    host: holder?.host ?? beat?.host ?? null,
    domain: null,
    startedAt: Math.floor(mtimeMs),
    updatedAt: Math.floor(mtimeMs),
    notes: notes.notes ?? "",
    tags: notes.tags ?? [],
    alive: beat === undefined ? holder !== undefined && isAlive(holder) : beats(beat, Date.now()),
    ended: beat === undefined || beat.state === "running" ? undefined : beat.state,
  }
}

interface Notes {
  readonly notes?: string
  readonly tags?: readonly string[]
}

/** The runs under `runsDir`. */
export class DirectoryStore implements RunStore {
  readonly #files = new Map<string, RunFiles>()
  /** Where runs were found by their ids. */
  readonly #places = new Map<string, string>()
  readonly #timers = new Set<ReturnType<typeof setInterval>>()

  constructor(private readonly runsDir: string) {}

  async runs(filter: RunFilter = {}): Promise<readonly RunSummary[]> {
    const all: RunSummary[] = []
    for (const directory of runDirectories(this.runsDir)) all.push(await this.#summary(directory))
    return filterRuns(all, filter)
  }

  async run(id: string): Promise<RunSummary | undefined> {
    const directory = this.find(id)
    return directory === undefined ? undefined : await this.#summary(directory)
  }

  async config(id: string): Promise<unknown> {
    return readRecord(join(this.directory(id), "config.json"))
  }

  async metrics(id: string, query: SeriesQuery): Promise<Series> {
    const { blocks, rows, facts } = await this.#read(this.directory(id), query.columns)
    return await querySeries(blocks, rows, query, facts.flopsPerToken)
  }

  async through(id: string, kind: Journal): Promise<number> {
    return countJournal(journalPath(this.directory(id), kind)) - 1
  }

  async rows(id: string, kind: Journal, query: RowQuery = {}): Promise<readonly JournalRow[]> {
    return readJournal(journalPath(this.directory(id), kind), query)
  }

  samples(id: string): Promise<readonly JournalRow[]> {
    return this.rows(id, "samples")
  }

  events(id: string): Promise<readonly JournalRow[]> {
    return this.rows(id, "events")
  }

  async checkpoints(id: string): Promise<readonly CheckpointRow[]> {
    const directory = this.directory(id)
    const there = (row: CheckpointRow) => existsSync(join(directory, "checkpoints", basename(row.path)))
    const { blocks, rows } = await this.#read(directory, ["loss", "valLoss"])
    const all = await checkpointsOf(await this.events(id), (column, step) => valueAt(blocks, rows, column, step))
    return all.filter(there)
  }

  async setNotes(id: string, change: Notes): Promise<void> {
    const directory = this.directory(id)
    const { notes, tags } = runRecord(directory)
    writeAtomic(join(directory, "notes.json"), `${JSON.stringify({ notes, tags, ...change })}\n`)
  }

  /** Deletes a run that is not being trained. */
  remove(id: string): void {
    const directory = this.directory(id)
    if (runRecord(directory).alive) throw new AlphaError(`run ${directory} is being trained`, { hint: "stop it first", code: EXIT.busy })
    rmSync(directory, { recursive: true })
    this.#files.delete(directory)
  }

  /** Directory of a run by its id or name. Throws when there is none. */
  directory(id: string): string {
    return this.find(id) ?? missingRun(id, this.runsDir)
  }

  subscribe(id: string | undefined, after: RunAfter, listener: (update: RunUpdate) => void): () => void {
    const readers = new Map<string, { reader: JournalReader; rewound: boolean }>()
    const look = (isFirst: boolean) => {
      const directories = id === undefined ? runDirectories(this.runsDir) : [this.directory(id)]
      for (const directory of directories) {
        const run = runRecord(directory).id
        for (const kind of JOURNALS) {
          const path = journalPath(directory, kind)
          // A run that appears later is told from its beginning.
          const from = !isFirst ? 0 : after === undefined ? countJournal(path) : (after[kind] ?? -1) + 1
          const known = readers.get(path) ?? { reader: new JournalReader(path, from), rewound: false }
          readers.set(path, known)
          const { rows, rewound } = known.reader.read(MOST_TOLD)
          if (rewound !== undefined) known.rewound = true
          for (const row of rows) {
            listener({ run, kind, row, ...(known.rewound ? { rewound: true } : {}) })
            known.rewound = false
          }
        }
      }
    }
    look(true)
    const timer = setInterval(() => look(false), LOOK_MS)
    this.#timers.add(timer)
    return () => {
      clearInterval(timer)
      this.#timers.delete(timer)
    }
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer)
    this.#timers.clear()
  }

  /** The same; undefined when there is none. */
  find(id: string): string | undefined {
    const isRun = (directory: string) => existsSync(join(directory, "config.json"))
    const named = join(this.runsDir, id)
    if (basename(named) === id && dirname(named) === join(this.runsDir) && isRun(named)) return named
    const known = this.#places.get(id)
    if (known !== undefined && isRun(known) && runRecord(known).id === id) return known
    const found = runDirectories(this.runsDir).find((directory) => runRecord(directory).id === id)
    if (found !== undefined) this.#places.set(id, found)
    return found
  }

  /** The run's journals, read to their ends, with these columns. */
  async #read(directory: string, columns: readonly string[] = []): Promise<RunFiles> {
    const files = this.#files.get(directory) ?? new RunFiles(directory)
    this.#files.set(directory, files)
    await files.load(columns)
    return files
  }

  async #summary(directory: string): Promise<RunSummary> {
    // Whether it lives is looked up first: a run that ends meanwhile has then written its last word.
    const record = runRecord(directory)
    return (await this.#read(directory)).facts.summary(record)
  }
}

export function missingRun(id: string, where: string): never {
  throw new AlphaError(`no run ${id} in ${where}`, { hint: "alpha runs ls shows those there are", code: EXIT.data })
}

/** Those that `filter` asks for, the one written to last first. */
export function filterRuns(runs: readonly RunSummary[], { states, tag, name, limit }: RunFilter): RunSummary[] {
  return runs
    .filter((run) => states === undefined || states.includes(run.state))
    .filter((run) => tag === undefined || run.tags.includes(tag))
    .filter((run) => name === undefined || run.name.includes(name))
    .toSorted((a, b) => b.updatedAt - a.updatedAt)
    .slice(0, limit)
}
