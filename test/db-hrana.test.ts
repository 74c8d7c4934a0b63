import { expect, test } from "bun:test"
import { RunDatabase } from "../src/db.ts"
import { rowFrom } from "../src/db-rows.ts"
import { MIGRATIONS } from "../src/db-schema.ts"
import { FAULTS, startHrana } from "./hrana.ts"
import { randomOperations } from "./hrana-operations.ts"

test("400 random operations over a server that fails in every way end in exactly the rows that were meant", async () => {
  const { faults } = await randomOperations(400, 7)
  expect(Object.keys(faults).sort()).toEqual([...FAULTS].sort())
}, 300_000)

test("every migration whose reply is lost is found done, once", async () => {
  for (const fault of FAULTS) {
    let count = 0
    const server = await startHrana(() => (count++ % 2 === 0 ? fault : undefined))
    const database = await RunDatabase.open({ url: server.url, firstWait: 0.1 })
    expect(server.database.query("SELECT count(*) AS n FROM schema_version").get()).toEqual({ n: BigInt(MIGRATIONS.length) })
    database.close()
    server.stop()
  }
}, 300_000)

test("a server that stays away ends in an error that names it; a refused statement is not tried again", async () => {
  const away = await startHrana(() => "unavailable")
  await expect(RunDatabase.open({ url: away.url, patience: 200 })).rejects.toThrow("database 127.0.0.1: ")
  away.stop()
  const server = await startHrana(() => undefined)
  const database = await RunDatabase.open({ url: server.url })
  const before = server.requests()
  await expect(database.endRun("a", "nonsense" as "crashed").then(() => database.startRun(null as never))).rejects.toThrow()
  expect(server.requests() - before).toBeLessThanOrEqual(1)
  database.close()
  server.stop()
})

test("rows of a server read back as they were given", async () => {
  const server = await startHrana(() => undefined)
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
