/** On devices with matrix instructions, simulated: a token's probability is the same in generation, prefill and evaluation. */
import { expect, test } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { createGenerator, initialise, refreshCopies } from "../src/gpt.ts"
import { addLayerNorm, checkCase } from "../src/op.ts"
import type { Op } from "../src/program.ts"
import { createEvaluator } from "../src/train-eval.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

const model = resolveModel({ vocabSize: 65, blockSize: 128, nLayer: 1, nHead: 1, nEmbd: 64, initStd: 0.3 })
const T = 128
const ids = Array.from({ length: T }, (_, i) => (i * i * 31 + i * 7) % 65)
const turn = { sampling: { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }, draw: 0 }

test("a row's norm is the same among few rows and among many", () => {
  const rowsOf = (R: number) => {
    const opCase = { inputs: { x: [R, 264], r: [R, 264], w: [264], b: [264] }, attrs: { eps: 1e-5, out: "bf16" } }
    const { bits } = checkCase(simulatedDevice(32), { op: addLayerNorm as Op, opCase, index: 0, act: "bf16", beta: 0 })
    return bits.get("out.y") as Uint8Array
  }
  const few = rowsOf(3)
  expect(Buffer.from(few).equals(Buffer.from(rowsOf(40).subarray(0, few.length)))).toBe(true)
})

for (const path of ["khr", "nv2"] as const) {
  test(`${path}: generation, prefill and evaluation tell the same`, () => {
    const device = simulatedDevice(32, path)
    const state = device.state()
    initialise(device, state, model, 3)
    refreshCopies(device, state, model, "bf16")
    const evaluator = createEvaluator(device, state, { model, precision: "bf16", B: 1, T })
    const told = (at: number, target: number) => {
      const targets = new Int32Array(T).fill(-1)
      targets[at] = target
      return evaluator.logprobs(Int32Array.from(ids), targets)[at]
    }
    const generator = createGenerator(device, state, model, { precision: "bf16", slots: 2, length: T, vocabulary: 65 })
    for (const count of [1, 17, 80, T]) {
      const choice = generator.prefill({ ...turn, slot: 0, ids: ids.slice(0, count) })
      expect(told(count - 1, choice.id), `prefill of ${count}`).toBe(choice.logprob)
    }
    generator.prefill({ ...turn, slot: 1, ids: ids.slice(0, 99) })
    const [choice] = generator.decode([{ ...turn, slot: 1, id: ids[99]! }], 0)
    expect(told(99, choice!.id), "decode").toBe(choice!.logprob)
  }, 300_000)
}
