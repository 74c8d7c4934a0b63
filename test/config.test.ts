import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "../src/base-error.ts"
import {
  ENVIRONMENT_NAMES,
  type Entry,
  type Environment,
  finishTrain,
  INFER,
  jsonSchema,
  kebabName,
  loadConfig,
  MODEL,
  modelFields,
  PRESETS,
  readEnvironment,
  recordConfig,
  resolveModel,
  runDirectory,
  TABLES,
  TRAIN_FIELDS,
} from "../src/config.ts"

const directory = mkdtempSync(join(tmpdir(), "alpha-config-"))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const none: Environment = new Map()
const flags = (values: Record<string, string | string[]>): Entry[] =>
  Object.entries(values).map(([name, raw]) => ({ name, raw, layer: "flag", from: `--${name}` }))
const train = (values: Record<string, string | string[]>, environment: Record<string, string> = {}) =>
  finishTrain(loadConfig(TRAIN_FIELDS, { flags: flags(values), environment: readEnvironment(directory, environment) }))
const refusal = (work: () => unknown): AlphaError => {
  try {
    work()
  } catch (error) {
    expect(error).toBeInstanceOf(AlphaError)
    expect((error as AlphaError).code).toBe(EXIT.usage)
    return error as AlphaError
  }
  throw new Error("nothing was refused")
}
const file = (name: string, content: unknown) => {
  const path = join(directory, name)
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content))
  return path
}

test("every row has a sentence, a group, a default that passes its own check, and names that collide with no other", () => {
  for (const fields of TABLES) {
    const names = Object.entries(fields).flatMap(([name, field]) => [name, ...field.aliases.map((alias) => alias.split("=")[0]!)])
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([])
    for (const [name, field] of Object.entries(fields)) {
      expect(field.doc.length).toBeGreaterThan(5)
      expect(field.group).not.toBe("General")
      expect(kebabName(name)).toMatch(/^[a-z0-9]+(-[a-z0-9]+)*$/)
      if (field.default !== undefined) {
        const loaded = loadConfig(
          { [name]: field },
          { flags: [{ name, raw: field.default, layer: "flag", from: "test" }], environment: none },
        )
        expect(loaded.values[name]).toEqual(field.default as never)
      }
    }
  }
})

test("default < preset < base < file < environment < flag, each value with its origin", () => {
  const path = file("merge.json", { preset: "cpu-small", lr: 0.1, batch: 3, nHead: 2, steps: 900 })
  const environment = readEnvironment(directory, { ALPHA_BATCH: "5", ALPHA_N_HEAD: "8" })
  const base = { values: { lr: 0.2, minLr: 0.01, seed: 7 }, from: "run old" }
  const loaded = finishTrain(loadConfig(TRAIN_FIELDS, { flags: flags({ config: path, nHead: "16" }), environment, base }))
  const { values, origins } = loaded
  expect(values).toMatchObject({
    nEmbd: 128,
    nHead: 16,
    batch: 5,
    lr: 0.1,
    minLr: 0.01,
    seed: 7,
    steps: 900,
    norm: "layernorm",
    headDim: 8,
  })
  expect(origins.norm).toEqual({ layer: "default", from: "" })
  expect(origins.nEmbd).toEqual({ layer: "preset", from: "preset cpu-small" })
  expect(origins.seed).toEqual({ layer: "base", from: "run old" })
  expect(origins.lr).toEqual({ layer: "file", from: path })
  expect(origins.batch).toEqual({ layer: "environment", from: "ALPHA_BATCH" })
  expect(origins.nHead).toEqual({ layer: "flag", from: "--nHead" })
  expect(origins.headDim).toEqual({ layer: "derived", from: "nEmbd / nHead" })
  expect(["lr", "batch", "nHead"].every((name) => loaded.isGiven(name as "lr"))).toBe(true)
  expect(["seed", "nEmbd", "norm", "headDim"].some((name) => loaded.isGiven(name as "seed"))).toBe(false)
})

