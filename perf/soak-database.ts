/** 10,000 random operations over a Turso server that fails in every way, and four processes on one file: exactly the rows that were meant. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { formatDuration } from "../src/base-term.ts"
import { RunDatabase } from "../src/db.ts"
import { randomOperations } from "../test/hrana-operations.ts"

const [operations = 10_000, seed = 1, batches = 200] = process.argv.slice(2).map(Number)
const ROWS = 500
let begun = performance.now()
const { rows, requests, faults } = await randomOperations(operations, seed)
console.log(
  `${operations} operations, ${requests} requests, faults ${JSON.stringify(faults)}: ${rows} rows, 0 differences (${formatDuration(performance.now() - begun)})`,
)

begun = performance.now()
const folder = mkdtempSync(join(tmpdir(), "alpha-soak-"))
const file = join(folder, "alpha.db")
const runs = ["a", "b", "c", "d"]
const processes = runs.map((run) =>
  Bun.spawn([process.execPath, join(import.meta.dir, "../test/db-worker.ts"), file, run, String(batches), String(ROWS)]),
)
const codes = await Promise.all(processes.map(({ exited }) => exited))
const database = await RunDatabase.open({ url: `file:${file}` })
const through = await Promise.all(runs.map((run) => database.through(run, "metrics")))
const lost = runs.filter((_, i) => codes[i] !== 0 || through[i] !== batches * ROWS - 1)
database.close()
rmSync(folder, { recursive: true })
console.log(
  `4 processes × ${batches} batches × ${ROWS} rows in one file: ${lost.length} runs lost rows (${formatDuration(performance.now() - begun)})`,
)
process.exit(lost.length === 0 ? 0 : 1)
