/** The stack in PTX: a decode step whose layers are one launch says what one says that has them apart. */
import { expect, test } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { createGenerator, initialise, refreshCopies } from "../src/gpt.ts"
import type { Device, Plan } from "../src/program.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

/** Simulated instruction by instruction. */
const SLOWEST_MS = 300_000
const model = resolveModel({
  ...{ vocabSize: 65, blockSize: 128, nLayer: 1, nHead: 4, nEmbd: 256, ffnDim: 256, initStd: 0.1 },
  ...{ activation: "gelu_tanh", bias: true },
})
const ids = Array.from({ length: 70 }, (_, i) => (i * i * 31 + i * 7) % 65)
const sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }

/** Logits of two sequences of different lengths, token by token, and the plans that were compiled. */
function told(device: Device, lengths: readonly number[], order?: "layers") {
  const plans: Plan[] = []
  const seen: Device = {
    ...device,
    compile(plan, state) {
      plans.push(plan)
      return device.compile(plan, state)
    },
  }
  const state = seen.state()
  initialise(seen, state, model, 3)
  refreshCopies(seen, state, model, "bf16")
  const generator = createGenerator(seen, state, model, { precision: "bf16", slots: lengths.length, length: 128, vocabulary: 65, order })
  lengths.forEach((length, slot) => {
    generator.prefill({ slot, ids: ids.slice(0, length), sampling, draw: 0 })
  })
  const logits: Float32Array[] = []
  for (let draw = 1; draw < 2; draw++) {
    generator.decode(
      lengths.map((length, slot) => ({ slot, id: ids[length + draw]!, sampling, draw })),
      0,
    )
    const all = state.read(`generate.logits.${2 ** Math.ceil(Math.log2(lengths.length))}`) as Float32Array
    logits.push(all.slice(0, lengths.length * model.vocabSize))
  }
  generator.free()
  state.free()
  return { logits, plans }
}

test(
  "simulated: two sequences, embeddings, layers and head in one launch of two blocks",
  () => {
    const apart = told(simulatedDevice(32, "khr"), [64, 3])
    const together = told(simulatedDevice(32, "khr", false, true), [64, 3], "layers")
    together.logits.forEach((row, i) => {
      const wanted = apart.logits[i]!
      const largest = Math.max(...wanted.map(Math.abs))
      expect(Math.max(...row.map((value, j) => Math.abs(value - wanted[j]!)))).toBeLessThan(0.01 * largest)
    })
  },
  SLOWEST_MS,
)

test(
  "simulated: where evaluation's bits are asked for, layers stay apart",
  () => {
    const [apart, same] = [false, true].map((stacks) => told(simulatedDevice(32, "khr", false, stacks), [3]).logits)
    expect(same).toEqual(apart!)
  },
  SLOWEST_MS,
)
