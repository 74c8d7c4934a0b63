/** Journal rows as rows of tables and back: what has a column goes there, the rest into the JSON of `extra`. */
import type { InValue } from "@libsql/client"
import type { Statement } from "./db-client.ts"
import type { Journal, JournalRow } from "./db-types.ts"

type Kind = "number" | "integer" | "string"

/** Column → key in the journal and its type; `type`, `step` and `time` every table has. */
const COLUMNS: Readonly<Record<Journal, Readonly<Record<string, readonly [key: string, kind: Kind]>>>> = {
  metrics: {
    loss: ["loss", "number"],
    val_loss: ["val_loss", "number"],
    lr: ["lr", "number"],
    grad_norm: ["gradNorm", "number"],
    tokens: ["tokens", "integer"],
    tokens_per_s: ["tokens_per_s", "number"],
    ms_per_step: ["ms_per_step", "number"],
    mfu: ["mfu", "number"],
    skipped: ["skipped", "integer"],
    bits_per_byte: ["bits_per_byte", "number"],
    gpu_utilisation: ["gpu_utilisation", "number"],
    gpu_memory_bytes: ["gpu_memory_bytes", "integer"],
    gpu_power_w: ["gpu_power_w", "number"],
    gpu_temperature_c: ["gpu_temperature_c", "number"],
  },
  samples: { prompt: ["prompt", "string"], text: ["text", "string"] },
  events: { level: ["level", "string"], message: ["message", "string"] },
}

/** Most variables of one statement are 32,766; more rows than a thousand gain nothing. */
const ROWS = 1000
/** Characters of text in one statement: far below what a server takes in one request. */
const TEXT = 1 << 20

const fits = (value: unknown, kind: Kind): value is InValue =>
  kind === "string" ? typeof value === "string" : kind === "integer" ? Number.isSafeInteger(value) : Number.isFinite(value)

/** Values of one row in the order of its table's columns, and their length as text. */
function valuesOf(run: string, journal: Journal, row: JournalRow): { values: InValue[]; length: number } {
  const { seq, type, time, step, ...others } = row
  const rest: Record<string, unknown> = { ...others }
  const values: InValue[] = [run, seq, type]
  if (Number.isSafeInteger(step)) values.push(step as number)
  else {
    values.push(null)
    if (step !== undefined) rest.step = step
  }
  values.push(time)
  let length = 40
  for (const [key, kind] of Object.values(COLUMNS[journal])) {
    const value = rest[key]
    if (fits(value, kind)) {
      values.push(value)
      length += kind === "string" ? (value as string).length : 8
      delete rest[key]
    } else values.push(null)
  }
  const extra = Object.keys(rest).length === 0 ? null : JSON.stringify(rest)
  values.push(extra)
  return { values, length: length + (extra?.length ?? 0) }
}

/** Statements that put `rows` into the table of their journal; a row that is there already becomes the given one. */
export function insertRows(run: string, journal: Journal, rows: readonly JournalRow[]): Statement[] {
  const columns = ["run_id", "seq", "type", "step", "time", ...Object.keys(COLUMNS[journal]), "extra"]
  const update = columns
    .slice(2)
    .map((name) => `${name} = excluded.${name}`)
    .join(", ")
  const place = `(${columns.map(() => "?").join(", ")})`
  const statements: Statement[] = []
  let args: InValue[] = []
  let count = 0
  let text = 0
  const flush = () => {
    if (count === 0) return
    const places = Array.from({ length: count }, () => place).join(", ")
    statements.push({
      sql: `INSERT INTO ${journal} (${columns.join(", ")}) VALUES ${places} ON CONFLICT (run_id, seq) DO UPDATE SET ${update}`,
      args,
    })
    args = []
    count = 0
    text = 0
  }
  for (const row of rows) {
    const { values, length } = valuesOf(run, journal, row)
    if (text + length > TEXT) flush()
    args.push(...values)
    text += length
    if (++count === ROWS) flush()
  }
  flush()
  return statements
}

/** The journal row of a table row: the same keys and values, columns first. */
export function rowFrom(journal: Journal, stored: Readonly<Record<string, unknown>>): JournalRow {
  const row: Record<string, unknown> = { seq: stored.seq, time: stored.time, type: stored.type }
  if (stored.step !== null) row.step = stored.step
  for (const [column, [key]] of Object.entries(COLUMNS[journal])) if (stored[column] !== null) row[key] = stored[column]
  if (typeof stored.extra === "string") Object.assign(row, JSON.parse(stored.extra))
  return row as unknown as JournalRow
}
