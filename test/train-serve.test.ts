/** `alpha train --serve` as a process: it answers with its last checkpoint while it trains, trains the same bytes, and ends with both. */
import { afterAll, afterEach, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { sha256 } from "../src/base-file.ts"
import { JOURNALS, RunDatabase, readJournal } from "../src/db.ts"
import { PROGRAM, sampleText, until } from "./support.ts"

const work = mkdtempSync(join(tmpdir(), "alpha-train-serve-"))
const text = join(work, "text.txt")
writeFileSync(text, sampleText(20_000))
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

const SMALL = [
  "--nLayer=1",
  "--nHead=2",
  "--nEmbd=32",
  "--context=32",
  "--batch=4",
  "--accumSteps=2",
  "--tokenizer=char",
  "--logInterval=1",
]
const INTERVALS = ["--evalInterval=20", "--evalSteps=1", "--sampleInterval=50", "--sampleTokens=5", "--keepCheckpoints=100000"]

function train(run: string, flags: readonly string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  const program = PROGRAM
  const args = [...program, "train", "--json", "--device=cpu", "--threads=1", `--data=${text}`, `--run=${run}`, ...SMALL, ...INTERVALS]
  const env = { PATH: process.env.PATH ?? "", HOME: work }
  const child = Bun.spawn([...args, ...flags], { cwd: work, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" })
  children.push(child)
  return child
}

/** The address in the first line; what follows is read and thrown away. */
async function address(child: Bun.Subprocess<"ignore", "pipe", "pipe">): Promise<string> {
  const reader = child.stdout.getReader()
  const { value } = await reader.read()
  if (value === undefined) throw new Error(await new Response(child.stderr).text())
  void (async () => {
    while (!(await reader.read()).done);
  })()
  const line = JSON.parse(new TextDecoder().decode(value).split("\n")[0]!) as { type: string; url: string }
  expect(line.type).toBe("serve")
  return line.url
}

const complete = (url: string, body: object) => fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) })
const weights = (run: string, checkpoint: string) => sha256(readFileSync(join(work, "runs", run, checkpoint, "model.safetensors")))
const stepFolder = (step: number) => `checkpoints/step-${String(step).padStart(6, "0")}`

test("it answers with a committed checkpoint and shows the run while it trains; SIGINT ends both", async () => {
  const file = join(work, "alpha.db")
  ;(await RunDatabase.open({ url: `file:${file}` })).close()
  const child = train("live", ["--steps=1000000", "--serve=0"])
  const url = await address(child)
  await until("a model", async () => (await fetch(`${url}/ready`)).ok)
  const listener = await fetch(`${url}/api/training/live`)
  const seen = new Set<string>()
  const steps: number[] = []
  await until("another checkpoint", async () => {
    const answer = (await (await complete(url, { prompt: "the sea", max_tokens: 8 })).json()) as Json
    const step = Number(/^live@(\d+)$/.exec(answer.model)?.[1])
    expect(answer.choices[0].text.length).toBeGreaterThan(0)
    expect(answer.system_fingerprint).toBe(weights("live", stepFolder(step)))
    seen.add(answer.system_fingerprint)
    const { runs } = (await (await fetch(`${url}/api/runs`)).json()) as Json
    expect(runs).toMatchObject([{ name: "live", state: "running" }])
    steps.push(runs[0].step)
    return seen.size >= 2
  })
  expect(steps.at(-1)!).toBeGreaterThan(steps[0]!)
  const curve = (await (await fetch(`${url}/api/runs/live/metrics?columns=loss,valLoss`)).json()) as Json
  expect(curve.columns.loss.last.length).toBeGreaterThan(2)
  expect(await (await fetch(`${url}/metrics`)).text()).toContain("alpha_decode_tokens_total")
  const answering = complete(url, { prompt: "the sea", max_tokens: 16 })
  child.kill("SIGINT")
  expect((await answering).status).toBe(200)
  expect(await child.exited).toBe(EXIT.ok)
  const events = readJournal(join(work, "runs/live/events.jsonl"))
  expect(events.at(-1)).toMatchObject({ type: "summary", status: "stopped" })
  expect(existsSync(join(work, "runs/live", stepFolder(events.at(-1)!.steps as number), "model.safetensors"))).toBe(true)
  expect(await listener.text()).toContain("event: step")
  await expect(fetch(`${url}/health`)).rejects.toThrow()
  // What was said last is in the database too.
  const database = await RunDatabase.open({ url: `file:${file}` })
  for (const journal of JOURNALS)
    expect(await database.rows("live", journal)).toEqual(readJournal(join(work, "runs/live", `${journal}.jsonl`)))
  expect(await database.run("live")).toMatchObject({ state: "stopped", domain: "text" })
  database.close()
}, 300_000)

test("requests between its micro-steps change no bit of what is trained", async () => {
  expect(await train("plain", ["--steps=150"]).exited).toBe(EXIT.ok)
  const child = train("served", ["--steps=150", "--serve=0"])
  const url = await address(child)
  const asking = (async () => {
    for (;;) {
      const answer = await complete(url, { prompt: "the sea", max_tokens: 4 }).catch(() => undefined)
      if (answer === undefined) return
      await answer.arrayBuffer().catch(() => undefined)
    }
  })()
  expect(await child.exited).toBe(EXIT.ok)
  await asking
  expect(weights("served", "last")).toBe(weights("plain", "last"))
}, 300_000)

test("a port in use ends it before anything is trained, and a run that goes on serves only when asked to", async () => {
  const taken = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() })
  try {
    const child = train("busy", ["--steps=10", `--serve=${taken.port}`])
    expect(await child.exited).toBe(EXIT.busy)
    expect(existsSync(join(work, "runs/busy"))).toBe(false)
  } finally {
    taken.stop(true)
  }
  const first = train("again", ["--steps=20", "--serve=0"])
  await address(first)
  expect(await first.exited).toBe(EXIT.ok)
  const second = train("again", ["--resume", "--steps=22"])
  expect(await new Response(second.stdout).text()).not.toContain('"type":"serve"')
  expect(await second.exited).toBe(EXIT.ok)
}, 300_000)
