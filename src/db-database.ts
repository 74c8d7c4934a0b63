/** Runs in the database: what ingest and sync write, and what views read. */
import type { InValue } from "@libsql/client"
import { AlphaError, EXIT } from "./base-error.ts"
import { Connection, type DatabasePlace, type Statement } from "./db-client.ts"
import { StoredCurves, voidPages } from "./db-curves.ts"
import { filterRuns, missingRun } from "./db-directory.ts"
import { domainOf, settingsOf } from "./db-domain.ts"
import { checkpointsOf, RunFacts, type RunRecordFacts } from "./db-facts.ts"
import { readFacts } from "./db-facts-read.ts"
import { insertRows, rowFrom } from "./db-rows.ts"
import { migrate } from "./db-schema.ts"
import { querySeries, type ReadRows, valueAt } from "./db-series.ts"
import { Subscriptions } from "./db-subscriptions.ts"
import {
  type CheckpointRow,
  JOURNALS,
  type Journal,
  type JournalRow,
  type RowQuery,
  type RunAfter,
  type RunFilter,
  type RunState,
  type RunStore,
  type RunSummary,
  type RunUpdate,
  type Series,
  type SeriesQuery,
} from "./db-types.ts"

/** Rows read in one piece. */
const PAGE = 20_000

/** A run as it is first made known. */
export interface NewRun {
  readonly id: string
  readonly name: string
  /** Parsed config.json. */
  readonly config: unknown
  readonly host?: string | null
  readonly domain?: string | null
  /** ms since 1970. */
  readonly startedAt: number
}

type Stored = Readonly<Record<string, unknown>>

