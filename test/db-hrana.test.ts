import { expect, test } from "bun:test"
import { JOURNALS, type Journal, type JournalRow, RunDatabase } from "../src/db.ts"
import { rowFrom } from "../src/db-rows.ts"
import { MIGRATIONS } from "../src/db-schema.ts"
import { FAULTS, type Fault, startHrana } from "./hrana.ts"

const random = (seed: number) => () => {
  seed = (seed * 48271) % 2147483647
  return seed / 2147483647
}

/** HRANA_OPERATIONS=10000 for the long run. */
const OPERATIONS = Number(process.env.HRANA_OPERATIONS ?? 400)

test("some hundred random operations over a server that fails in every way end in exactly the rows that were meant", async () => {
  const next = random(7)
  const seen = new Set<Fault>()
  const server = startHrana(() => {
    if (next() > 0.2) return undefined
    const fault = FAULTS[Math.floor(next() * FAULTS.length)]!
    seen.add(fault)
    return fault
  })
  const database = await RunDatabase.open({ url: server.url, firstWait: 0.1 })
  const runs = ["a", "b", "c"]
  const model = new Map<string, JournalRow[]>()
  for (const run of runs) await database.startRun({ id: run, name: run, config: {}, startedAt: 1 })
  for (let i = 0; i < OPERATIONS; i++) {
    const run = runs[Math.floor(next() * runs.length)]!
    const kind = JOURNALS[Math.floor(next() * JOURNALS.length)] as Journal
    const key = `${run}/${kind}`
    const rows = model.get(key) ?? []
    if (next() < 0.08) {
      const keep = Math.floor(next() * (rows.length + 1))
      await database.truncate(run, kind, keep)
      model.set(key, rows.slice(0, keep))
      continue
    }
    // Some rows come a second time, and some leave a gap: those are not written.
    const from = Math.max(0, rows.length - Math.floor(next() * 5)) + (next() < 0.05 ? 7 : 0)
    const more = Array.from({ length: 1 + Math.floor(next() * 30) }, (_, at): JournalRow => {
      const seq = from + at
      return rows[seq] ?? { seq, time: i + 1, type: "step", step: i, loss: next(), note: `${key} ${i} ${at}` }
    })
    const through = await database.append(run, kind, more)
    if (from <= rows.length) model.set(key, [...rows.slice(0, from), ...more, ...rows.slice(from + more.length)])
    expect(through).toBe((model.get(key)?.length ?? 0) - 1)
  }
  for (const run of runs) for (const kind of JOURNALS) expect(await database.rows(run, kind)).toEqual(model.get(`${run}/${kind}`) ?? [])
  for (const kind of JOURNALS) {
    const count = [...model].filter(([key]) => key.endsWith(`/${kind}`)).reduce((sum, [, rows]) => sum + rows.length, 0)
    expect(Number((server.database.query(`SELECT count(*) AS n FROM ${kind}`).get() as { n: bigint }).n)).toBe(count)
  }
  expect([...seen].sort()).toEqual([...FAULTS].sort())
  database.close()
  server.stop()
}, 60_000)

test("every migration whose reply is lost is found done, once", async () => {
  for (const fault of FAULTS) {
    let count = 0
    const server = startHrana(() => (count++ % 2 === 0 ? fault : undefined))
    const database = await RunDatabase.open({ url: server.url, firstWait: 0.1 })
    expect(server.database.query("SELECT count(*) AS n FROM schema_version").get()).toEqual({ n: BigInt(MIGRATIONS.length) })
    database.close()
    server.stop()
  }
}, 30_000)

test("a server that stays away ends in an error that names it; a refused statement is not tried again", async () => {
  const away = startHrana(() => "unavailable")
  await expect(RunDatabase.open({ url: away.url, patience: 200 })).rejects.toThrow("database 127.0.0.1: ")
  away.stop()
  const server = startHrana(() => undefined)
  const database = await RunDatabase.open({ url: server.url })
  const before = server.requests()
  await expect(database.endRun("a", "nonsense" as "crashed").then(() => database.startRun(null as never))).rejects.toThrow()
  expect(server.requests() - before).toBeLessThanOrEqual(1)
  database.close()
  server.stop()
})

test("rows of a server read back as they were given", async () => {
  const server = startHrana(() => undefined)
  const database = await RunDatabase.open({ url: server.url })
  await database.startRun({ id: "a", name: "a", config: {}, startedAt: 1 })
  const row = {
    seq: 0,
    time: 5,
    type: "step",
    step: 1,
    loss: 0.1 + 0.2,
    lr: 1e-300,
    tokens: 2 ** 53 - 1,
    text: "é\u0000",
    nested: { a: [null] },
  }
  await database.append("a", "metrics", [row])
  expect(await database.rows("a", "metrics")).toEqual([row])
  expect(rowFrom("metrics", { seq: 0, time: 1, type: "x", step: null, extra: null })).toEqual({ seq: 0, time: 1, type: "x" })
  database.close()
  server.stop()
})
