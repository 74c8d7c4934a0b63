/** Random operations on a database of runs over a server that fails in every way, beside a model of what they mean; for the tests and the soak. */
import { uniform } from "../src/base-random.ts"
import { JOURNALS, type Journal, type JournalRow, RunDatabase } from "../src/db.ts"
import { FAULTS, type Fault, startHrana } from "./hrana.ts"

const RUNS = ["a", "b", "c"]
/** Share of the requests that fail. */
const FAULTY = 0.2

interface ModelRun {
  notes: string
  readonly rows: Record<Journal, JournalRow[]>
}

export interface HranaReport {
  readonly rows: number
  readonly requests: number
  readonly faults: Readonly<Record<string, number>>
}

/** Throws naming the first difference between the database and what was meant. */
export async function randomOperations(operations: number, seed: number): Promise<HranaReport> {
  let draws = 0
  const next = () => uniform(seed, 1, 0, draws++)
  let asked = 0
  const faults: Partial<Record<Fault, number>> = {}
  const server = await startHrana(() => {
    if (uniform(seed, 2, 0, asked++) > FAULTY) return undefined
    const fault = FAULTS[Math.floor(uniform(seed, 3, 0, asked) * FAULTS.length)]!
    faults[fault] = (faults[fault] ?? 0) + 1
    return fault
  })
  const database = await RunDatabase.open({ url: server.url, firstWait: 0.1 })
  const model = new Map<string, ModelRun>()
  const start = async (run: string): Promise<ModelRun> => {
    await database.startRun({ id: run, name: run, config: { run }, startedAt: 1 })
    const fresh = model.get(run) ?? { notes: "", rows: { metrics: [], events: [], samples: [] } }
    model.set(run, fresh)
    return fresh
  }
  for (let i = 0; i < operations; i++) {
    const run = RUNS[Math.floor(next() * RUNS.length)]!
    const kind = JOURNALS[Math.floor(next() * JOURNALS.length)]!
    const known = model.get(run) ?? (await start(run))
    const rows = known.rows[kind]
    const choice = next()
    if (choice < 0.01) {
      await database.remove(run)
      model.delete(run)
    } else if (choice < 0.03) await start(run)
    else if (choice < 0.06) {
      known.notes = `${run} ${i}`
      await database.setNotes(run, { notes: known.notes })
    } else if (choice < 0.13) {
      const keep = Math.floor(next() * (rows.length + 1))
      await database.truncate(run, kind, keep)
      known.rows[kind] = rows.slice(0, keep)
    } else {
      // Some rows come a second time, and some leave a gap: those are not written.
      const from = Math.max(0, rows.length - Math.floor(next() * 5)) + (next() < 0.05 ? 7 : 0)
      const more = Array.from({ length: 1 + Math.floor(next() * 30) }, (_, at): JournalRow => {
        const seq = from + at
        return rows[seq] ?? { seq, time: i + 1, type: "step", step: i, loss: next(), note: `${run} ${kind} ${i} ${at}` }
      })
      const through = await database.append(run, kind, more)
      if (from <= rows.length) known.rows[kind] = [...rows.slice(0, from), ...more, ...rows.slice(from + more.length)]
      if (through !== known.rows[kind].length - 1)
        throw new Error(`operation ${i}: through ${through}, want ${known.rows[kind].length - 1}`)
    }
  }
  let total = 0
  for (const kind of JOURNALS) {
    let wanted = 0
    for (const [run, { rows, notes }] of model) {
      const found = await database.rows(run, kind)
      if (!Bun.deepEquals(found, rows[kind]))
        throw new Error(`${run}: ${found.length} rows of ${kind} differ from the ${rows[kind].length} meant`)
      if ((await database.run(run))?.notes !== notes) throw new Error(`${run}: other notes`)
      wanted += rows[kind].length
    }
    // Nothing of other runs, nothing twice.
    const { n } = server.database.query(`SELECT count(*) AS n FROM ${kind}`).get() as { n: bigint }
    if (Number(n) !== wanted) throw new Error(`${n} rows of ${kind} in all, want ${wanted}`)
    total += wanted
  }
  if ((await database.runs()).length !== model.size) throw new Error(`other runs than ${[...model.keys()]}`)
  database.close()
  server.stop()
  return { rows: total, requests: server.requests(), faults }
}
