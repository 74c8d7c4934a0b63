/** What training tells a person: how the model is saved, what to do next, and a share of the peak that can be one. */
import { expect, spyOn, test } from "bun:test"
import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { trainConsole } from "../src/cli-train-console.ts"
import { finishTrain, loadConfig, TRAIN_FIELDS } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { train } from "../src/train.ts"
import { refreshPeak } from "../src/train-peak.ts"

const runsDir = mkdtempSync(join(tmpdir(), "alpha-cli-train-"))
const cpu = openCpu(1)
const rows = Array.from({ length: 60 }, (_, i) => ({
  messages: [
    { role: "user", content: `say ${i}` },
    { role: "assistant", content: `here is ${i}` },
  ],
}))
const chat = join(runsDir, "chat.jsonl")
writeFileSync(chat, rows.map((row) => `${JSON.stringify(row)}\n`).join(""))
const prose = join(runsDir, "prose.txt")
writeFileSync(prose, "the sea was calm. ".repeat(100))

/** What the console prints of a run of two steps. */
async function printed(run: string, settings: Readonly<Record<string, string>>): Promise<string> {
  const small = {
    tokenizer: "char",
    nLayer: "1",
    nHead: "1",
    nEmbd: "8",
    context: "8",
    batch: "2",
    steps: "2",
    sampleInterval: "none",
    logInterval: "1",
  }
  const flags = Object.entries({ ...small, runsDir, ...settings })
  const entries = flags.map(([name, raw]) => ({ name, raw, layer: "flag" as const, from: `--${name}` }))
  const { values } = finishTrain(loadConfig(TRAIN_FIELDS, { flags: entries, environment: new Map() }))
  const write = spyOn(process.stderr, "write").mockImplementation(() => true)
  try {
    const view = trainConsole()
    const record = { config: {}, seed: 1, commit: "", version: "" }
    await train({ values, record, directory: join(runsDir, run), resume: false }, cpu, { stopped: false }, (event) => view.show(event))
    view.close()
    return write.mock.calls.map(([chunk]) => String(chunk)).join("")
  } finally {
    write.mockRestore()
  }
}

test("a chat model's next step is to chat with it, another's to give it a prompt", async () => {
  expect(await printed("chat", { data: chat })).toContain(`next: alpha infer --model=${join(runsDir, "chat")} --chat\n`)
  expect(await printed("prose", { data: prose })).toContain(`next: alpha infer --model=${join(runsDir, "prose")} --prompt='…'\n`)
})

test("what cannot become a GGUF file is said before training", async () => {
  expect(await printed("gelu", { data: prose, activation: "gelu", bias: "true" })).toContain(
    "saved as GPT2LMHeadModel (no GGUF: activation gelu)\n",
  )
  expect(await printed("tanh", { data: prose, activation: "gelu_tanh", bias: "true" })).toContain("saved as GPT2LMHeadModel\n")
})

test("the peak never falls, and is at least what training achieves", () => {
  const device = { ...cpu, name: "test" }
  const first = refreshPeak(device, "f32", 1)
  expect(first).toBeGreaterThan(1)
  expect(refreshPeak(device, "f32", 3 * first)).toBe(3 * first)
  expect(refreshPeak(device, "f32", 1)).toBe(3 * first)
})
