/** The stack in PTX: a decode step whose layers are one launch says what one says that has them apart. */
import { expect, test } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { createGenerator, initialise, refreshCopies } from "../src/gpt.ts"
import type { Device } from "../src/program.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

/** Simulated instruction by instruction. */
const SLOWEST_MS = 300_000
const model = resolveModel({
  ...{ vocabSize: 65, blockSize: 128, nLayer: 1, nHead: 4, nEmbd: 256, ffnDim: 256, initStd: 0.1 },
  ...{ activation: "gelu_tanh", bias: true },
})
const ids = Array.from({ length: 70 }, (_, i) => (i * i * 31 + i * 7) % 65)
const GREEDY = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }
const samplings = [GREEDY, { ...GREEDY, temperature: 1.5, topK: 9 }]

/** Logits of two sequences of different lengths, what was chosen of them, and the barriers within the step. */
function told(device: Device, lengths: readonly number[], order?: "layers") {
  let barriers: number | undefined
  const seen: Device = {
    ...device,
    compile(plan, state) {
      const made = device.compile(plan, state)
      barriers = made.barriers
      return made
    },
  }
  const state = seen.state()
  initialise(seen, state, model, 3)
  refreshCopies(seen, state, model, "bf16")
  const generator = createGenerator(seen, state, model, { precision: "bf16", slots: lengths.length, length: 128, vocabulary: 65, order })
  lengths.forEach((length, slot) => {
    generator.prefill({ slot, ids: ids.slice(0, length), sampling: GREEDY, draw: 0 })
  })
  const turns = lengths.map((length, slot) => ({ slot, id: ids[length + 1]!, sampling: samplings[slot]!, draw: 1 }))
  const choices = generator.decode(turns, 0)
  const all = state.read(`generate.logits.${2 ** Math.ceil(Math.log2(lengths.length))}`) as Float32Array
  const logits = all.slice(0, lengths.length * model.vocabSize)
  generator.free()
  state.free()
  return { logits, choices, barriers }
}

test(
  "simulated: two sequences, embeddings, layers, head and the choice of tokens in one launch of two blocks",
  () => {
    const apart = told(simulatedDevice(32, "khr"), [64, 3])
    const together = told(simulatedDevice(32, "khr", false, true), [64, 3], "layers")
    expect(together.barriers).toBe(0)
    const largest = Math.max(...apart.logits.map(Math.abs))
    expect(Math.max(...together.logits.map((value, j) => Math.abs(value - apart.logits[j]!)))).toBeLessThan(0.01 * largest)
    together.choices.forEach(({ id, logprob }, i) => {
      expect(id).toBe(apart.choices[i]!.id)
      expect(Math.abs(logprob - apart.choices[i]!.logprob)).toBeLessThan(0.02 * largest)
    })
  },
  SLOWEST_MS,
)

test(
  "simulated: where evaluation's bits are asked for, layers stay apart",
  () => {
    const [apart, same] = [false, true].map((stacks) => told(simulatedDevice(32, "khr", false, stacks), [3]))
    expect(same).toEqual(apart!)
  },
  SLOWEST_MS,
)
