/** How runs of the database stand: the few rows that tell it, looked up by their keys. */
import type { Connection } from "./db-client.ts"
import { ENDS, RunFacts } from "./db-facts.ts"
import { rowFrom } from "./db-rows.ts"
import type { Journal } from "./db-types.ts"

/** For each row that says how a run stands: its journal, and the query of its seq. Steps end a journal nearly always; evaluations have an index. */
const LAST: readonly (readonly [Journal, string])[] = [
  ["events", "SELECT max(x.seq) FROM events x WHERE x.run_id = r.id AND x.type = 'start'"],
  ["events", `SELECT max(x.seq) FROM events x WHERE x.run_id = r.id AND x.type IN (${ENDS.map((type) => `'${type}'`).join(", ")})`],
  ["metrics", "SELECT x.seq FROM metrics x WHERE x.run_id = r.id AND x.type = 'step' ORDER BY x.seq DESC LIMIT 1"],
  ["metrics", "SELECT max(x.seq) FROM metrics x INDEXED BY metrics_eval WHERE x.run_id = r.id AND x.type = 'eval'"],
]

/** Facts of one run or all: its last start, end, step and evaluation, and its best. */
export async function readFacts(connection: Connection, id?: string): Promise<Map<string, RunFacts>> {
  const facts = new Map<string, RunFacts>()
  const of = (run: unknown) => {
    const found = facts.get(String(run)) ?? new RunFacts()
    facts.set(String(run), found)
    return found
  }
  const [where, args] = id === undefined ? ["", []] : [" WHERE r.id = ?", [id]]
  for (const [kind, last] of LAST) {
    // CROSS JOIN keeps the order: the last seq is looked up once per run, and its row by its key.
    const rows = await connection.read(`SELECT t.* FROM runs r CROSS JOIN ${kind} t ON t.run_id = r.id AND t.seq = (${last})${where}`, args)
    for (const row of rows) of(row.run_id).add(kind, rowFrom(kind, row))
  }
  const more = await connection.read(
    `SELECT r.id, (SELECT min(val_loss) FROM metrics m INDEXED BY metrics_eval WHERE m.run_id = r.id AND m.type = 'eval') AS best,
      (SELECT time FROM events e WHERE e.run_id = r.id ORDER BY seq LIMIT 1) AS first FROM runs r${where}`,
    args,
  )
  for (const row of more) {
    const found = of(row.id)
    found.best = row.best as number | null
    if (typeof row.first === "number" && row.first > 0) found.firstTime = row.first
  }
  return facts
}
