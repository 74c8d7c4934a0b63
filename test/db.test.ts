import { expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  DirectoryStore,
  databasePlace,
  type JournalRow,
  JournalWriter,
  journalPath,
  RunDatabase,
  type RunStore,
  readJournal,
  rewindJournal,
  syncRuns,
} from "../src/db.ts"
import { Connection } from "../src/db-client.ts"
import { insertRows, rowFrom } from "../src/db-rows.ts"
import { MIGRATIONS, migrate } from "../src/db-schema.ts"
import { until } from "./support.ts"

const folder = () => mkdtempSync(join(tmpdir(), "db-"))
const place = () => ({ url: `file:${join(folder(), "alpha.db")}` })
const steps = (from: number, to: number): JournalRow[] =>
  Array.from({ length: to - from }, (_, i) => ({
    seq: from + i,
    time: 1000 + from + i,
    type: "step",
    step: from + i,
    loss: 1 / (from + i + 1),
  }))

test("a host without its scheme is refused, not made a file; a file that cannot be opened is told at once", async () => {
  const environment = (value: string) => ({ get: (name: string) => (name === "TURSO_DATABASE_URL" ? { value } : undefined) })
  for (const value of ["mydb.turso.io", "htps://mydb.turso.io", "mydb"])
    expect(() => databasePlace(undefined, environment(value))).toThrow("TURSO_DATABASE_URL: expected a URL")
  expect(databasePlace("other.db", environment("mydb.turso.io")).url).toEndWith("/other.db")
  expect(databasePlace(undefined, environment("file:/tmp/x.db")).url).toBe("file:/tmp/x.db")
  expect(databasePlace(undefined, environment("libsql://mydb.turso.io")).url).toBe("libsql://mydb.turso.io")
  const missing = join(folder(), "none", "alpha.db")
  // Tried again it would take far longer than a test may.
  await expect(RunDatabase.open({ url: `file:${missing}`, patience: 600_000 })).rejects.toThrow(`database ${missing}`)
})

test("a damaged record hides neither its run nor the others", async () => {
  const runsDir = folder()
  for (const [name, config] of [
    ["good", '{"id":"1"}'],
    ["bad", '{"id":'],
  ] as const) {
    mkdirSync(join(runsDir, name))
    writeFileSync(join(runsDir, name, "config.json"), config)
    writeFileSync(journalPath(join(runsDir, name), "metrics"), `${JSON.stringify(steps(0, 1)[0])}\n`)
  }
  const store = new DirectoryStore(runsDir)
  expect((await store.runs()).map(({ name }) => name).sort()).toEqual(["bad", "good"])
  expect(await store.config("bad")).toBeNull()
  store.close()
})

test("rows come back as they went in, whatever is in them", async () => {
  const connection = new Connection(place())
  await migrate(connection)
  const rows: JournalRow[] = [
    { seq: 0, time: 5, type: "step", step: 1, loss: 0.1 + 0.2, lr: 1e-300, tokens: 2 ** 53 - 1, gradNorm: 0, mfu: 1 },
    { seq: 1, time: 6, type: "step", step: 2, loss: null, tokens: 2.5, skipped: "three", gpu_sm_mhz: 12, nested: { a: [1, null] } },
    { seq: 2, time: 7, type: "eval", val_loss: -0.5, best: true, step: 3.5 },
  ]
  await connection.write(insertRows("r", "metrics", rows))
  const stored = await connection.read("SELECT * FROM metrics ORDER BY seq")
  expect(stored.map((row) => rowFrom("metrics", row))).toEqual(rows)
  connection.close()
})

