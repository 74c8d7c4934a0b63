/** The database's tables as numbered steps: each is done once, in order, and never changed afterwards. */
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256 } from "./base-file.ts"
import type { Connection, Statement } from "./db-client.ts"

export interface Migration {
  readonly version: number
  readonly name: string
  readonly statements: readonly string[]
}

/** What each journal row of a run is kept as; `extra` is JSON of the columns that have no place of their own. */
export const MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: "runs, metrics, checkpoints, domains",
    statements: [
      `CREATE TABLE runs (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, domain TEXT, host TEXT, config TEXT NOT NULL DEFAULT '{}',
        started_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, notes TEXT NOT NULL DEFAULT '', tags TEXT NOT NULL DEFAULT '[]')`,
      "CREATE INDEX runs_updated ON runs (updated_at DESC)",
      `CREATE TABLE metrics (
        run_id TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, step INTEGER, time INTEGER NOT NULL,
        loss REAL, val_loss REAL, lr REAL, grad_norm REAL, tokens INTEGER, tokens_per_s REAL, ms_per_step REAL, mfu REAL, skipped INTEGER,
        bits_per_byte REAL, gpu_utilisation REAL, gpu_memory_bytes INTEGER, gpu_power_w REAL, gpu_temperature_c REAL, extra TEXT,
        PRIMARY KEY (run_id, seq)) WITHOUT ROWID`,
      `CREATE TABLE checkpoints (
        run_id TEXT NOT NULL, step INTEGER NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT, loss REAL, val_loss REAL,
        best INTEGER NOT NULL DEFAULT 0, time INTEGER NOT NULL, PRIMARY KEY (run_id, step)) WITHOUT ROWID`,
      `CREATE TABLE domains (
        id TEXT PRIMARY KEY, display_name TEXT NOT NULL, tokenizer TEXT, sample_prompts TEXT NOT NULL DEFAULT '[]',
        model_defaults TEXT NOT NULL DEFAULT '{}', train_defaults TEXT NOT NULL DEFAULT '{}', created_at INTEGER NOT NULL)`,
    ],
  },
  {
    version: 2,
    name: "samples, events",
    statements: [
      `CREATE TABLE samples (
        run_id TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, step INTEGER, time INTEGER NOT NULL, prompt TEXT, text TEXT, extra TEXT,
        PRIMARY KEY (run_id, seq)) WITHOUT ROWID`,
      `CREATE TABLE events (
        run_id TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, step INTEGER, time INTEGER NOT NULL, level TEXT, message TEXT, extra TEXT,
        PRIMARY KEY (run_id, seq)) WITHOUT ROWID`,
      "CREATE INDEX events_type ON events (run_id, type, seq DESC)",
      "CREATE INDEX metrics_eval ON metrics (run_id, val_loss) WHERE type = 'eval'",
    ],
  },
  {
    version: 3,
    name: "state of runs, run_summary",
    statements: [
      "ALTER TABLE runs ADD COLUMN heartbeat_at INTEGER",
      "ALTER TABLE runs ADD COLUMN ended TEXT CHECK (ended IN ('finished', 'stopped', 'crashed'))",
      `CREATE VIEW run_summary AS SELECT r.*,
        (SELECT max(seq) FROM metrics m WHERE m.run_id = r.id) + 1 AS metric_count,
        (SELECT m.step FROM metrics m WHERE m.run_id = r.id ORDER BY seq DESC LIMIT 1) AS latest_step,
        (SELECT min(val_loss) FROM metrics m WHERE m.run_id = r.id AND m.type = 'eval') AS best_val_loss,
        (SELECT count(*) FROM checkpoints c WHERE c.run_id = r.id) AS checkpoint_count,
        (SELECT max(step) FROM checkpoints c WHERE c.run_id = r.id) AS latest_checkpoint_step,
        (SELECT e.extra FROM events e WHERE e.run_id = r.id AND e.type = 'start' ORDER BY seq DESC LIMIT 1) AS start_event
        FROM runs r`,
    ],
  },
  {
    version: 4,
    name: "pages of metrics",
    statements: [
      `CREATE TABLE metric_pages (
        run_id TEXT NOT NULL, name TEXT NOT NULL, page INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run_id, name, page)) WITHOUT ROWID`,
    ],
  },
]

const VERSIONS = `CREATE TABLE IF NOT EXISTS schema_version (
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL)`

export const checksum = ({ name, statements }: Migration): string => sha256([name, ...statements].join("\0"))

/**
 * Brings the database to the newest of `migrations`. Each is one transaction that begins with its own row in schema_version: of several
 * processes one writes the row, and the others find it. Throws on a schema that is newer, or was made otherwise.
 */
export async function migrate(connection: Connection, migrations: readonly Migration[] = MIGRATIONS): Promise<void> {
  await connection.write([{ sql: VERSIONS, args: [] }])
  for (const migration of migrations) {
    const applied = await versions(connection)
    check(applied, migrations)
    if (applied.has(migration.version)) continue
    const row: Statement = {
      sql: "INSERT INTO schema_version (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
      args: [migration.version, migration.name, checksum(migration), Date.now()],
    }
    try {
      await connection.write([row, ...migration.statements.map((sql) => ({ sql, args: [] }))])
    } catch (error) {
      // Another process was first, or the reply to our own commit was lost and the second try found it done.
      if (!(await versions(connection)).has(migration.version)) throw error
    }
  }
  check(await versions(connection), migrations)
}

async function versions(connection: Connection): Promise<Map<number, string>> {
  const rows = await connection.read("SELECT version, checksum FROM schema_version")
  return new Map(rows.map((row) => [Number(row.version), String(row.checksum)]))
}

function check(applied: ReadonlyMap<number, string>, migrations: readonly Migration[]): void {
  const newest = migrations.at(-1)?.version ?? 0
  const found = Math.max(0, ...applied.keys())
  if (found > newest) {
    throw new AlphaError(`the database has schema ${found}, this alpha knows ${newest}`, {
      hint: "use the newer alpha that made it, or another database",
      code: EXIT.data,
    })
  }
  for (const [version, sum] of applied) {
    const own = migrations.find((migration) => migration.version === version)
    if (own !== undefined && checksum(own) === sum) continue
    throw new AlphaError(`the database's schema ${version} is not the one this alpha makes`, {
      hint: "it was changed by hand or by another build: use another database, and alpha runs sync fills it",
      code: EXIT.data,
    })
  }
}
