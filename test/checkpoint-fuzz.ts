/** Damaged model directories and trainers killed while saving; for the tests and the soak. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { sha256 } from "../src/base-file.ts"
import { fillNormal, randomBits } from "../src/base-random.ts"
import { resolveModel } from "../src/config.ts"
import {
  type CheckpointContent,
  loadTrainer,
  loadWeights,
  readChatTemplate,
  readCheckpointFile,
  readConfig,
  saveCheckpoint,
  verifyCheckpoint,
} from "../src/gpt-checkpoint.ts"
import { checkpointPath, listCheckpoints, recoverCheckpoints } from "../src/gpt-keep.ts"
import { paramSpecs } from "../src/gpt-params.ts"
import type { NamedTensor } from "../src/gpt-safetensors.ts"
import { damage, type FuzzCounts, refusalOf } from "./file-fuzz.ts"
import { randomSource } from "./token-fuzz.ts"

const FIXTURES = join(import.meta.dir, "fixtures/hf")
const model = resolveModel({ vocabSize: 31, blockSize: 8, nLayer: 2, nHead: 2, nEmbd: 8 })
export const parameters = paramSpecs(model)
export const tokenizerJson = readFileSync(join(FIXTURES, "gpt2-bpe/tokenizer.json"), "utf8")

/** Parameters of a run with this seed. */
export function weightsOf(seed: number): (name: string) => Float32Array {
  return (name) => {
    const index = parameters.findIndex((spec) => spec.name === name)
    const values = new Float32Array(parameters[index]!.shape.reduce((n, d) => n * d, 1))
    const { init } = parameters[index]!
    if ("std" in init) fillNormal(values, seed, index, init.std)
    else values.fill(init.constant)
    return values
  }
}
export const floats = (name: string, values: number[]): NamedTensor => ({
  name,
  shape: [values.length],
  dtype: "F32",
  data: () => new Uint8Array(Float32Array.from(values).buffer),
})
/** Everything a checkpoint can hold, other values for every seed. */
export const ownCheckpoint = (seed: number): CheckpointContent => ({
  model,
  ids: { bos: 0, eos: 0 },
  tokenizerJson,
  chatTemplate: "{{ messages }}",
  weights: weightsOf(seed),
  trainer: {
    tensors: [{ name: "skipped", shape: [3], dtype: "U8", data: () => Uint8Array.of(seed, 1, 2) }, floats("m.wte.weight", [seed, 0.5])],
    state: { step: seed, best: 1.25, rng: [4294967295, 0], note: "é" },
  },
})

const size = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1)
const bytesOf = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength)

/** Every weight of a directory, as training or inference would load it. */
function loadAll(dir: string): Map<string, Float32Array> {
  const params = new Map<string, Float32Array>()
  loadWeights(dir, readConfig(dir).model, (name, shape) => {
    const values = new Float32Array(size(shape))
    params.set(name, values)
    return values
  })
  return params
}

/** Digest of everything that a resumed run takes from a checkpoint. */
function digest(dir: string): string {
  const { state, tensors } = loadTrainer(dir)
  const moments = [...tensors].map(([name, tensor]) => [name, tensor.shape, tensor.dtype, sha256(tensor.data())])
  const weights = [...loadAll(dir)].map(([name, values]) => [name, sha256(bytesOf(values))])
  const { model, ids } = readConfig(dir)
  return sha256(JSON.stringify([model, ids, state, moments, weights, readCheckpointFile(dir, "tokenizer.json"), readChatTemplate(dir)]))
}

/** Checkpoints of our own: every damage to any file is refused by that file's name, and what still loads is exactly right. */
export async function fuzzCheckpoints(count: number, seed: number, dir: string): Promise<FuzzCounts> {
  saveCheckpoint(dir, ownCheckpoint(9))
  const random = randomSource(seed)
  const right = digest(dir)
  const names = readdirSync(dir).sort()
  let refused = 0
  for (let i = 0; i < count; i++) {
    const name = names[random(names.length)]!
    const path = join(dir, name)
    const whole = readFileSync(path)
    const bytes = damage(whole, random)
    writeFileSync(path, bytes)
    const fail = (why: string) => new Error(`damage ${i} (seed ${seed}) of ${name}, ${bytes.length} of ${whole.length} bytes: ${why}`)
    const error = await refusalOf(() => verifyCheckpoint(dir))
    if (bytes.equals(whole) !== (error === undefined)) throw fail(error?.message ?? "was not noticed")
    if (error !== undefined && !error.message.startsWith(path)) throw fail(`the error names another file: ${error.message}`)
    const other = await refusalOf(() => {
      if (digest(dir) !== right) throw fail("loaded as something else")
    })
    if (other !== undefined && error === undefined) throw fail(`verified, but refused: ${other.message}`)
    if (error !== undefined) refused++
    writeFileSync(path, whole)
  }
  if (digest(dir) !== right) throw new Error("the undamaged checkpoint loads as something else")
  return { refused, read: count - refused }
}