test(".env.local stands below the environment; its syntax is read, its values stay unsaid", () => {
  const folder = mkdtempSync(join(directory, "env-"))
  writeFileSync(
    join(folder, ".env.local"),
    `# comment\nexport ALPHA_STEPS=11 # eleven\nALPHA_BATCH="4"\nALPHA_RUN='a b'\n\nTOKEN="x\\ny"\nALPHA_LR=secret-text\n`,
  )
  const environment = readEnvironment(folder, { ALPHA_BATCH: "6", ALPHA_LR: "0.5" })
  expect(environment.get("TOKEN")?.value).toBe("x\ny")
  const { values, origins } = loadConfig(TRAIN_FIELDS, { flags: [], environment })
  expect(values).toMatchObject({ steps: 11, batch: 6, run: "a b", lr: 0.5 })
  expect(origins.steps).toEqual({ layer: "environment", from: ".env.local: ALPHA_STEPS" })
  const error = refusal(() => loadConfig(TRAIN_FIELDS, { flags: [], environment: readEnvironment(folder, {}) }))
  expect(error.message).toBe(".env.local: ALPHA_LR: expected a number above 0 and of at most 10")
  writeFileSync(join(folder, ".env.local"), "secret without equals\n")
  expect(refusal(() => readEnvironment(folder, {})).message).toBe(".env.local line 1: expected NAME=value")
})

test("unknown names are refused with the nearest", () => {
  const unknown = refusal(() => loadConfig(INFER, { flags: [], environment: readEnvironment(directory, { ALPHA_TEMPRATURE: "1" }) }))
  expect(unknown.message).toBe("environment: unknown variable ALPHA_TEMPRATURE")
  expect(unknown.hint).toContain("ALPHA_TEMPERATURE")
  // A variable of another command is no mistake.
  const others = readEnvironment(directory, { ALPHA_WARMUP_STEPS: "1", ALPHA_BATCH: "" })
  expect(loadConfig(INFER, { flags: [], environment: others }).values.batch).toBe(8) // and an empty one counts as unset
  const path = file("typo.json", { nlayers: 3 })
  const field = refusal(() => train({ config: path }))
  expect(field.message).toBe(`${path}: unknown field nlayers`)
  expect(field.hint).toBe("did you mean nLayer?")
  const preset = refusal(() => train({ preset: "gpt2-124" }))
  expect(preset.message).toBe("preset gpt2-124: unknown")
  expect(preset.hint).toBe("did you mean gpt2-124m?")
  expect(refusal(() => train({ preset: "toString" })).hint).toContain("cpu-small")
})

test("kinds, ranges and choices are checked", () => {
  expect(train({ steps: "1e3", lr: "2.5e-4", dropout: ".1", bias: "yes", decayList: ["a", "b"] }).values).toMatchObject({
    steps: 1000,
    lr: 2.5e-4,
    dropout: 0.1,
    bias: true,
    decayList: ["a", "b"],
  })
  const message = (values: Record<string, string>) => refusal(() => train(values)).message
  expect(message({ steps: "1.5" })).toBe("--steps 1.5: expected a whole number of at least 1")
  expect(message({ steps: "ten" })).toBe("--steps ten: expected a whole number of at least 1")
  expect(message({ steps: "" })).toBe('--steps "": expected a whole number of at least 1')
  expect(message({ lr: "NaN" })).toContain("--lr NaN: expected a number")
  expect(message({ lr: "0x10" })).toContain("expected a number")
  expect(message({ dropout: "1" })).toBe("--dropout 1: expected a number of at least 0 and below 1")
  expect(message({ bias: "maybe" })).toBe("--bias maybe: expected true or false")
  expect(message({ device: "tpu" })).toBe("--device tpu: expected cpu, gpu, gpu:N, gpu:UUID or auto")
  const choice = refusal(() => train({ activation: "gelu-tanh" }))
  expect(choice.message).toBe("--activation gelu-tanh: expected one of gelu, gelu_tanh, relu, relu2, silu, swiglu")
  expect(choice.hint).toBe("did you mean gelu_tanh?")
  expect(refusal(() => train({ evalInterval: "0" })).hint).toBe("none switches it off")
  expect(refusal(() => train({ config: file("type.json", { nLayer: "4", tie: "x" }) })).message).toContain("tie x: expected true or false")
  expect(refusal(() => train({ config: file("array.json", [1]) })).message).toContain("expected a JSON object")
})

