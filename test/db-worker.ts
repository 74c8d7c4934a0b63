/** One of several processes that write to one database file: `bun test/db-worker.ts FILE RUN BATCHES ROWS`. */
import { RunDatabase } from "../src/db.ts"

const [file, run, batches, rows] = process.argv.slice(2) as [string, string, string, string]
const database = await RunDatabase.open({ url: `file:${file}` })
await database.startRun({ id: run, name: run, config: {}, startedAt: 1 })
for (let batch = 0; batch < Number(batches); batch++) {
  const first = batch * Number(rows)
  await database.append(
    run,
    "metrics",
    Array.from({ length: Number(rows) }, (_, i) => ({ seq: first + i, time: 1, type: "step", step: first + i, loss: 1 / (first + i + 1) })),
  )
}
database.close()
