/** Runs that trainers elsewhere ship here: directories beside the server's own runs, row for row as the trainer wrote them. */
import { appendFileSync, existsSync, lstatSync, mkdirSync, readdirSync, truncateSync } from "node:fs"
import { join } from "node:path"
import { fsyncPath, readJson, writeAtomic } from "./base-file.ts"
import { JOURNALS, type Journal, JournalWriter, readBeat, writeBeat } from "./db.ts"
import { ApiError, badField } from "./serve-error.ts"
import { markCounts, offsetOf, prefixMarks } from "./train.ts"

/** Marks a directory whose journals are written here, and by nobody else. */
const MARKER = "remote.json"
const NAME = /^[A-Za-z0-9][\w.-]{0,99}$/
export const RUN_ID = /^[A-Za-z0-9][\w-]{0,63}$/

interface Marker {
  readonly run: string
  /** The trainer process that may write; undefined before the first. */
  readonly session: string | undefined
  /** How often another trainer process took its place. */
  readonly turn: number
}

export type Counts = Readonly<Record<Journal, number>>

export interface RemoteRun {
  readonly id: string
  readonly directory: string
  /** Rows of each journal. */
  counts: Record<Journal, number>
  session: string | undefined
  turn: number
}

export class RemoteRuns {
  readonly #runs = new Map<string, RemoteRun>()
  #isScanned = false

  constructor(readonly root: string) {}

  /** Throws 404 where no such run was started here. */
  get(id: string): RemoteRun {
    this.#scan()
    const run = this.#runs.get(id)
    if (run === undefined) throw new ApiError(404, `run ${id}: start it first`, { code: "run_not_found" })
    return run
  }

  /** The directory of a run that is new here, or known. */
  start(id: string, name: string, record: Readonly<Record<string, unknown>>): RemoteRun {
    this.#scan()
    const known = this.#runs.get(id)
    if (known !== undefined && existsSync(join(known.directory, "config.json"))) return known
    const directory = known?.directory ?? this.#place(id, name)
    const run = known ?? { id, directory, counts: { metrics: 0, events: 0, samples: 0 }, session: undefined, turn: 0 }
    mkdirSync(join(directory, "checkpoints"), { recursive: true })
    // The marker is first: a kill in between must not leave what looks like a run of this machine.
    this.#mark(run)
    // Nor may a look in between find a run without a process, which is told as a crash.
    if (readBeat(directory) === undefined) writeBeat(directory, { state: "running", time: Date.now(), host: "", pid: 0 })
    this.#record(run, record)
    this.#runs.set(id, run)
    return run
  }

  /** SHA-256 of beginnings of each journal, by which the trainer finds what of it holds. */
  async marks(run: RemoteRun): Promise<Record<Journal, [number, string][]>> {
    const of = async (journal: Journal) => [...(await prefixMarks(path(run, journal), markCounts(run.counts[journal])))]
    return { metrics: await of("metrics"), events: await of("events"), samples: await of("samples") }
  }

  /**
   * Lets `session` write from the rows `keep` on. `turn` is the one of which it knows the marks: a start that arrives when another process has
   * had its turn since changes nothing. Throws 409 then. Returns whether the turn is new.
   */
  async adopt(run: RemoteRun, session: string, turn: number, keep: Counts, record: Readonly<Record<string, unknown>>): Promise<boolean> {
    const isMine = () => {
      if (run.session !== session && run.turn !== turn) throw stale(run)
      return run.session === session
    }
    if (isMine()) return false
    const cut = JOURNALS.filter((journal) => keep[journal] < run.counts[journal])
    const sizes = await Promise.all(cut.map((journal) => offsetOf(path(run, journal), keep[journal])))
    if (isMine()) return false // its turn came meanwhile
    cut.forEach((journal, i) => {
      truncateSync(path(run, journal), sizes[i])
      run.counts[journal] = keep[journal]
    })
    this.#record(run, record)
    run.session = session
    run.turn++
    this.#mark(run)
    return true
  }

  /** Appends what of `rows` is new, the first of which is row `from`; returns the highest row there is. */
  append(run: RemoteRun, session: string, journal: Journal, from: number, rows: readonly object[]): number {
    this.check(run, session)
    const have = run.counts[journal]
    const fresh = from > have ? [] : rows.slice(have - from)
    if (fresh.length > 0) {
      try {
        appendFileSync(path(run, journal), fresh.map((row) => `${JSON.stringify(row)}\n`).join(""))
      } catch (error) {
        run.counts[journal] = repaired(path(run, journal))
        throw error
      }
      run.counts[journal] += fresh.length
    }
    return run.counts[journal] - 1
  }

  /** Throws 409 unless `session` is the trainer process that may write. */
  check(run: RemoteRun, session: string): void {
    if (run.session !== session) throw stale(run)
  }

  /** The rows are on the disk when it returns. */
  flush(run: RemoteRun): void {
    for (const journal of JOURNALS) if (existsSync(path(run, journal))) fsyncPath(path(run, journal))
  }

  #mark(run: RemoteRun): void {
    const { id, session, turn } = run
    writeAtomic(join(run.directory, MARKER), `${JSON.stringify({ run: id, session, turn } satisfies Marker)}\n`)
  }

  #record({ id, directory }: RemoteRun, record: Readonly<Record<string, unknown>>): void {
    writeAtomic(join(directory, "config.json"), `${JSON.stringify({ ...record, id }, null, 1)}\n`)
  }

  /** A free directory: the run's name, and its id where that is taken. Throws 409 for a run that this machine trains itself. */
  #place(id: string, name: string): string {
    if (!NAME.test(name)) throw badField("name", "expected up to 100 letters, digits, dots, dashes and underscores")
    for (const own of directories(this.root)) {
      if (!existsSync(join(this.root, own, MARKER)) && idOf(join(this.root, own)) === id)
        throw new ApiError(409, `run ${id} is a run of this machine: its directory is read as it is`, { code: "local_run" })
    }
    const plain = join(this.root, name)
    // A link that leads nowhere is there too.
    return lstatSync(plain, { throwIfNoEntry: false }) !== undefined ? join(this.root, `${name.slice(0, 60)}-${id.slice(0, 36)}`) : plain
  }

  /** Finds what was received by earlier processes. */
  #scan(): void {
    if (this.#isScanned) return
    for (const name of directories(this.root)) {
      const directory = join(this.root, name)
      if (!existsSync(join(directory, MARKER))) continue
      const { run: id, session, turn } = readJson(join(directory, MARKER)) as Marker
      const rows = (journal: Journal) => repaired(join(directory, `${journal}.jsonl`))
      this.#runs.set(id, {
        id,
        directory,
        session,
        turn,
        counts: { metrics: rows("metrics"), events: rows("events"), samples: rows("samples") },
      })
    }
    this.#isScanned = true
  }
}

const stale = ({ id }: RemoteRun): ApiError =>
  new ApiError(409, `session: run ${id} is written by another trainer process; start again`, { code: "stale_session" })
const path = (run: RemoteRun, journal: Journal): string => join(run.directory, `${journal}.jsonl`)

/** Rows of a journal; a torn last line, which nobody was told of, is cut off. */
function repaired(path: string): number {
  if (!existsSync(path)) return 0
  const journal = new JournalWriter(path)
  journal.close()
  return journal.next
}

const directories = (root: string): string[] =>
  existsSync(root)
    ? readdirSync(root, { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
        .map(({ name }) => name)
    : []

function idOf(directory: string): string | undefined {
  try {
    return (readJson(join(directory, "config.json")) as { id?: string }).id
  } catch {
    return undefined // no run
  }
}
