/** Stopping: before the first step nothing is left behind; later nothing is half recorded, and the resumed run ends in the same bytes. */
import { afterAll, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "../src/base-error.ts"
import { finishTrain, loadConfig, TRAIN_FIELDS } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { type TrainEvent, type TrainJob, train } from "../src/train.ts"
import { sampleText } from "./support.ts"

const runsDir = mkdtempSync(join(tmpdir(), "alpha-stop-"))
afterAll(() => rmSync(runsDir, { recursive: true, force: true }))
const text = join(runsDir, "text.txt")
writeFileSync(text, Array.from({ length: 3000 }, (_, i) => `word${(i * 7919) % 1500} and`).join(" "))
const plain = join(runsDir, "plain.txt")
writeFileSync(plain, sampleText(9000))
const cpu = openCpu(1)

const SMALL = { nLayer: "1", nHead: "2", nEmbd: "16", context: "16", batch: "4", runsDir }

function jobOf(run: string, settings: Readonly<Record<string, string>>, resume = false): TrainJob {
  const flags = Object.entries({ ...SMALL, ...settings }).map(([name, raw]) => ({ name, raw, layer: "flag" as const, from: `--${name}` }))
  const { values } = finishTrain(loadConfig(TRAIN_FIELDS, { flags, environment: new Map() }))
  return { values, record: { config: {}, seed: 1, commit: "", version: "" }, directory: join(runsDir, run), resume }
}

/** Trains until `when` says so of an event. */
async function trainUntil(job: TrainJob, when: (event: TrainEvent) => boolean) {
  const flag = { stopped: false }
  return await train(job, cpu, flag, (event) => {
    if (when(event)) flag.stopped = true
  })
}

const LABELS = ["find the split", "learn tokens", "check text", "tokenise train", "start"]

for (const label of LABELS) {
  test(`a stop at "${label}" is no failure and leaves no run and no unfinished file`, async () => {
    const job = jobOf("never", {
      data: text,
      vocabSize: "600",
      tokenizerArtifacts: join(runsDir, "no.json"),
      runsDir: join(runsDir, label),
    })
    const stopped = trainUntil({ ...job, directory: join(runsDir, label, "never") }, (event) =>
      event.type === "progress" ? event.label.startsWith(label) : event.type === label,
    )
    const error = await stopped.catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(AlphaError)
    expect(error).toMatchObject({ message: "stopped before the first step", code: EXIT.ok })
    expect(existsSync(join(runsDir, label, "never"))).toBe(false)
    const cache = join(runsDir, label, ".cache")
    if (existsSync(cache)) expect(readdirSync(cache).filter((name) => name.startsWith("."))).toEqual([])
    rmSync(join(runsDir, "no.json"), { force: true })
  })
}

const SETTINGS = {
  data: plain,
  tokenizer: "char",
  steps: "6",
  evalInterval: "3",
  evalSteps: "3",
  checkpointInterval: "2",
  sampleInterval: "3",
  sampleTokens: "5",
  logInterval: "1",
}

const bytes = (run: string) => {
  const last = join(runsDir, run, "last")
  return Object.fromEntries(readdirSync(last).map((name) => [name, readFileSync(join(last, name)).toString("base64")]))
}
const rows = (run: string) =>
  ["metrics", "samples"].map((journal) => {
    const path = join(runsDir, run, `${journal}.jsonl`)
    const lines = existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : []
    return lines
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .map(({ type, step, loss, val_loss, best, text }) => ({ type, step, loss, val_loss, best, text }))
  })

test("a run whose patience ended while it was stopped trains no further", async () => {
  const settings = { ...SETTINGS, steps: "20", evalInterval: "2", sampleInterval: "2", lr: "10", minLr: "10", patience: "1" }
  const whole = await trainUntil(jobOf("patient", settings), () => false)
  expect(whole).toMatchObject({ status: "early_stop" })
  expect(await trainUntil(jobOf("late", settings), (event) => event.type === "eval" && !event.best)).toMatchObject({ status: "stopped" })
  expect(await trainUntil(jobOf("late", settings, true), () => false)).toMatchObject({ status: "early_stop", steps: whole.steps })
  expect(bytes("late")).toEqual(bytes("patient"))
})

test("a stop in an evaluation or in samples, also after the last step: no half result, and the resumed run equals an undisturbed one", async () => {
  await trainUntil(jobOf("whole", SETTINGS), () => false)
  const stops: [string, (event: TrainEvent) => boolean, number, number][] = [
    ["evaluation", (event) => event.type === "step" && event.step === 3, 3, 1],
    ["samples", (event) => event.type === "eval" && event.step === 3, 3, 2],
    ["last evaluation", (event) => event.type === "step" && event.step === 6, 6, 2],
    ["last samples", (event) => event.type === "eval" && event.step === 6, 6, 3],
  ]
  for (const [name, when, step, evaluations] of stops) {
    expect([name, await trainUntil(jobOf(name, SETTINGS), when)]).toMatchObject([name, { status: "stopped", steps: step }])
    expect(rows(name)[0]?.filter(({ type }) => type === "eval").length).toBe(evaluations)
    expect(existsSync(join(runsDir, name, "last/model.safetensors"))).toBe(true)
    const first = await trainUntil(jobOf(name, SETTINGS, true), (event) => event.type === "start") // stopped again before it is done
    expect([name, first]).toMatchObject([name, { status: "stopped", steps: step }])
    await trainUntil(jobOf(name, SETTINGS, true), () => false)
    expect([name, rows(name)]).toEqual([name, rows("whole")])
    expect(bytes(name)).toEqual(bytes("whole"))
  }
}, 300_000)