export class RunDatabase implements RunStore {
  readonly #curves: StoredCurves
  readonly #subscriptions = new Subscriptions({
    records: () => this.#records(),
    idOf: async (name) => (await this.#record(name)).id,
    through: (id, kind) => this.through(id, kind),
    rowsAfter: (id, kind, after) => this.#rows(id, kind, { after }),
  })

  private constructor(private readonly connection: Connection) {
    this.#curves = new StoredCurves(connection, (id, after, limit) => this.#rows(id, "metrics", { after, limit }))
  }

  /** Opens the database and brings its tables up to date. */
  static async open(place: DatabasePlace): Promise<RunDatabase> {
    const connection = new Connection(place)
    try {
      await migrate(connection)
    } catch (error) {
      connection.close()
      throw error
    }
    return new RunDatabase(connection)
  }

  /** Makes a run known, or its record new; notes and tags stay. */
  async startRun({ id, name, config, host = null, domain = null, startedAt }: NewRun): Promise<void> {
    const known = domain ?? domainOf(config)
    const { tokenizer, samplePrompts } = settingsOf(config)
    await this.connection.write([
      ...(known === null
        ? []
        : [
            {
              sql: "INSERT OR IGNORE INTO domains (id, display_name, tokenizer, sample_prompts, created_at) VALUES (?, ?, ?, ?, ?)",
              args: [known, known, textOf(tokenizer?.value), JSON.stringify(samplePrompts?.value ?? []), startedAt],
            },
          ]),
      {
        sql: `INSERT INTO runs (id, name, domain, host, config, started_at, updated_at, heartbeat_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
          ON CONFLICT (id) DO UPDATE SET name = excluded.name, config = excluded.config, ended = NULL,
            domain = coalesce(excluded.domain, domain), host = coalesce(excluded.host, host)`,
        args: [id, name, known, host, JSON.stringify(config ?? null), startedAt, startedAt, startedAt],
      },
    ])
  }

  /** Highest seq of a journal with all before it there; -1 of none. */
  async through(id: string, kind: Journal): Promise<number> {
    const [row] = await this.connection.read(`SELECT max(seq) AS seq FROM ${kind} WHERE run_id = ?`, [id])
    return (row?.seq as number | null) ?? -1
  }

  /**
   * Writes rows of a journal, in order of seq without gaps, in one transaction; rows that are there are replaced. Rows that would leave a gap
   * behind what is there are not written. Returns the highest contiguous seq.
   */
  async append(id: string, kind: Journal, rows: readonly JournalRow[]): Promise<number> {
    const through = await this.through(id, kind)
    const first = rows[0]?.seq
    if (rows.some((row, at) => row.seq !== (first as number) + at))
      throw new AlphaError(`run ${id}: ${kind} rows are not in the order of seq`, { code: EXIT.data })
    if (first === undefined || first > through + 1) return through
    const times = rows.map(({ time }) => time)
    const touched = { sql: "UPDATE runs SET updated_at = max(updated_at, ?) WHERE id = ?", args: [Math.max(...times), id] }
    const inserts = [...insertRows(id, kind, rows), ...(kind === "events" ? checkpointRows(id, rows) : []), touched]
    if (kind === "metrics") await this.#curves.append(id, through, rows, (pages) => this.connection.write([...inserts, ...pages]))
    else await this.connection.write(inserts)
    this.#subscriptions.tell(id, kind, rows)
    return Math.max(through, rows.at(-1)!.seq)
  }

  /** Takes back rows from `seq` on: the run was resumed before them. */
  async truncate(id: string, kind: Journal, seq: number): Promise<void> {
    const statements: Statement[] = [{ sql: `DELETE FROM ${kind} WHERE run_id = ? AND seq >= ?`, args: [id, seq] }]
    if (kind === "events")
      statements.push({
        sql: `DELETE FROM checkpoints WHERE run_id = ? AND step NOT IN (SELECT step FROM events WHERE run_id = ? AND type = 'checkpoint')`,
        args: [id, id],
      })
    if (kind === "metrics") statements.push(voidPages(id, seq))
    await this.connection.write(statements)
    this.#curves.forget(id)
    this.#subscriptions.rewind(id, kind, seq)
  }

  /** The run's process lives, at `time`. */
  async heartbeat(id: string, time: number): Promise<void> {
    await this.connection.write([
      { sql: "UPDATE runs SET heartbeat_at = max(coalesce(heartbeat_at, 0), ?), ended = NULL WHERE id = ?", args: [time, id] },
    ])
  }

  /** How the run ended, from somebody who saw it; undefined: it goes on. */
  async endRun(id: string, state: Exclude<RunState, "running" | "stalled"> | undefined): Promise<void> {
    await this.connection.write([{ sql: "UPDATE runs SET ended = ? WHERE id = ?", args: [state ?? null, id] }])
  }

  /** Deletes a run with all its rows. */
  async remove(id: string): Promise<void> {
    const { id: run } = await this.#record(id)
    await this.connection.write([
      ...[...JOURNALS, "checkpoints", "metric_pages"].map((table) => ({ sql: `DELETE FROM ${table} WHERE run_id = ?`, args: [run] })),
      { sql: "DELETE FROM runs WHERE id = ?", args: [run] },
    ])
    this.#curves.forget(run)
  }

  async runs(filter: RunFilter = {}): Promise<readonly RunSummary[]> {
    const [records, facts] = [await this.connection.read("SELECT * FROM runs"), await readFacts(this.connection)]
    const all = records.map(recordOf).map((record) => (facts.get(record.id) ?? new RunFacts()).summary(record))
    return filterRuns(all, filter)
  }

  async run(id: string): Promise<RunSummary | undefined> {
    const record = await this.#find(id)
    return record === undefined
      ? undefined
      : ((await readFacts(this.connection, record.id)).get(record.id) ?? new RunFacts()).summary(record)
  }

  async config(id: string): Promise<unknown> {
    return (await this.#record(id)).config
  }

  async metrics(id: string, query: SeriesQuery): Promise<Series> {
    const record = await this.#record(id)
    const facts = (await readFacts(this.connection, record.id)).get(record.id)
    return await querySeries(await this.#curves.blocks(record.id, query.columns), this.#reader(record.id), query, facts?.flopsPerToken ?? 0)
  }

  async rows(id: string, kind: Journal, query: RowQuery = {}): Promise<readonly JournalRow[]> {
    return await this.#rows((await this.#record(id)).id, kind, query)
  }

  samples(id: string): Promise<readonly JournalRow[]> {
    return this.rows(id, "samples")
  }

  events(id: string): Promise<readonly JournalRow[]> {
    return this.rows(id, "events")
  }

  async checkpoints(id: string): Promise<readonly CheckpointRow[]> {
    const { id: run } = await this.#record(id)
    const events = await this.connection.read("SELECT * FROM events WHERE run_id = ? AND type = 'checkpoint' ORDER BY seq", [run])
    const blocks = await this.#curves.blocks(run, ["loss", "valLoss"])
    return await checkpointsOf(
      events.map((row) => rowFrom("events", row)),
      (column, step) => valueAt(blocks, this.#reader(run), column, step),
    )
  }

  async setNotes(id: string, { notes, tags }: { readonly notes?: string; readonly tags?: readonly string[] }): Promise<void> {
    const record = await this.#record(id)
    const args = [notes ?? record.notes, JSON.stringify(tags ?? record.tags), record.id]
    await this.connection.write([{ sql: "UPDATE runs SET notes = ?, tags = ? WHERE id = ?", args }])
  }

  /** Domains as they were first met: name, tokenizer, prompts. */
  async domains(): Promise<readonly Readonly<Record<string, unknown>>[]> {
    const rows = await this.connection.read("SELECT * FROM domains ORDER BY id")
    return rows.map((row) => ({ ...row }))
  }

  subscribe(id: string | undefined, after: RunAfter, listener: (update: RunUpdate) => void): () => void {
    return this.#subscriptions.add(id, after, listener)
  }

  close(): void {
    this.#subscriptions.close()
    this.connection.close()
  }

  async #records(): Promise<RunRecordFacts[]> {
    return (await this.connection.read("SELECT * FROM runs")).map(recordOf)
  }

  async #find(id: string): Promise<RunRecordFacts | undefined> {
    const rows = await this.connection.read("SELECT * FROM runs WHERE id = ? OR name = ? ORDER BY id = ? DESC, updated_at DESC LIMIT 1", [
      id,
      id,
      id,
    ])
    return rows.map(recordOf)[0]
  }

  async #record(id: string): Promise<RunRecordFacts> {
    return (await this.#find(id)) ?? missingRun(id, "the database")
  }

  /** Rows of a run's metrics by their numbers. */
  #reader(id: string): ReadRows {
    return (from, to) => this.#rows(id, "metrics", { after: from - 1, limit: Math.max(0, to - from) })
  }

  async #rows(id: string, kind: Journal, { after = -1, limit = Number.POSITIVE_INFINITY }: RowQuery): Promise<JournalRow[]> {
    const all: JournalRow[] = []
    for (let from = after; all.length < limit; ) {
      const count = Math.min(PAGE, limit - all.length)
      const sql = `SELECT * FROM ${kind} WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?`
      const rows = await this.connection.read(sql, [id, from, count])
      for (const row of rows) all.push(rowFrom(kind, row))
      if (rows.length < count) break
      from = all.at(-1)!.seq
    }
    return all
  }
}