test("none removes an optional value, auto derives one again, other spellings of values are understood", () => {
  const { values } = train({ preset: "llama-30m", gradClip: "none", nKvHead: "auto", device: "helios", precision: "bfloat16" })
  expect(values).toMatchObject({ nKvHead: 8, device: "gpu", precision: "bf16" })
  expect(values.gradClip).toBeUndefined()
  expect(train({ config: file("null.json", { gradClip: null }) }).values.gradClip).toBeUndefined()
})

test("contradictions name both values and where they came from", () => {
  const message = (values: Record<string, string>) => refusal(() => train(values)).message
  expect(message({ preset: "cpu-small", nHead: "5" })).toBe("model: nEmbd 128 (preset cpu-small) is not divisible by nHead 5 (--nHead)")
  expect(message({ nKvHead: "3" })).toBe("model: nHead 8 (default) is not divisible by nKvHead 3 (--nKvHead)")
  expect(message({ nEmbd: "24", position: "rope" })).toBe(
    "model: position rope (--position) rotates pairs, but the head size is odd: nEmbd 24 (--nEmbd) / nHead 8 (default) = 3",
  )
  expect(message({ ropeScaling: "linear:2" })).toContain(
    "ropeScaling linear:2 (--ropeScaling) needs position rope, but it is position learned (default)",
  )
  expect(message({ ropeScaling: "llama3:8:4:1:8192", position: "rope" })).toContain("LOW 4 must be below HIGH 1")
  expect(message({ context: "128", blockSize: "64" })).toBe(
    "train: context 128 (--context) is longer than the learned positions: blockSize 64 (--blockSize)",
  )
  expect(message({ warmupSteps: "50", steps: "40" })).toBe("train: warmupSteps 50 (--warmupSteps) is more than steps 40 (--steps)")
  expect(message({ profile: "50", steps: "40" })).toBe("train: profile 50 (--profile) is behind the last of steps 40 (--steps)")
  expect(message({ warmupSteps: "50", decaySteps: "40" })).toContain("ends after decaySteps 40 (--decaySteps)")
  expect(message({ minLr: "1", lr: "0.5" })).toBe("train: minLr 1 (--minLr) is above lr 0.5 (--lr)")
  expect(message({ patience: "2", evalInterval: "none" })).toContain("evalInterval none")
  expect(message({ valData: "a", valFraction: "0.2" })).toContain(
    "valFraction 0.2 (--valFraction) has no effect beside valData a (--valData)",
  )
  expect(message({ resume: "a", init: "b" })).toContain("resume a (--resume) restores weights, but init b (--init)")
  expect(message({ data: "random" })).toContain("data random (--data) needs a vocabulary size")
  expect(message({ tokenizer: "gpt2", vocabSize: "1000" })).toContain(
    "vocabSize 1000 (--vocabSize) contradicts tokenizer gpt2 (--tokenizer)",
  )
  // RoPE has no table of positions to run out of.
  expect(train({ context: "128", blockSize: "64", position: "rope" }).values.context).toBe(128)
})

test("of context and blockSize the more strongly set one sets the other", () => {
  const sizes = (values: Record<string, string>) => {
    const { context, blockSize } = train(values).values
    return [context, blockSize]
  }
  expect(sizes({})).toEqual([256, 256])
  expect(sizes({ context: "32" })).toEqual([32, 32])
  expect(sizes({ blockSize: "64" })).toEqual([64, 64])
  expect(sizes({ preset: "shakespeare-char", blockSize: "64" })).toEqual([64, 64])
  expect(sizes({ preset: "gpt2-124m", context: "64" })).toEqual([64, 64])
  expect(sizes({ context: "32", blockSize: "64" })).toEqual([32, 64])
  // The model of --init keeps its positions.
  const continued = (blockSize: number, values: Record<string, string>) => {
    const base = { values: { blockSize }, from: "model" }
    const loaded = finishTrain(loadConfig(TRAIN_FIELDS, { flags: flags(values), environment: none, base }))
    return [loaded.values.context, loaded.values.blockSize]
  }
  expect(continued(1024, {})).toEqual([256, 1024])
  expect(continued(1024, { context: "64" })).toEqual([64, 1024])
  expect(continued(128, {})).toEqual([128, 128])
  expect(refusal(() => continued(128, { context: "256" })).message).toContain("blockSize 128 (model)")
})