test("the database comes to the newest schema from each earlier one, keeps its rows, and refuses a newer or changed one", async () => {
  for (let version = 0; version <= MIGRATIONS.length; version++) {
    const connection = new Connection(place())
    await migrate(connection, MIGRATIONS.slice(0, version))
    if (version > 0)
      await connection.write([{ sql: "INSERT INTO runs (id, name, started_at, updated_at) VALUES ('a', 'first', 1, 2)", args: [] }])
    await migrate(connection)
    await migrate(connection)
    expect((await connection.read("SELECT version FROM schema_version")).length).toBe(MIGRATIONS.length)
    expect((await connection.read("SELECT name FROM run_summary")).length).toBe(version > 0 ? 1 : 0)
    if (version > 0 && version < MIGRATIONS.length)
      await expect(migrate(connection, MIGRATIONS.slice(0, version))).rejects.toThrow(
        `has schema ${MIGRATIONS.length}, this alpha knows ${version}`,
      )
    await connection.write([{ sql: "UPDATE schema_version SET checksum = 'x' WHERE version = 1", args: [] }])
    await expect(migrate(connection)).rejects.toThrow("schema 1 is not the one this alpha makes")
    connection.close()
  }
})

test("rows are written once however often they are sent, never with a gap, and taken back by a resumed run", async () => {
  const database = await RunDatabase.open(place())
  await database.startRun({ id: "a", name: "first", config: { seed: 1 }, startedAt: 1 })
  expect(await database.append("a", "metrics", steps(0, 1500))).toBe(1499)
  expect(await database.append("a", "metrics", steps(700, 1600))).toBe(1599)
  expect(await database.append("a", "metrics", steps(1601, 1700))).toBe(1599)
  expect(await database.append("a", "metrics", [])).toBe(1599)
  await expect(database.append("a", "metrics", [steps(1600, 1601)[0]!, steps(1602, 1603)[0]!])).rejects.toThrow("not in the order of seq")
  expect(await database.rows("first", "metrics")).toEqual(steps(0, 1600))
  expect((await database.metrics("a", { columns: ["loss"], x: "step", points: 10 })).rows).toBe(1600)
  await database.truncate("a", "metrics", 100)
  expect(await database.append("a", "metrics", steps(100, 110))).toBe(109)
  expect((await database.metrics("a", { columns: ["loss"], x: "step", points: 10 })).rows).toBe(110)
  await database.setNotes("a", { tags: ["x"] })
  expect(await database.runs({ tag: "x" })).toMatchObject([{ id: "a", name: "first", step: 109, tags: ["x"], state: "crashed" }])
  await database.remove("first")
  expect(await database.runs()).toEqual([])
  database.close()
})

function writeRun(runsDir: string, name: string, count: number): string {
  const directory = join(runsDir, name)
  mkdirSync(join(directory, "checkpoints/step-2"), { recursive: true })
  writeFileSync(join(directory, "config.json"), JSON.stringify({ id: `id-${name}`, config: { preset: { value: "abc" } }, device: "cpu" }))
  const put = (kind: "metrics" | "events" | "samples", rows: object[]) => {
    const writer = new JournalWriter(journalPath(directory, kind))
    for (const row of rows) writer.append(row)
    writer.close()
  }
  put("events", [{ type: "start", steps: count, parameters: 10, flopsPerToken: 60, device: "cpu", precision: "f32" }])
  put(
    "metrics",
    Array.from({ length: count }, (_, i) => ({
      type: "step",
      step: i + 1,
      loss: i === 77 ? 1000 : 2,
      tokens: (i + 1) * 8,
      ms_per_step: 1,
    })),
  )
  put("metrics", [{ type: "eval", step: count, val_loss: 1.5, best: true }])
  put("samples", [{ type: "sample", step: 2, prompt: "a", text: "b" }])
  put("events", [
    { type: "checkpoint", step: 2, path: join(directory, "checkpoints/step-2"), bytes: 9, best: true },
    { type: "summary", status: "completed", steps: count },
  ])
  return directory
}

