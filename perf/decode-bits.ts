/**
 * Do a row's bits depend on its company? bun perf/decode-bits.ts [--device=gpu:0] [--paths=none,khr,nv2] [--precision=bf16]. For two models
 * with random weights and every path of matrix instructions, each in a process of its own: logits of a sequence that grows token by token against
 * those in batches of 7 and 64 and after chunks of 16 and 256, and the log-probabilities of all its tokens against the evaluation program's.
 * One line per pair, "equal" or how many numbers differ; then a digest of the logits, to compare paths. Exit status 1 where something differs.
 */
import { parseArgs } from "node:util"
import { resolveModel } from "../src/config.ts"
import { openDevice } from "../src/device.ts"
import { createGenerator, initialise, type Precision, paramSpecs, refreshCopies, type Sampling } from "../src/gpt.ts"
import { createEvaluator } from "../src/train-eval.ts"

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "gpu:0" },
    paths: { type: "string", default: "none,khr,nv2" },
    precision: { type: "string", default: "bf16" },
    one: { type: "boolean", default: false },
  },
})

const MODELS = {
  gpt2: resolveModel({ vocabSize: 50257, blockSize: 512, nLayer: 2, nHead: 12, nEmbd: 768, initStd: 0.05 }),
  llama: resolveModel({
    ...{ vocabSize: 65, blockSize: 512, nLayer: 3, nHead: 6, nKvHead: 2, nEmbd: 384, initStd: 0.1 },
    ...{ norm: "rmsnorm", position: "rope", activation: "swiglu", qkNorm: true },
  }),
} as const
/** Tokens of the watched sequence. */
const LENGTH = 272
const GREEDY: Sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }

if (flags.one) process.exitCode = check() ? 0 : 1
else {
  for (const path of flags.paths.split(",")) {
    const own = path === "none" ? { HELIOS_DISABLE_COOP_MAT: "1" } : { HELIOS_MATRIX: path }
    const from = performance.now()
    const run = Bun.spawnSync([process.execPath, import.meta.path, ...process.argv.slice(2), "--one"], {
      env: { ...process.env, ...own },
      stdout: "inherit",
      stderr: "inherit",
    })
    console.log(`${path}: ${run.success ? "all equal" : "DIFFERENT or failed"}, ${((performance.now() - from) / 1000).toFixed(1)} s`)
    if (!run.success) process.exitCode = 1
  }
}

function check(): boolean {
  const device = { ...openDevice(flags.device, undefined).device, ahead: 0 } // so that the newest logits are those of the last token
  console.log(device.description)
  const results = Object.keys(MODELS).map((name) => checkModel(name as keyof typeof MODELS, device))
  device.close()
  return results.every((isEqual) => isEqual)
}

function checkModel(name: keyof typeof MODELS, device: ReturnType<typeof openDevice>["device"]): boolean {
  const model = MODELS[name]
  const precision = flags.precision as Precision
  const V = model.vocabSize
  const state = device.state()
  initialise(device, state, model, 3)
  refreshCopies(device, state, model, precision)
  if (precision === "bf16") for (const { name: weight, matmul } of paramSpecs(model)) if (matmul) state.drop(weight)
  const generator = createGenerator(device, state, model, { precision, slots: 64, length: LENGTH, vocabulary: V })
  const some = (count: number, seed: number) => Array.from({ length: count }, (_, i) => (i * i * 31 + seed * 17 + i * 7919) % V)
  const ids = some(LENGTH, 1)
  const turn = { sampling: GREEDY, draw: 0 }
  /** Bits of a row of the newest logits of a step of B rows. */
  const logits = (B: number, row: number) => {
    const { buffer, byteOffset } = state.read(`generate.logits.${B}`)
    return new Int32Array(buffer.slice(byteOffset + 4 * V * row, byteOffset + 4 * V * (row + 1)) as ArrayBuffer)
  }
  let isEqual = true
  const compare = (about: string, wanted: Int32Array, got: Int32Array) => {
    const different = wanted.reduce((count, word, i) => count + (word === got[i] ? 0 : 1), 0)
    isEqual &&= different === 0
    console.log(`  ${name}: ${about}: ${different === 0 ? "equal" : `DIFFERENT in ${different} of ${wanted.length}`}`)
  }

  const wanted = new Map<number, Int32Array>()
  const choices = [generator.prefill({ ...turn, slot: 0, ids: ids.slice(0, 1) })]
  for (let i = 1; i < LENGTH; i++) {
    choices.push({ ...generator.decode([{ ...turn, slot: 0, id: ids[i]! }], 0)[0]!, computed: 1 })
    if (i === 15 || i === 255 || i === LENGTH - 1) wanted.set(i, logits(1, 0))
  }
  const last = wanted.get(LENGTH - 1)!
  generator.prefill({ ...turn, slot: 1, ids: ids.slice(0, 16) })
  compare("a chunk of 16", wanted.get(15)!, logits(1, 0))
  for (let end = 32; end <= LENGTH; end += 16) generator.prefill({ ...turn, slot: 1, ids: ids.slice(0, end) })
  compare(`${LENGTH / 16} chunks of 16`, last, logits(1, 0))
  generator.prefill({ ...turn, slot: 2, ids: ids.slice(0, 256) })
  compare("a chunk of 256", wanted.get(255)!, logits(1, 0))
  generator.prefill({ ...turn, slot: 2, ids })
  compare("chunks of 256 and 16", last, logits(1, 0))
  for (const [count, own] of [
    [7, 3],
    [64, 41],
  ] as const) {
    for (let slot = 0; slot < count; slot++)
      generator.prefill({ ...turn, slot, ids: slot === own ? ids.slice(0, -1) : some(slot + 5, slot) })
    generator.decode(
      Array.from({ length: count }, (_, slot) => ({ ...turn, slot, id: slot === own ? ids.at(-1)! : slot })),
      0,
    )
    compare(`a batch of ${count}`, last, logits(2 ** Math.ceil(Math.log2(count)), own))
  }

  const bits = (values: Float32Array) => new Int32Array(values.slice().buffer as ArrayBuffer)
  const targets = Int32Array.from(choices, ({ id }) => id)
  const told = bits(Float32Array.from(choices, ({ logprob }) => logprob))
  for (const B of [1, 5]) {
    const evaluator = createEvaluator(device, state, { model, precision, B, T: LENGTH })
    const [tokens, all] = [new Int32Array(B * LENGTH), new Int32Array(B * LENGTH).fill(-1)]
    for (let b = 0; b < B; b++) tokens.set(b === B - 1 ? ids : some(LENGTH, b + 9), b * LENGTH)
    all.set(targets, (B - 1) * LENGTH)
    compare(`evaluation of ${B}`, told, bits(evaluator.logprobs(tokens, all)).subarray((B - 1) * LENGTH))
    evaluator.free()
  }
  const kinds = new Set(targets).size
  console.log(
    `  ${name}: ${Bun.hash(last.buffer).toString(16)} logits, ${Bun.hash(told.buffer).toString(16)} logprobs (${kinds} different tokens)`,
  )
  generator.free()
  state.free()
  return isEqual
}
