import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "../src/base-error.ts"
import type { Invocation } from "../src/cli-command.ts"
import { run } from "../src/cli-export.ts"
import { type ExportConfig, resolveModel } from "../src/config.ts"
import { checkpointPath, loadWeights, paramSpecs, readConfig, saveCheckpoint, setLink } from "../src/gpt.ts"

const FIXTURES = join(import.meta.dir, "fixtures/hf")
const work = mkdtempSync(join(tmpdir(), "alpha-export-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))

/** Runs the command; the result it prints, or its error. */
async function exported(config: Partial<ExportConfig>): Promise<Record<string, unknown>> {
  let printed: unknown
  const print = (result: unknown) => {
    printed = result
  }
  const values = { format: "hf", weights: "f32", ...config } as ExportConfig
  try {
    await run({ config: values, print } as unknown as Invocation<ExportConfig>)
  } catch (error) {
    if (!(error instanceof AlphaError)) throw error
    return { error: error.message, code: error.code }
  }
  return printed as Record<string, unknown>
}

function weightsOf(dir: string): Map<string, Float32Array> {
  const params = new Map<string, Float32Array>()
  loadWeights(dir, readConfig(dir).model, (name, shape) => {
    const values = new Float32Array(shape.reduce((n, d) => n * d, 1))
    params.set(name, values)
    return values
  })
  return params
}

test("a Hugging Face directory goes through: same weights, tokenizer and ids", async () => {
  const model = join(FIXTURES, "llama-bpe")
  const out = join(work, "hf")
  const result = await exported({ model, out })
  expect(result).toMatchObject({ out, format: "hf", class: "LlamaForCausalLM", weights: "f32", parameters: 8784 })
  expect(weightsOf(out)).toEqual(weightsOf(model))
  expect(readConfig(out)).toEqual(readConfig(model))
  expect(readFileSync(join(out, "tokenizer.json"), "utf8")).toBe(readFileSync(join(model, "tokenizer.json"), "utf8"))
  // The fixture's values are f16, so f16 loses nothing.
  expect((await exported({ model, out: join(work, "hf16"), weights: "f16" })).bytes).toBeLessThan(result.bytes as number)
  expect(weightsOf(join(work, "hf16"))).toEqual(weightsOf(model))
})

test("a run exports its best checkpoint as GGUF under the run's name", async () => {
  const runDir = join(work, "my-run")
  const { model, ids } = readConfig(join(FIXTURES, "gpt2-bpe"))
  const params = weightsOf(join(FIXTURES, "gpt2-bpe"))
  const tokenizerJson = readFileSync(join(FIXTURES, "gpt2-bpe/tokenizer.json"), "utf8")
  saveCheckpoint(checkpointPath(runDir, 5), {
    model,
    ids,
    tokenizerJson,
    weights: (name) => params.get(name)!,
    trainer: { tensors: [], state: {} },
  })
  setLink(runDir, "best", checkpointPath(runDir, 5))
  const out = join(work, "m.gguf")
  const result = await exported({ model: "my-run", runsDir: work, out, format: "gguf" })
  const bytes = readFileSync(out)
  expect(result).toMatchObject({ class: "GPT2LMHeadModel", bytes: bytes.length })
  expect(bytes.includes("my-run")).toBe(true)
})

test("what cannot be exported is refused before anything is written", async () => {
  const model = join(FIXTURES, "llama-bpe")
  expect(await exported({ out: join(work, "x") })).toEqual({ error: "export: no model is given", code: EXIT.usage })
  expect(await exported({ model })).toEqual({ error: "export: no place to write is given", code: EXIT.usage })
  expect((await exported({ model, out: work })).error).toContain("exists already")
  expect((await exported({ model: join(FIXTURES, "gpt2"), out: join(work, "x"), format: "gguf" })).error).toContain("has no tokenizer.json")
  const capped = resolveModel({ vocabSize: 5, blockSize: 4, nLayer: 1, nHead: 1, nEmbd: 2, softCap: 30 })
  const zeros = (name: string) =>
    new Float32Array(
      paramSpecs(capped)
        .find((spec) => spec.name === name)!
        .shape.reduce((n, d) => n * d, 1),
    )
  saveCheckpoint(join(work, "capped"), { model: capped, weights: zeros })
  expect((await exported({ model: join(work, "capped"), out: join(work, "x") })).error).toContain(
    "softCap 30: no class with this shape caps logits",
  )
  expect(readdirSync(work)).not.toContain("x")
})