test("run directories and the database they are synced into say the same; a second sync writes nothing, one after a resume what changed", async () => {
  const runsDir = folder()
  const directory = writeRun(runsDir, "first", 1000)
  const files = new DirectoryStore(runsDir)
  const database = await RunDatabase.open(place())
  const sync = async () => (await syncRuns(database, runsDir, (id) => files.run(id)))[0]!.rows
  expect(await sync()).toEqual({ metrics: 1001, events: 3, samples: 1 })
  expect(await sync()).toEqual({ metrics: 0, events: 0, samples: 0 })
  const views = async (store: RunStore) => ({
    run: { ...(await store.run("first")), updatedAt: 0, host: null },
    metrics: await store.metrics("id-first", { columns: ["loss", "valLoss", "none"], x: "flops", points: 20 }),
    part: await store.metrics("first", { columns: ["loss"], x: "step", from: 10, to: 12, points: 20 }),
    checkpoints: await store.checkpoints("first"),
    samples: await store.samples("first"),
    config: await store.config("first"),
  })
  const one = await views(files)
  expect(await views(database)).toEqual(one)
  expect(one.run).toMatchObject({ state: "finished", step: 1000, steps: 1000, loss: 2, bestValLoss: 1.5, preset: "abc", tokens: 8000 })
  expect(Math.max(...one.metrics.columns.loss!.max.map(Number))).toBe(1000)
  expect(one.metrics.x.length).toBe(20)
  expect(one.metrics.x.at(-1)).toBe(8000 * 60)
  expect(one.part.x).toEqual([10, 11, 12])
  expect(one.checkpoints).toMatchObject([{ step: 2, bytes: 9, loss: 2, valLoss: null, best: true }])
  rewindJournal(journalPath(directory, "metrics"), 500)
  const writer = new JournalWriter(journalPath(directory, "metrics"))
  for (let step = 501; step <= 510; step++) writer.append({ type: "step", step, loss: 3 })
  expect(await sync()).toEqual({ metrics: 10, events: 0, samples: 0 })
  writer.append({ type: "step", step: 511, loss: 3 })
  writer.close()
  expect(await sync()).toEqual({ metrics: 1, events: 0, samples: 0 })
  expect(await database.rows("first", "metrics")).toEqual(readJournal(journalPath(directory, "metrics")))
  expect((await files.metrics("first", { columns: ["loss"], x: "step", points: 5 })).rows).toBe(511)
  database.close()
})

test("no spike is lost, whatever the number of buckets", async () => {
  const runsDir = folder()
  writeRun(runsDir, "first", 1000)
  const files = new DirectoryStore(runsDir)
  for (let points = 1; points < 1100; points += 13) {
    const { columns, x } = await files.metrics("first", { columns: ["loss"], x: "step", points })
    expect(x.length).toBeLessThanOrEqual(points)
    expect(Math.max(...columns.loss!.max.map(Number))).toBe(1000)
    expect(Math.min(...columns.loss!.min.map(Number))).toBe(2)
  }
})

test("subscribers hear every row once, from where they say", async () => {
  const database = await RunDatabase.open(place())
  await database.startRun({ id: "a", name: "first", config: {}, startedAt: Date.now() })
  await database.append("a", "metrics", steps(0, 10))
  const heard: number[] = []
  const stop = database.subscribe("a", { metrics: 4 }, ({ row }) => heard.push(row.seq))
  await until("the first five", () => heard.length === 5)
  await database.append("a", "metrics", steps(8, 20))
  expect(heard).toEqual(Array.from({ length: 15 }, (_, i) => i + 5))
  stop()
  await database.append("a", "metrics", steps(20, 21))
  expect(heard.length).toBe(15)
  database.close()
})

test("four processes fill one database file at once: no batch is lost", async () => {
  const file = join(folder(), "alpha.db")
  const processes = ["a", "b", "c", "d"].map((run) =>
    Bun.spawn([process.execPath, join(import.meta.dir, "db-worker.ts"), file, run, "20", "50"], { stderr: "pipe" }),
  )
  for (const one of processes) expect([await one.exited, await new Response(one.stderr).text()]).toEqual([0, ""])
  const database = await RunDatabase.open({ url: `file:${file}` })
  for (const run of ["a", "b", "c", "d"])
    expect((await database.rows(run, "metrics")).map(({ seq }) => seq)).toEqual([...Array(1000).keys()])
  database.close()
}, 300_000)
