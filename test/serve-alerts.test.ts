/** Alerts of the server: one event and one post for an incident, and none for what the trainer tells itself. */
import { afterAll, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { thisProcess } from "../src/base-process.ts"
import { DirectoryStore, JournalWriter, journalPath, type RunUpdate } from "../src/db.ts"
import { AlertWatch, serverAlerts } from "../src/serve-alerts.ts"
import { ServerRuns } from "../src/serve-runs-store.ts"
import { openWebhook } from "../src/train.ts"
import { until } from "./support.ts"

const work = mkdtempSync(join(tmpdir(), "alpha-alerts-"))
const posts: { run: string | null; rule: string; message: string; text: string }[] = []
let refusals = 0
const hook = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  async fetch(request) {
    if (refusals-- > 0) return new Response("", { status: 503 })
    posts.push((await request.json()) as (typeof posts)[number])
    return new Response()
  },
})
afterAll(() => {
  hook.stop(true)
  rmSync(work, { recursive: true, force: true })
})
const environment = new Map([["ALPHA_ALERT_WEBHOOK", { value: hook.url.href, from: "test" }]])

interface Scene {
  readonly directory: string
  write(kind: "events" | "metrics", ...rows: object[]): void
  /** Starts the watch, or starts it again as a new process does. */
  watch(free?: () => number): Promise<void>
  /** What was posted since: waits for `count` posts, and whether there are more. */
  told(count: number): Promise<[string | null, string][]>
  readonly announced: RunUpdate[]
}

const scenes: (() => Promise<void>)[] = []
afterAll(async () => {
  for (const end of scenes) await end()
})

/** A run of a live process in a directory of its own; `age`: ms since anything was written. */
function scene(name: string, { webhook, age = 0, lock = thisProcess() }: { webhook?: boolean; age?: number; lock?: object }): Scene {
  const runsDir = join(work, name)
  const directory = join(runsDir, name)
  mkdirSync(directory, { recursive: true })
  const then = Date.now() - age
  writeFileSync(join(directory, "config.json"), JSON.stringify({ id: `id-${name}`, config: {} }))
  utimesSync(join(directory, "config.json"), then / 1000, then / 1000)
  writeFileSync(join(directory, "lock"), JSON.stringify(lock))
  const write: Scene["write"] = (kind, ...rows) => {
    const writer = new JournalWriter(journalPath(directory, kind))
    for (const row of rows) writer.append({ time: then, ...row })
    writer.close()
  }
  write("events", { type: "start", steps: 10, ...(webhook === undefined ? {} : { webhook }) })
  const announced: RunUpdate[] = []
  let watch: AlertWatch | undefined
  let runs: ServerRuns | undefined
  const end = async () => {
    await watch?.close()
    runs?.close()
  }
  scenes.push(end)
  return {
    directory,
    write,
    announced,
    async watch(free = () => 1e12) {
      await end()
      let looks = 0
      runs = new ServerRuns(new DirectoryStore(runsDir), runsDir, undefined, () => {})
      watch = new AlertWatch({
        runs,
        local: runs.local,
        runsDir,
        webhook: openWebhook(environment, () => {}),
        log: () => {},
        announce: (update) => announced.push(update),
        lookMs: 20,
        free() {
          looks++ // a look ends with the disk
          return free()
        },
      })
      await until("two looks", () => looks >= 2)
    },
    async told(count) {
      await until(`${count} posts`, () => posts.length >= count)
      await Bun.sleep(count === 0 ? 500 : 100)
      await watch?.close()
      watch = undefined
      return posts.splice(0).map(({ run, rule }) => [run, rule])
    },
  }
}
const dead = { ...thisProcess(), pid: 2 ** 22 - 1 }
const mine = { type: "alert", rule: "nan", step: 1, message: "step 1: the loss is NaN" }

test("what a trainer without a webhook tells is posted once, tried again when it is refused", async () => {
  refusals = 1
  const { watch, write, told, directory } = scene("plain", { webhook: false })
  await watch()
  write("events", mine)
  write("metrics", { type: "step", step: 1, loss: null, tokens_per_s: 1 })
  expect(await told(1)).toEqual([["plain", "nan"]])
  expect(serverAlerts(directory)).toEqual([])
}, 300_000)

test("what a trainer with a webhook tells is left to it: its alerts, its crash, its stall while it lives", async () => {
  const { watch, write, told } = scene("own", { webhook: true })
  await watch()
  write("events", mine, { type: "crash", message: "no memory", step: 1 })
  expect(await told(0)).toEqual([])
}, 300_000)

test("rows of a trainer that knows no alerts are judged here, one event for an incident", async () => {
  const { watch, write, told, directory, announced } = scene("old", {})
  await watch()
  write("metrics", ...[1, 2, 3].map((step) => ({ type: "step", step, loss: null, tokens_per_s: 1 })))
  expect(await told(1)).toEqual([["old", "nan"]])
  expect(serverAlerts(directory)).toMatchObject([{ seq: 0, rule: "nan", step: 1, by: "server" }])
  expect(announced).toMatchObject([{ run: "id-old", kind: "events", row: { rule: "nan" } }])
}, 300_000)

test("a process that vanished is one incident, also for a server that starts again; one with a last word is told by that", async () => {
  const gone = scene("gone", { webhook: true, age: 60_000, lock: dead })
  await gone.watch()
  expect(await gone.told(1)).toEqual([["gone", "crash"]])
  await gone.watch()
  expect(await gone.told(0)).toEqual([])
  expect(serverAlerts(gone.directory)).toMatchObject([{ rule: "crash", message: "its process is gone without a last word" }])
  const long = scene("long-gone", { webhook: true, age: 7_200_000, lock: dead })
  await long.watch()
  expect(await long.told(0)).toEqual([])
  const said = scene("said", { webhook: false })
  await said.watch()
  said.write("events", { type: "crash", message: "out of memory", step: 1 })
  expect(await said.told(1)).toEqual([["said", "crash"]])
  expect(serverAlerts(said.directory)).toEqual([])
}, 300_000)

test("a shipped run that falls silent is a stall", async () => {
  const { watch, told, directory } = scene("silent", { webhook: true, age: 600_000 })
  writeFileSync(join(directory, "state.json"), JSON.stringify({ state: "running", time: Date.now() - 600_000, host: "far", pid: 1 }))
  await watch()
  expect(await told(1)).toEqual([["silent", "stall"]])
  await watch()
  expect(await told(0)).toEqual([])
}, 300_000)

test("a full disk is told once until there is room again, and not where a run told it", async () => {
  const { watch, told } = scene("disk", { webhook: false })
  let [free, looks] = [1e12, 0]
  const looked = async () => {
    const wanted = looks + 2
    await until("two looks", () => looks >= wanted)
  }
  await watch(() => {
    looks++
    return free
  })
  for (const bytes of [5, 5, 1e12, 5]) {
    free = bytes
    await looked()
  }
  expect(await told(2)).toEqual([
    [null, "disk"],
    [null, "disk"],
  ])
  const run = scene("disk-run", { webhook: true })
  run.write("events", { type: "alert", rule: "disk", step: 2, message: "full", time: Date.now() })
  await run.watch(() => 5)
  expect(await run.told(0)).toEqual([])
}, 300_000)