const textOf = (value: unknown): string | null => (typeof value === "string" ? value : null)

function recordOf(row: Stored): RunRecordFacts {
  return {
    id: String(row.id),
    name: String(row.name),
    config: JSON.parse(String(row.config)),
    host: row.host as string | null,
    domain: row.domain as string | null,
    startedAt: Number(row.started_at),
    updatedAt: Math.max(Number(row.updated_at), Number(row.heartbeat_at ?? 0)),
    notes: String(row.notes),
    tags: JSON.parse(String(row.tags)),
    ended: (row.ended as RunState | null) ?? undefined,
  }
}

/** Rows of the table of checkpoints for the checkpoint events among `rows`. */
function checkpointRows(id: string, rows: readonly JournalRow[]): Statement[] {
  const number = (value: unknown): InValue => (typeof value === "number" ? value : null)
  return rows
    .filter(({ type, step }) => type === "checkpoint" && Number.isSafeInteger(step))
    .map((row) => ({
      sql: `INSERT INTO checkpoints (run_id, step, path, bytes, sha256, loss, val_loss, best, time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (run_id, step) DO UPDATE SET path = excluded.path, bytes = excluded.bytes, sha256 = excluded.sha256, best = excluded.best,
          time = excluded.time`,
      args: [
        id,
        row.step as number,
        String(row.path ?? ""),
        number(row.bytes) ?? 0,
        typeof row.sha256 === "string" ? row.sha256 : null,
        number(row.loss),
        number(row.val_loss),
        row.best === true ? 1 : 0,
        row.time,
      ],
    }))
}
