import { expect, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { csvOf, JournalWriter } from "../src/db.ts"

const CLI = join(import.meta.dir, "../src/cli.ts")

function alpha(cwd: string, ...args: string[]) {
  const { stdout, stderr, exitCode } = Bun.spawnSync([process.execPath, CLI, ...args], { cwd })
  return { out: stdout.toString(), error: stderr.toString(), code: exitCode, json: () => JSON.parse(stdout.toString()) }
}

function folderWithRuns(): string {
  const folder = mkdtempSync(join(tmpdir(), "cli-runs-"))
  for (const [name, lr] of [
    ["first", 0.1],
    ["second", 0.2],
  ] as const) {
    const directory = join(folder, "runs", name)
    mkdirSync(directory, { recursive: true })
    writeFileSync(join(directory, "config.json"), JSON.stringify({ id: `id-${name}`, config: { lr: { value: lr }, steps: { value: 3 } } }))
    const metrics = new JournalWriter(join(directory, "metrics.jsonl"))
    for (let step = 1; step <= 3; step++) metrics.append({ type: "step", step, loss: 4 - step, lr, tokens: 8 * step })
    metrics.close()
    const events = new JournalWriter(join(directory, "events.jsonl"))
    events.append({ type: "start", steps: 3, device: 'a "fast", one' })
    if (name === "first") events.append({ type: "summary", status: "completed", steps: 3 })
    events.close()
  }
  return folder
}

test("alpha runs: lists, shows, compares and exports, the same from directories and database", () => {
  const folder = folderWithRuns()
  const states = (...args: string[]) =>
    Object.fromEntries(
      alpha(folder, "runs", "ls", "--json", ...args)
        .json()
        .map((run: { name: string; state: string }) => [run.name, run.state]),
    )
  expect(states()).toEqual({ first: "finished", second: "crashed" })
  expect(states("--state=crashed")).toEqual({ second: "crashed" })
  expect(states("fir")).toEqual({ first: "finished" })
  expect(alpha(folder, "runs", "show", "first", "--json").json()).toMatchObject({ id: "id-first", step: 3, steps: 3, loss: 1, tokens: 24 })
  expect(alpha(folder, "runs", "compare", "first", "second", "--json").json().config).toEqual({ lr: [0.1, 0.2] })
  expect(alpha(folder, "runs", "compare", "first", "second", "first", "--json").json()).toMatchObject({
    runs: [{ name: "first" }, { name: "second" }, { name: "first" }],
    config: { lr: [0.1, 0.2, 0.1] },
  })
  const written = { metrics: 3, samples: 0 }
  expect(alpha(folder, "runs", "sync", "--json").json()).toMatchObject([
    { rows: { ...written, events: 2 } },
    { rows: { ...written, events: 1 } },
  ])
  expect(states("--from=database")).toEqual({ first: "finished", second: "crashed" })
  for (const journal of ["metrics", "events"])
    for (const run of ["first", "second"]) {
      const own = readFileSync(join(folder, "runs", run, `${journal}.jsonl`), "utf8")
      const lines = (from: string) => {
        const { out } = alpha(folder, "runs", "export", run, `--journal=${journal}`, "--format=jsonl", `--from=${from}`)
        return out
          .trimEnd()
          .split("\n")
          .map((line) => JSON.parse(line))
      }
      expect(lines("directories")).toEqual(
        own
          .trimEnd()
          .split("\n")
          .map((line) => JSON.parse(line)),
      )
      expect(lines("database")).toEqual(lines("directories"))
    }
  const { out } = alpha(folder, "runs", "export", "first", "--format=tensorboard", "--out=events", "--json").json()
  expect(readdirSync(join(folder, "events")).map((name) => `events/${name}`)).toEqual([out])
}, 300_000)

test("alpha runs rm deletes what it says, when it is told twice", () => {
  const folder = folderWithRuns()
  expect(alpha(folder, "runs", "rm", "first")).toMatchObject({ code: 2, error: expect.stringContaining("--yes") })
  expect(alpha(folder, "runs", "rm", "first", "--yes").code).toBe(0)
  expect(existsSync(join(folder, "runs/first"))).toBe(false)
  expect(alpha(folder, "runs", "show", "first")).toMatchObject({ code: 3, error: expect.stringContaining("no run first") })
}, 300_000)

test("CSV has a column for every key, and quotes what needs it", async () => {
  const rows = [
    { seq: 0, time: 1, type: "a", text: 'say "hi", twice\n' },
    { seq: 1, time: 2, type: "b", more: [1] },
  ]
  const pages = async function* () {
    yield rows
  }
  expect((await Array.fromAsync(csvOf(pages))).join("")).toBe('seq,time,type,text,more\n0,1,a,"say ""hi"", twice\n",\n1,2,b,,[1]\n')
})