/**
 * Directories that `transformers` wrote, in copies under `folder`. They have no checksums, so damage goes where structure lies: JSON, the
 * headers of weight files, lengths. What is not refused by name has exactly the right weights; config.json may by damage become the valid
 * description of another model, whose parameters of the same name and size have the same values.
 */
export async function fuzzModels(count: number, seed: number, folder: string): Promise<FuzzCounts> {
  const random = randomSource(seed)
  const dirs = ["gpt2", "gpt2-shards-bf16", "llama-f16", "llama-shards", "qwen3-bf16"].map((name) => {
    const dir = join(folder, `fuzz-${name}`)
    cpSync(join(FIXTURES, name), dir, { recursive: true })
    return { dir, right: loadAll(dir) }
  })
  let refused = 0
  for (let i = 0; i < count; i++) {
    const { dir, right } = dirs[random(dirs.length)]!
    const names = readdirSync(dir).filter((name) => name !== "expected.json")
    const name = names.sort()[random(names.length)]!
    const path = join(dir, name)
    const whole = readFileSync(path)
    const bytes = damage(whole, random, name.endsWith(".safetensors") ? 8 + Number(whole.readBigUInt64LE(0)) : whole.length)
    writeFileSync(path, bytes)
    const fail = (why: string) => new Error(`damage ${i} (seed ${seed}) of ${path}: ${why}`)
    const error = await refusalOf(() => {
      const found = loadAll(dir)
      const specs = paramSpecs(readConfig(dir).model)
      if (!specs.every((spec) => found.get(spec.name)?.length === size(spec.shape))) throw fail("other shapes than config.json says")
      if (name !== "config.json" && found.size !== right.size) throw fail("other parameters")
      for (const [param, values] of found) {
        const want = right.get(param)
        const isSame = want !== undefined && bytesOf(want).equals(bytesOf(values))
        if (!isSame && (name !== "config.json" || want?.length === values.length)) throw fail(`wrong weights in ${param}`)
      }
    })
    if (error !== undefined) {
      refused++
      if (!error.message.includes(dir)) throw fail(`the error names no file: ${error.message}`)
      if (bytes.equals(whole)) throw fail(`refused whole: ${error.message}`)
    }
    writeFileSync(path, whole)
  }
  return { refused, read: count - refused }
}

/** `kills` SIGKILLs of a process that saves checkpoint after checkpoint: each that it reported is there, and every one that is there is whole. */
export async function killSavers(kills: number, seed: number, folder: string): Promise<void> {
  const [run, script] = [join(folder, "kill"), join(folder, "saver.ts")]
  mkdirSync(run)
  const source = (name: string) => JSON.stringify(join(import.meta.dir, "../src", name))
  writeFileSync(
    script,
    `import { saveCheckpoint } from ${source("gpt-checkpoint.ts")}
    import { checkpointPath } from ${source("gpt-keep.ts")}
    import { paramSpecs } from ${source("gpt-params.ts")}
    import { resolveModel } from ${source("config.ts")}
    const model = resolveModel({ vocabSize: 31, blockSize: 8, nLayer: 2, nHead: 2, nEmbd: 8 })
    const sizes = new Map(paramSpecs(model).map(({ name, shape }) => [name, shape.reduce((n, d) => n * d, 1)]))
    const weights = (name) => new Float32Array(sizes.get(name))
    for (let step = 1; ; step++) {
      // Every second save replaces an existing checkpoint with other content.
      saveCheckpoint(checkpointPath(process.argv[2], step >> 1), { model, weights, trainer: { tensors: [], state: { step } } })
      process.stdout.write("saved " + (step >> 1) + "\\n")
    }`,
  )
  for (let i = 0; i < kills; i++) {
    rmSync(join(run, "checkpoints"), { recursive: true, force: true })
    const child = Bun.spawn([process.execPath, script, run], { stdout: "pipe", stderr: "inherit" })
    let reported = ""
    let deadline: Timer | undefined
    for await (const chunk of child.stdout) {
      reported += new TextDecoder().decode(chunk)
      deadline ??= setTimeout(() => child.kill("SIGKILL"), randomBits(seed, 10, 0, i) % 120)
    }
    clearTimeout(deadline)
    await child.exited
    recoverCheckpoints(run)
    const steps = new Set(reported.match(/\d+(?=\n)/g)?.map(Number))
    if (steps.size === 0) throw new Error(`kill ${i} (seed ${seed}): nothing was saved`)
    for (const step of steps)
      if (!existsSync(checkpointPath(run, step))) throw new Error(`kill ${i} (seed ${seed}): step ${step} was reported, but is not there`)
    for (const { dir } of listCheckpoints(run))
      if (verifyCheckpoint(dir).length !== 5) throw new Error(`kill ${i} (seed ${seed}): ${dir} is not whole`)
  }
}
