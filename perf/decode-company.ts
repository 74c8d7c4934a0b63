/**
 * Do a row's bits depend on its company where all layers of few sequences are one launch? bun perf/decode-company.ts [--device=gpu:0] [--sizes=2,3,4]; more
 * than 4 have a kernel with sums of its own. A model of two layers with random weights: logits of three tokens behind the same prompts, alone and in
 * batches at several places; then their distance from those of a launch for every step. Exit status 1 where bits differ.
 */
import { parseArgs } from "node:util"
import { resolveModel } from "../src/config.ts"
import { openDevice } from "../src/device.ts"
import { createGenerator, initialise, paramSpecs, refreshCopies, type Sampling } from "../src/gpt.ts"

const { values: flags } = parseArgs({
  options: { device: { type: "string", default: "gpu:0" }, sizes: { type: "string", default: "2,3,4" } },
})
const model = resolveModel({ vocabSize: 50257, blockSize: 512, nLayer: 2, nHead: 12, nEmbd: 768, initStd: 0.05 })
const GREEDY: Sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }
const TOKENS = 3
/** Lengths of prompts: around pages and units of attention. */
const LENGTHS = [300, 63, 64, 127, 128, 1, 450, 255, 256, 12, 191, 192, 400, 129, 65, 31]
const device = { ...openDevice(flags.device, undefined).device, ahead: 0 }
console.log(device.description)
const state = device.state()
initialise(device, state, model, 3)
refreshCopies(device, state, model, "bf16")
for (const { name, matmul } of paramSpecs(model)) if (matmul) state.drop(name)
const V = model.vocabSize
const idOf = (sequence: number, i: number) => (i * i * 31 + sequence * 17 + i * 7919) % V

/** Logits of the sequences' next tokens, decoded together; the sequence at each slot. */
function decoded(sequences: readonly number[], order?: "layers"): Float32Array[][] {
  const options = { precision: "bf16", slots: sequences.length, length: 512, vocabulary: V, order } as const
  const generator = createGenerator(device, state, model, options)
  const turn = { sampling: GREEDY, draw: 0 }
  sequences.forEach((sequence, slot) => {
    generator.prefill({ ...turn, slot, ids: Array.from({ length: LENGTHS[sequence]! }, (_, i) => idOf(sequence, i)) })
  })
  const rows = sequences.map((): Float32Array[] => [])
  for (let t = 0; t < TOKENS; t++) {
    generator.decode(
      sequences.map((sequence, slot) => ({ ...turn, slot, id: idOf(sequence, LENGTHS[sequence]! + t) })),
      0,
    )
    const all = state.read(`generate.logits.${2 ** Math.ceil(Math.log2(sequences.length))}`) as Float32Array
    rows.forEach((row, i) => {
      row.push(all.slice(i * V, (i + 1) * V))
    })
  }
  generator.free()
  return rows
}

const alone = LENGTHS.map((_, sequence) => decoded([sequence], "layers")[0]!)
let isEqual = true
for (const size of flags.sizes.split(",").map(Number)) {
  const sequences = Array.from({ length: size }, (_, i) => (5 * i + size) % LENGTHS.length)
  const different = decoded(sequences, "layers").flatMap((rows, i) =>
    rows.flatMap((row, t) => (row.every((value, j) => value === alone[sequences[i]!]![t]![j]) ? [] : [`${sequences[i]}:${t}`])),
  )
  isEqual &&= different.length === 0
  console.log(`${size} sequences: ${different.length === 0 ? "equal" : `DIFFERENT: ${different.join(" ")}`}`)
}
const apart = LENGTHS.map((_, sequence) => decoded([sequence])[0]!)
const [far, most] = [alone, apart].map((rows, which) =>
  Math.max(
    ...rows.flatMap((own, i) =>
      own.map((row, t) => row.reduce((top, x, j) => Math.max(top, Math.abs(which === 0 ? x - apart[i]![t]![j]! : x)), 0)),
    ),
  ),
) as [number, number]
console.log(`from launches apart: at most ${far.toExponential(1)} of ${most.toFixed(1)}`)
state.free()
device.close()
if (!isEqual || !(far < 0.05 * most)) process.exitCode = 1
