/** Curves of long runs: every bucket against all rows it stands for, from directories and from the database, stored and made anew. */
import { afterAll, expect, test } from "bun:test"
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DirectoryStore, type JournalRow, RunDatabase, type RunStore, readJournal, rewindJournal, type SeriesQuery } from "../src/db.ts"
import { PAGE } from "../src/db-blocks.ts"
import { Connection } from "../src/db-client.ts"

const work = mkdtempSync(join(tmpdir(), "alpha-series-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))

let x = 1
const random = (): number => {
  x = (x * 48271) % 2147483647
  return x / 2147483647
}
const whole = (below: number): number => Math.floor(random() * below)

/** Rows like a trainer's: evaluations between steps, columns that come late or seldom, losses that are no numbers. */
function makeRows(count: number, from = 0, salt = 0): JournalRow[] {
  return Array.from({ length: count }, (_, i): JournalRow => {
    const seq = from + i
    const time = 1_700_000_000_000 + seq * 10
    if (seq % 97 === 96) return { seq, time, type: "eval", step: seq, val_loss: random(), lr: 1 }
    return {
      seq,
      time,
      type: "step",
      step: seq,
      loss: whole(500) === 0 ? null : random() + salt,
      lr: random(),
      tokens: seq * 100,
      ...(seq > 20_000 && seq % 75 === 0 ? { gpu_power_w: 300 * random() } : {}),
    }
  })
}

const lines = (rows: readonly JournalRow[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("")
const COLUMNS = ["lr", "loss", "valLoss", "gpu_power_w", "nothing"]
const KEYS: Record<string, string> = { valLoss: "val_loss" }

/** x of every row: never less than before it. */
function places(rows: readonly JournalRow[], axis: "step" | "tokens" | "time"): number[] {
  let at = 0
  return rows.map((row) => {
    const value = row[axis]
    at = typeof value === "number" ? Math.max(at, value) : at
    return at
  })
}

/** Checks an answer on the time axis, where every row has a place of its own, against all rows. */
async function check(store: RunStore, rows: readonly JournalRow[], query: Omit<SeriesQuery, "columns" | "x">): Promise<void> {
  const answer = await store.metrics("long", { columns: COLUMNS, x: "time", ...query })
  const xs = places(rows, "time")
  const inside = xs.flatMap((value, i) => (value >= (query.from ?? -Infinity) && value <= (query.to ?? Infinity) ? [i] : []))
  expect(answer.rows).toBe(inside.length)
  expect(answer.x.length).toBeLessThanOrEqual(query.points)
  const wrong: unknown[] = []
  let first = inside[0] ?? 0
  answer.x.forEach((value, i) => {
    const last = xs.lastIndexOf(value)
    const part = rows.slice(first, last + 1)
    first = last + 1
    for (const name of COLUMNS) {
      const values = part.flatMap((row) => {
        const one = row[KEYS[name] ?? name]
        return typeof one === "number" ? [one] : []
      })
      const { min, max, last: final } = answer.columns[name]!
      const wanted = values.length === 0 ? [null, null, null] : [Math.min(...values), Math.max(...values), values.at(-1)!]
      if (min[i] !== wanted[0] || max[i] !== wanted[1] || final[i] !== wanted[2]) wrong.push([name, i, min[i], max[i], final[i], ...wanted])
    }
  })
  expect(wrong).toEqual([])
  expect(first).toBe((inside.at(-1) ?? -1) + 1)
}

async function checkAll(store: RunStore, rows: readonly JournalRow[], times = 12): Promise<void> {
  const xs = places(rows, "time")
  for (const points of [1, 7, 300, 1000, rows.length + 5]) await check(store, rows, { points })
  for (let i = 0; i < times; i++) {
    const [a, b] = [whole(rows.length), whole(rows.length)].sort((p, q) => p - q) as [number, number]
    await check(store, rows, { from: xs[a]! - whole(2), to: xs[b]! + whole(2), points: 1 + whole(1500) })
  }
  await check(store, rows, { from: xs.at(-1)! + 1000, points: 10 })
}

const runsDir = join(work, "runs")
const directory = join(runsDir, "long")
mkdirSync(directory, { recursive: true })
writeFileSync(join(directory, "config.json"), JSON.stringify({ id: "id-long", config: {} }))
const journal = join(directory, "metrics.jsonl")
const index = join(directory, "metrics.index")
const rows = makeRows(3 * PAGE + 1234)
writeFileSync(journal, lines(rows))

test("run directories: exact in every bucket, the same from the index, past damage of it, and after the run was resumed", async () => {
  const first = new DirectoryStore(runsDir)
  await checkAll(first, rows, 4)
  const best = (await first.run("long"))!.bestValLoss
  expect(best).toBe(Math.min(...rows.flatMap(({ val_loss }) => (typeof val_loss === "number" ? [val_loss] : []))))
  const stored = readFileSync(index)
  const again = new DirectoryStore(runsDir)
  await checkAll(again, rows, 4)
  expect(await again.run("long")).toEqual(await first.run("long"))
  expect(readFileSync(index).equals(stored)).toBe(true)
  // Torn, spoilt and written twice.
  truncateSync(index, stored.length - 1000)
  await check(new DirectoryStore(runsDir), rows, { points: 300 })
  expect(readFileSync(index).length).toBe(stored.length)
  for (let part = 1; part < 10; part++) {
    const spoilt = Buffer.from(stored)
    spoilt[Math.floor((stored.length * part) / 10)]! ^= 255
    writeFileSync(index, spoilt)
    await check(new DirectoryStore(runsDir), rows, { points: 300 })
  }
  writeFileSync(index, stored)
  appendFileSync(index, stored)
  await check(new DirectoryStore(runsDir), rows, { points: 300 })
  // Resumed in the second page, and trained on into the third.
  rewindJournal(journal, PAGE + 5000)
  const kept = rows.slice(0, PAGE + 5001)
  const resumed = [...kept, ...makeRows(2 * PAGE, kept.length, 10)]
  appendFileSync(journal, lines(resumed.slice(kept.length)))
  for (const store of [first, new DirectoryStore(runsDir)]) await checkAll(store, resumed, 3)
  expect(existsSync(index)).toBe(true)
}, 300_000)

test("the database: pages as rows arrive, or once from rows that have none; the same as the directory", async () => {
  const all = readJournal(journal)
  const place = { url: `file:${join(work, "alpha.db")}` }
  const writer = await RunDatabase.open(place)
  await writer.startRun({ id: "id-long", name: "long", config: {}, startedAt: 1 })
  for (let at = 0; at < 2 * PAGE + 100; at += 5000)
    await writer.append("id-long", "metrics", all.slice(at, Math.min(at + 5000, 2 * PAGE + 100)))
  // A second process goes on, sends some rows again, and the first one notices.
  const other = await RunDatabase.open(place)
  await other.append("id-long", "metrics", all.slice(2 * PAGE - 300))
  const connection = new Connection(place)
  const pages = async () => (await connection.read("SELECT count(*) AS n FROM metric_pages WHERE name = '@step'"))[0]!.n
  await checkAll(writer, all, 3)
  const files = new DirectoryStore(runsDir)
  for (const x of ["step", "tokens", "time", "flops"] as const) {
    const query = { columns: COLUMNS, x, points: 500, from: x === "step" ? 777 : undefined }
    expect(await other.metrics("long", query)).toEqual(await files.metrics("long", query))
  }
  expect(await pages()).toBe(Math.floor(all.length / PAGE))
  await connection.write([{ sql: "DELETE FROM metric_pages WHERE page > 0", args: [] }])
  const third = await RunDatabase.open(place)
  await checkAll(third, all, 2)
  expect(await pages()).toBe(Math.floor(all.length / PAGE))
  await other.truncate("id-long", "metrics", 5000)
  expect(await pages()).toBe(0)
  for (const store of [writer, other, third]) await checkAll(store, all.slice(0, 5000), 1)
  for (const one of [writer, other, third, connection]) one.close()
}, 300_000)