test("derived values follow the formulas of the help", () => {
  expect(train({ lr: "1e-3", steps: "500" }).values).toMatchObject({
    minLr: 1e-4,
    warmupSteps: 25,
    decaySteps: 500,
    beta2: 0.95,
    checkpointInterval: 250,
  })
  expect(train({ steps: "100000", evalInterval: "none" }).values).toMatchObject({ warmupSteps: 2000, checkpointInterval: 500 })
  expect(train({ optimizer: "lion" }).values.beta2).toBe(0.99)
  expect(train({ optimizer: "sgd" }).values.momentum).toBe(0.9)
})

test("resolveModel fills and checks a model on its own", () => {
  const model = resolveModel({ vocabSize: 65, blockSize: 32, nLayer: 2, nHead: 4, nEmbd: 36, activation: "swiglu" })
  expect(model).toMatchObject({ nKvHead: 4, headDim: 9, ffnDim: 128, norm: "layernorm", tie: true, initStd: 0.02, softCap: undefined })
  expect(Object.keys(model).sort()).toEqual(Object.keys(MODEL).sort())
  expect(resolveModel(model)).toEqual(model)
  expect(resolveModel({ ...model, activation: "gelu", ffnDim: undefined }).ffnDim).toBe(144)
  expect(resolveModel({ vocabSize: 9, blockSize: 8, nHead: 3, nEmbd: 64, headDim: 16 }).headDim).toBe(16)
  expect(refusal(() => resolveModel({ blockSize: 8 })).message).toBe("model: vocabSize is not given")
  expect(refusal(() => resolveModel({ vocabSize: 9, blockSize: 8, nEmbd: 65 })).message).toBe("model: nEmbd 65 is not divisible by nHead 8")
  expect(modelFields({ ...train({}).values }).nLayer).toBe(6)
})

/** Parameters of a model without biases in linear layers, by the formula of its form. */
function parameterCount(preset: string, vocabSize: number): number {
  const { values } = train({ preset })
  const m = resolveModel({ ...values, vocabSize })
  const attention = m.nEmbd * m.headDim * (m.nHead + 2 * m.nKvHead) + m.nHead * m.headDim * m.nEmbd
  const mlp = m.nEmbd * m.ffnDim * (m.activation === "swiglu" ? 3 : 2)
  const biases = m.bias ? m.headDim * (m.nHead + 2 * m.nKvHead) + m.nEmbd + m.ffnDim + m.nEmbd : 0
  const norm = m.norm === "layernorm" && m.bias ? 2 * m.nEmbd : m.nEmbd
  const embedding = vocabSize * m.nEmbd * (m.tie ? 1 : 2) + (m.position === "learned" ? m.blockSize * m.nEmbd : 0)
  return embedding + m.nLayer * (attention + mlp + biases + 2 * norm) + norm
}

test("every preset resolves, and the named sizes have their sizes", () => {
  for (const name of Object.keys(PRESETS)) {
    const { values } = train({ preset: name })
    expect(values.samplePrompts.length).toBeGreaterThan(0)
    const random = train({ preset: name, data: "random", ...(values.vocabSize === undefined ? { vocabSize: "65" } : {}) })
    expect(resolveModel({ ...random.values, vocabSize: random.values.vocabSize }).vocabSize).toBeGreaterThan(64)
  }
  // OpenAI's GPT-2 sizes, as transformers counts them.
  expect(parameterCount("gpt2-124m", 50257)).toBe(124_439_808)
  expect(parameterCount("gpt2-350m", 50257)).toBe(354_823_168)
  expect(parameterCount("gpt2-774m", 50257)).toBe(774_030_080)
  expect(Math.round(parameterCount("llama-30m", 12288) / 1e6)).toBe(30)
  expect(Math.round(parameterCount("llama-100m", 32768) / 1e6)).toBe(101)
  // nanoGPT prints 10.65M for shakespeare-char without position embeddings.
  expect(parameterCount("shakespeare-char", 65) - 256 * 384).toBe(10_646_784)
  expect(train({ preset: "gpt2-124m", data: "random" }).values.vocabSize).toBe(50304)
  expect(train({ preset: "gpt2-124m", data: "x.txt" }).values.vocabSize).toBe(50257)
})

