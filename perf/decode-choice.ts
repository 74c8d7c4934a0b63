/**
 * Tokens that the launch of all layers chooses: bun perf/decode-choice.ts [--device=gpu:0] [--batch=1,2,4] [--steps=100] [--layers=12]. A model of gpt2-124m's
 * sizes with random weights. Per batch and way of sampling: µs a token as generation runs (median), then, step by step, how many tokens and log-probabilities
 * are those that the CPU's ops make of the same logits. Exit status 1 where more than one token in a hundred differs: a random number may fall on the edge.
 */
import { parseArgs } from "node:util"
import { median } from "../src/bench-stats.ts"
import { resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { openDevice } from "../src/device.ts"
import { createGenerator, initialise, paramSpecs, refreshCopies, type Sampling } from "../src/gpt.ts"
import { logprobs, sample } from "../src/op.ts"
import { type Device, plan, trace } from "../src/program.ts"

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "gpu:0" },
    batch: { type: "string", default: "1,2,4" },
    steps: { type: "string", default: "100" },
    layers: { type: "string", default: "12" },
  },
})
const [steps, layers] = [flags.steps, flags.layers].map(Number) as [number, number]
const model = resolveModel({ vocabSize: 50257, blockSize: 1024, nLayer: layers, nHead: 12, nEmbd: 768, initStd: 0.05, bias: true })
const GREEDY: Sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 7 }
const WAYS: Readonly<Record<string, Sampling>> = {
  greedy: GREEDY,
  "infer's own": { ...GREEDY, temperature: 0.8, topK: 40 },
  plain: { ...GREEDY, temperature: 1 },
  "top p": { ...GREEDY, temperature: 1, topP: 0.9 },
  "top k, top p, min p": { ...GREEDY, temperature: 1.2, topK: 500, topP: 0.95, minP: 0.02 },
}
const { device } = openDevice(flags.device, undefined)
console.log(device.description)
const state = device.state()
initialise(device, state, model, 3)
refreshCopies(device, state, model, "bf16")
for (const { name, matmul } of paramSpecs(model)) if (matmul) state.drop(name)
const V = model.vocabSize
/** Steps before the clock starts, runs, and steps of each. */
const [WARM, RUNS, LONG] = [16, 5, 64]

/** A generator whose sequences have prompts of different lengths, and their first tokens. */
function begun(on: Device, batch: number, sampling: Sampling) {
  const generator = createGenerator(on, state, model, { precision: "bf16", slots: batch, length: 1024, vocabulary: V, order: "layers" })
  const ids = Array.from({ length: batch }, (_, slot) => {
    const prompt = Array.from({ length: 512 - 100 * slot }, (_, i) => (i * 7919 + slot * 104_729 + 1) % V)
    return generator.prefill({ slot, ids: prompt, sampling, draw: 0 }).id
  })
  const turn = (last: readonly number[], draw: number, more: number) =>
    generator.decode(
      last.map((id, slot) => ({ slot, id, sampling, draw })),
      more,
    )
  return { generator, ids, turn }
}

/** The CPU's choice of `batch` rows of logits. */
function chooser(batch: number) {
  const cpu = openCpu()
  const names = { floats: ["temperature", "topP", "minP"], ints: ["topK", "seed", "draw"] } as const
  const made = plan(
    trace("choice", (t) => {
      const logits = t.input("logits", "f32", [batch, V])
      const of = Object.fromEntries([
        ...names.floats.map((name) => [name, t.input(name, "f32", [batch])] as const),
        ...names.ints.map((name) => [name, t.input(name, "i32", [batch])] as const),
      ])
      const { token } = sample({ logits, ...of } as unknown as Parameters<typeof sample>[0], { vocabulary: V })
      t.output("token", token)
      t.output("logprob", logprobs({ logits, targets: token }, { top: 0 }).logprob)
    }),
  )
  const run = cpu.compile(made, cpu.state())
  return (logits: Float32Array, sampling: Sampling, draw: number) => {
    const of: Record<string, number> = { ...sampling, topK: sampling.topK ?? V, draw }
    const out = run.submit({
      logits,
      ...Object.fromEntries(names.floats.map((name) => [name, new Float32Array(batch).fill(of[name]!)])),
      ...Object.fromEntries(names.ints.map((name) => [name, new Int32Array(batch).fill(of[name]!)])),
    })
    return { token: Array.from(out.read("token")), logprob: Array.from(out.read("logprob")) }
  }
}

for (const batch of flags.batch.split(",").map(Number)) {
  const choose = chooser(batch)
  for (const [way, sampling] of Object.entries(WAYS)) {
    const timed = begun(device, batch, sampling)
    const times: number[] = []
    let last: readonly number[] = timed.ids
    for (let draw = 1; draw <= WARM + RUNS * LONG; draw++) {
      if (draw > WARM && (draw - WARM - 1) % LONG === 0) times.push(performance.now())
      last = timed.turn(last, draw, WARM + RUNS * LONG - draw).map(({ id }) => id)
    }
    times.push(performance.now())
    timed.generator.free()
    const perStep = median(times.slice(1).map((time, i) => (1000 * (time - times[i]!)) / LONG))
    const stepped = begun({ ...device, ahead: 0 }, batch, sampling)
    let [same, far] = [0, 0]
    last = stepped.ids
    for (let draw = 1; draw <= steps; draw++) {
      const choices = stepped.turn(last, draw, 0)
      const logits = (state.read(`generate.logits.${2 ** Math.ceil(Math.log2(batch))}`) as Float32Array).slice(0, batch * V)
      const wanted = choose(logits, sampling, draw)
      choices.forEach(({ id, logprob }, b) => {
        if (id === wanted.token[b]) same++
        if (id === wanted.token[b]) far = Math.max(far, Math.abs(logprob - wanted.logprob[b]!))
      })
      last = choices.map(({ id }) => id)
    }
    stepped.generator.free()
    const all = batch * steps
    console.log(
      `batch ${batch} ${way.padEnd(20)} ${perStep.toFixed(1).padStart(7)} µs a step; ${same} of ${all} tokens the CPU's, ` +
        `log-probabilities within ${far.toExponential(1)}`,
    )
    if (same < 0.99 * all || !(far < 1e-4)) process.exitCode = 1
  }
}
state.free()
device.close()
