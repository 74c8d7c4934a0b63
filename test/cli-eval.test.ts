/** `alpha eval` as a program: known losses, tokens without a tokenizer, the same number every time, errors. */
import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { openCpu } from "../src/cpu.ts"
import expected from "./fixtures/golden-eval/expected.json"
import { PROGRAM } from "./support.ts"

openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

const directory = mkdtempSync(join(tmpdir(), "alpha-eval-"))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const fixture = (name: string) => join(import.meta.dir, "fixtures", name)
const MODEL = `--model=${fixture("hf/gpt2-bpe")}`
writeFileSync(join(directory, "text.txt"), expected.text)

function alpha(...args: string[]) {
  const { PATH = "", HOME = "" } = process.env
  const command = [...PROGRAM, "eval", ...args]
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, { cwd: directory, env: { PATH, HOME } })
  return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode }
}

interface Report {
  loss: number
  perplexity: number
  bits_per_byte: number | null
  targets: number
  context: number
  stride: number
}

function measured(...args: string[]): Report {
  const { stdout, stderr, exitCode } = alpha(...args, "--json")
  expect({ exitCode, stderr }).toEqual({ exitCode: EXIT.ok, stderr: "" })
  return JSON.parse(stdout) as Report
}

test("loss, perplexity and bits per byte are those of transformers, for every context and stride", () => {
  for (const [windows, nats] of Object.entries(expected.nats)) {
    const [context, stride] = windows.split("/").map(Number) as [number, number]
    // 48 is the model's blockSize, and the stride is the context unless given.
    const flags = context === 48 ? [] : stride === context ? [`--context=${context}`] : [`--context=${context}`, `--stride=${stride}`]
    const report = measured(MODEL, "--data=text.txt", "--device=cpu", ...flags)
    expect(report).toMatchObject({ context, stride, targets: expected.tokens - 1 })
    expect(report.loss / (nats / report.targets)).toBeCloseTo(1, 5)
    expect(report.perplexity).toBeCloseTo(Math.exp(report.loss), 6)
    expect(report.bits_per_byte! / (nats / Math.LN2 / expected.bytes)).toBeCloseTo(1, 5)
  }
})

test("the same bits every time and for any number of threads; the batch only changes roundings; bf16 is near", () => {
  const base = [MODEL, "--data=text.txt", "--device=cpu", "--context=16"]
  const { loss } = measured(...base)
  expect(measured(...base).loss).toBe(loss)
  expect(measured(...base, "--threads=1").loss).toBe(loss)
  expect(measured(...base, "--batch=1").loss / loss).toBeCloseTo(1, 6)
  expect(measured(...base, "--precision=bf16").loss / loss).toBeCloseTo(1, 2)
})

test("a model without a tokenizer reads .bin tokens and random ones; its bits per byte are not known", () => {
  const model = `--model=${fixture("golden/gpt2/model")}`
  const tokens = Uint16Array.from({ length: 100 }, (_, i) => (7 * i) % 40)
  writeFileSync(join(directory, "val.bin"), tokens)
  const report = measured(model, "--data=val.bin", "--device=cpu")
  expect(report).toMatchObject({ targets: 99, bits_per_byte: null })
  expect(report.loss).toBeCloseTo(Math.log(40), 0) // weights of an untrained model
  const random = measured(model, "--data=random", "--device=cpu", "--batch=64")
  expect(random.targets).toBe(2 ** 14 - 1)
  expect(random.loss).toBeCloseTo(Math.log(40), 1)
  expect(alpha(model, "--data=text.txt")).toMatchObject({ exitCode: EXIT.usage, stderr: expect.stringContaining("text needs a tokenizer") })
  writeFileSync(join(directory, "foreign.bin"), Uint16Array.of(1, 2, 40))
  expect(alpha(model, "--data=foreign.bin")).toMatchObject({ exitCode: EXIT.data, stderr: expect.stringContaining("foreign.bin") })
})

test("people get two lines and the progress on standard error", () => {
  const { stdout, stderr } = alpha("--device=cpu", MODEL, "--data=text.txt")
  expect(stdout).toMatch(
    /^loss 6\.\d{4} {2}perplexity \d{3}\.\d{3} {2}bits per byte 3\.\d{4}\n\S+ on text\.txt: 163 tokens predicted in windows of 48, /,
  )
  expect(stderr).toContain("evaluate: ")
})

test("what cannot be measured is refused by name", () => {
  const refused = (code: number, text: string, ...args: string[]) =>
    expect(alpha(...args)).toMatchObject({ exitCode: code, stdout: "", stderr: expect.stringContaining(text) })
  refused(EXIT.usage, "eval: no model given", "--data=text.txt")
  refused(EXIT.usage, "eval: no data given", MODEL)
  refused(EXIT.usage, "context 49 is longer than the 48 positions", MODEL, "--data=text.txt", "--context=49")
  refused(EXIT.usage, "stride 17 is longer than the context of 16", MODEL, "--data=text.txt", "--context=16", "--stride=17")
  refused(EXIT.data, "nowhere.txt", MODEL, "--data=nowhere.txt")
  refused(EXIT.data, "nowhere", "--model=nowhere", "--data=text.txt")
  writeFileSync(join(directory, "one.txt"), "T")
  refused(EXIT.data, "data one.txt: 1 tokens, expected at least 2", MODEL, "--data=one.txt")
})