test("shakespeare-char is nanoGPT's, cpu-small its line for a laptop at twice the learning rate", () => {
  const same = {
    dropout: 0.2,
    lr: 1e-3,
    minLr: 1e-4,
    schedule: "cosine",
    warmupSteps: 100,
    beta1: 0.9,
    beta2: 0.99,
    weightDecay: 0.1,
    gradClip: 1,
  }
  expect(train({ preset: "shakespeare-char" }).values).toMatchObject({
    ...same,
    ...{
      nLayer: 6,
      nHead: 6,
      nEmbd: 384,
      context: 256,
      blockSize: 256,
      batch: 64,
      steps: 5000,
      decaySteps: 5000,
      evalInterval: 250,
      evalSteps: 200,
    },
    ...{ bias: false, tie: true, activation: "gelu", norm: "layernorm", position: "learned", tokenizer: "char" },
  })
  expect(train({ preset: "cpu-small" }).values).toMatchObject({
    ...same,
    ...{ nLayer: 4, nHead: 4, nEmbd: 128, context: 64, batch: 12, steps: 2000, decaySteps: 2000, dropout: 0, lr: 2e-3, minLr: 2e-4 },
  })
})

test("a preset's value gives way to what a person asks for", () => {
  const { values, origins } = train({ preset: "cpu-small", steps: "20", lr: "1e-5" })
  expect(values).toMatchObject({ warmupSteps: 1, decaySteps: 20, minLr: 1e-5 / 10 })
  expect(origins.warmupSteps).toEqual({ layer: "derived", from: "5 % of steps, at most 2000" })
  expect(train({ preset: "gpt2-124m", tokenizer: "char" }).values.vocabSize).toBeUndefined()
  expect(train({ preset: "gpt2-124m", tokenizer: "bpe", vocabSize: "999" }).values.vocabSize).toBe(999)
})

test("what --print-config --json writes is a --config file that gives the same values", () => {
  const first = train({ preset: "llama-30m", nEmbd: "256", gradClip: "none", samplePrompts: ["a", "b"] })
  const path = file("recorded.json", recordConfig(first))
  const second = train({ config: path })
  expect({ ...second.values, config: undefined }).toEqual({ ...first.values, config: undefined })
  // Derived values are derived again when something they follow from changes.
  expect(train({ config: path, nEmbd: "512" }).values).toMatchObject({ headDim: 64, ffnDim: 1408 })
})

test("the JSON schema describes every field", () => {
  const schema = jsonSchema(TRAIN_FIELDS, "alpha train") as {
    properties: Record<string, Record<string, unknown>>
    additionalProperties: boolean
  }
  expect(schema.additionalProperties).toBe(false)
  expect(Object.keys(schema.properties)).toEqual(Object.keys(TRAIN_FIELDS))
  expect(schema.properties.dropout).toMatchObject({ type: "number", minimum: 0, exclusiveMaximum: 1, default: 0, "x-env": "ALPHA_DROPOUT" })
  expect(schema.properties.precision).toMatchObject({ type: "string", enum: ["f32", "bf16"] })
  expect(schema.properties.nKvHead).toMatchObject({ type: ["integer", "null"], "x-derive": "nHead" })
  expect(ENVIRONMENT_NAMES.has("ALPHA_N_KV_HEAD")).toBe(true)
  expect(ENVIRONMENT_NAMES.has("ALPHA_DEBUG")).toBe(true)
})

test("a run is a name under runsDir or a path", () => {
  expect(runDirectory("runs", "first")).toEqual({ directory: "runs/first", name: "first" })
  for (const run of [".", "..", "x/..", ".cache"]) expect(() => runDirectory("runs", run)).toThrow(`run ${run}: its name begins with a dot`)
  expect(runDirectory("runs", "/tmp/x/second/")).toEqual({ directory: "/tmp/x/second", name: "second" })
})
