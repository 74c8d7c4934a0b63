/** A server with a database: it keeps the runs of the directories there, shows what else is there, and answers without it. */
import { afterAll, afterEach, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { type Journal, JournalWriter, journalPath, RunDatabase, readJournal, rewindJournal } from "../src/db.ts"
import { PROGRAM, until } from "./support.ts"

const work = mkdtempSync(join(tmpdir(), "alpha-serve-db-"))
const runsDir = join(work, "runs")
const children: Bun.Subprocess[] = []
afterEach(async () => {
  for (const child of children.splice(0)) {
    child.kill("SIGKILL")
    await child.exited
  }
})
afterAll(() => rmSync(work, { recursive: true, force: true }))

// biome-ignore lint/suspicious/noExplicitAny: answers are checked field by field
type Json = any

async function serve(flags: readonly string[], environment: Record<string, string> = {}) {
  const args = [...PROGRAM, "serve", "--json", "--runsOnly", "--port=0", "--device=cpu", "--threads=1"]
  const env = { PATH: process.env.PATH ?? "", HOME: work, ALPHA_ADMIN_KEY: "admin-key-12", ...environment }
  const child = Bun.spawn([...args, `--runsDir=${runsDir}`, "--publicRead", ...flags], {
    cwd: work,
    env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  children.push(child)
  const reader = child.stdout.getReader()
  const { value } = await reader.read()
  reader.releaseLock()
  if (value === undefined) throw new Error(await new Response(child.stderr).text())
  const said = JSON.parse(new TextDecoder().decode(value)) as { url: string; database: string | null }
  const get = async (path: string): Promise<Json> => (await fetch(said.url + path)).json()
  return { ...said, child, get }
}

const directory = join(runsDir, "here")
const writers = new Map<Journal, JournalWriter>()
function write(kind: Journal, ...rows: object[]): void {
  const writer = writers.get(kind) ?? new JournalWriter(journalPath(directory, kind))
  writers.set(kind, writer)
  for (const row of rows) writer.append(row)
}
const step = (n: number, more: object = {}) => ({ type: "step", step: n, loss: 1 / n, tokens: n * 8, ...more })

test("runs of the directories reach the database, also what is resumed; the database's own runs are shown beside them", async () => {
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, "config.json"), JSON.stringify({ id: "id-here", config: { preset: { value: "novels" } } }))
  write("events", { type: "start", steps: 100 })
  write("metrics", ...Array.from({ length: 50 }, (_, i) => step(i + 1)))
  const file = join(work, "kept.db")
  const before = await RunDatabase.open({ url: `file:${file}` })
  await before.startRun({ id: "id-far", name: "far", config: { config: {} }, startedAt: Date.now() })
  await before.append("id-far", "metrics", [{ seq: 0, time: Date.now(), ...step(7) }])
  await before.append("id-far", "events", [{ seq: 0, time: Date.now(), type: "summary", status: "completed", steps: 7 }])
  before.close()

  const server = await serve([`--database=${file}`])
  expect(server.database).toBe(file)
  const both = await until("both runs", async () => {
    const { runs, database } = await server.get("/api/runs")
    return database === "ready" && runs.length === 2 && runs
  })
  expect(both.map(({ name, state }: Json) => [name, state]).sort()).toEqual([
    ["far", "finished"],
    ["here", "crashed"],
  ])
  expect((await server.get("/api/runs/far/metrics?columns=loss")).columns.loss.last).toEqual([1 / 7])
  expect((await server.get("/api/runs/here/metrics?columns=loss&points=1")).columns.loss.max).toEqual([1])
  const other = await RunDatabase.open({ url: `file:${file}` })
  const stored = () => other.rows("id-here", "metrics")
  await until("50 rows", async () => (await stored()).length === 50)
  const note = (run: string) =>
    fetch(`${server.url}/api/runs/${run}`, {
      method: "PATCH",
      headers: { authorization: "Bearer admin-key-12" },
      body: JSON.stringify({ notes: `of ${run}`, tags: ["kept"] }),
    })
  expect([(await note("far")).status, (await note("here")).status]).toEqual([200, 200])
  await until("both tags", async () => (await other.runs({ tag: "kept" })).length === 2)
  write("metrics", step(51))
  await until("row 51", async () => (await stored()).length === 51)
  writers.get("metrics")!.close()
  writers.delete("metrics")
  rewindJournal(journalPath(directory, "metrics"), 40)
  write("metrics", step(41, { again: true }))
  await until("the row that was written again", async () => (await stored()).at(-1)?.again === true)
  expect(await stored()).toEqual(readJournal(journalPath(directory, "metrics")))
  expect((await server.get("/api/runs/here")).step).toBe(41)
  expect((await server.get("/api/domains")).domains).toMatchObject([{ id: "novels", runs: 1, tokens: 41 * 8, loss: 1 / 41 }])
  write("events", { type: "summary", status: "stopped", steps: 41 })
  server.child.kill("SIGTERM")
  expect(await server.child.exited).toBe(EXIT.ok)
  expect(await other.run("here")).toMatchObject({ state: "stopped", domain: "novels", notes: "of here" })
  expect(await other.domains()).toMatchObject([{ id: "novels", display_name: "novels" }])
  other.close()
}, 300_000)

test("without the database that was asked for it shows the directories, and says so", async () => {
  const server = await serve([], { TURSO_DATABASE_URL: "http://127.0.0.1:9", TURSO_AUTH_TOKEN: "t" })
  expect(server.database).toBe("127.0.0.1:9")
  const { runs, database } = await server.get("/api/runs")
  expect([runs.map(({ name }: Json) => name), database]).toEqual([["here"], "away"])
  expect((await server.get("/api/runs/here/metrics?columns=loss")).rows).toBe(41)
  // Whether there is another run cannot be told.
  expect((await server.get("/api/runs/far")).error.code).toBe("database_away")
  server.child.kill("SIGTERM")
  expect(await server.child.exited).toBe(EXIT.ok)
  const alone = await serve([])
  expect(alone.database).toBeNull()
  expect((await alone.get("/api/runs/far")).error.code).toBe("run_not_found")
}, 300_000)
