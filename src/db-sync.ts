/** Brings run directories into the database, once or again and again; what is there already is not written again. */
import { join } from "node:path"
import { isDeepStrictEqual } from "node:util"
import type { RunDatabase } from "./db-database.ts"
import { runDirectories, runRecord } from "./db-directory.ts"
import { journalPath, readJournal, signatureOf } from "./db-journal.ts"
import { JournalReader } from "./db-journal-reader.ts"
import { JOURNALS, type Journal, type RunState, type RunSummary } from "./db-types.ts"

/** Rows of one transaction. */
const BATCH = 5000
/** How often the database hears that a run lives. */
const BEAT_MS = 15_000

export interface SyncedRun {
  readonly id: string
  readonly name: string
  /** Rows written by journal. */
  readonly rows: Readonly<Record<Journal, number>>
}

/** Whatever of a run changes changes one of these. */
const FILES = ["config.json", "lock", "state.json", "notes.json", ...JOURNALS.map((kind) => `${kind}.jsonl`)]

/** What was told of a run, so that it is told again only when it changes. */
interface Known {
  readonly readers: Map<Journal, JournalReader>
  record: string | undefined
  notes: string
  state: RunState | undefined
  beatAt: number
  /** Of the files of a run that has ended, all of which were read. */
  signature: string | undefined
}

/** Reads every run under `runsDir` once. `state` tells how a run stands as seen from its directory. */
export const syncRuns = (database: RunDatabase, runsDir: string, state: RunMirror["state"]): Promise<SyncedRun[]> =>
  new RunMirror(database, runsDir, state).round()

/** Keeps the database as the run directories are. */
export class RunMirror {
  /** Runs by their directories. */
  readonly #runs = new Map<string, Known>()

  constructor(
    private readonly database: RunDatabase,
    private readonly runsDir: string,
    readonly state: (id: string) => Promise<RunSummary | undefined>,
  ) {}

  /** Writes what is new. After an error the next round finds what was written. */
  async round(): Promise<SyncedRun[]> {
    const done: SyncedRun[] = []
    for (const directory of runDirectories(this.runsDir)) {
      const signature = signatureOf(FILES.map((name) => join(directory, name)))
      const known = this.#runs.get(directory)
      if (known !== undefined && known.signature === signature) continue
      done.push(await this.#run(directory, signature))
    }
    return done
  }

  async #run(directory: string, signature: string): Promise<SyncedRun> {
    const { id, name, config, host, startedAt, notes, tags } = runRecord(directory)
    const known: Known = this.#runs.get(directory) ?? {
      readers: new Map(),
      record: undefined,
      notes: '["",[]]',
      state: undefined,
      beatAt: 0,
      signature: undefined,
    }
    this.#runs.set(directory, known)
    known.signature = undefined
    const record = JSON.stringify([name, config])
    if (known.record !== record) {
      await this.database.startRun({ id, name, config, host, startedAt })
      known.record = record
      known.state = undefined
    }
    const rows = { metrics: 0, events: 0, samples: 0 }
    for (const kind of JOURNALS) rows[kind] = await this.#journal(known, id, directory, kind)
    const said = JSON.stringify([notes, tags])
    if (known.notes !== said) await this.database.setNotes(id, { notes, tags })
    known.notes = said
    await this.#tellState(known, id)
    if (known.state !== "running" && known.state !== "stalled") known.signature = signature
    return { id, name, rows }
  }

  async #tellState(known: Known, id: string): Promise<void> {
    const state = (await this.state(id))?.state ?? "running"
    const isAlive = state === "running"
    if (isAlive && known.state === "running" && Date.now() - known.beatAt >= BEAT_MS) await this.#beat(known, id)
    if (state === known.state) return
    if (isAlive) await this.#beat(known, id)
    else await this.database.endRun(id, state === "stalled" ? undefined : state)
    known.state = state
  }

  async #beat(known: Known, id: string): Promise<void> {
    known.beatAt = Date.now()
    await this.database.heartbeat(id, known.beatAt)
  }

  /** Writes what the database lacks of a journal; returns the number of rows. */
  async #journal({ readers }: Known, id: string, directory: string, kind: Journal): Promise<number> {
    const reader = readers.get(kind) ?? (await this.#begin(id, directory, kind))
    // Until all went well the next round asks the database anew.
    readers.delete(kind)
    for (let count = 0; ; ) {
      const { rows, rewound } = reader.read(BATCH)
      if (rewound !== undefined) await this.database.truncate(id, kind, rewound)
      const last = rows.at(-1)
      if (last !== undefined && (await this.database.append(id, kind, rows)) !== last.seq) return count
      count += rows.length
      if (rows.length === BATCH) continue
      readers.set(kind, reader)
      return count
    }
  }

  /** A reader behind the rows that both have; what else the database has is taken back. */
  async #begin(id: string, directory: string, kind: Journal): Promise<JournalReader> {
    const path = journalPath(directory, kind)
    const through = await this.database.through(id, kind)
    const isSame = async (seq: number): Promise<boolean> => {
      const [[own], [stored]] = [
        readJournal(path, { after: seq - 1, limit: 1 }),
        await this.database.rows(id, kind, { after: seq - 1, limit: 1 }),
      ]
      return own !== undefined && isDeepStrictEqual({ ...own }, { ...stored })
    }
    if (through >= 0 && !(await isSame(through))) {
      // Journals change at their end alone: where a row is the same, all before it are.
      let [same, other] = [-1, through]
      while (other - same > 1) {
        const middle = (same + other) >> 1
        if (await isSame(middle)) same = middle
        else other = middle
      }
      await this.database.truncate(id, kind, same + 1)
      return new JournalReader(path, same + 1)
    }
    return new JournalReader(path, through + 1)
  }
}
