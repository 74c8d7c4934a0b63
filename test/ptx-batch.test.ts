/** Many sequences through all layers in one launch, run on the CPU instruction by instruction against f64. */
import { expect, test } from "bun:test"
import { batchWork, isBatch, ptxBatch } from "../shaders/ptx-batch.ts"
import { placesOf } from "../shaders/ptx-batch-frame.ts"
import type { DecodeStack } from "../shaders/ptx-decode-frame.ts"
import { resolveModel } from "../src/config.ts"
import { createGenerator } from "../src/gpt.ts"
import { schedule } from "../src/gpu-schedule.ts"
import type { Device, Plan, State } from "../src/program.ts"
import { HOPPER } from "./bf16.ts"
import { checkStack, type StackKernel } from "./ptx-stack.ts"

const MS = 300_000
const batch: StackKernel = {
  make: ptxBatch,
  bytes: (stack) => batchWork(stack).bytes,
  counters({ rows, layers, blocks, classes, allowed }, launches) {
    const arrivals = (7 * layers + (allowed === undefined ? 0 : 1)) * blocks + (classes > 0 ? Math.min(rows, blocks) : 0)
    return [launches * arrivals, launches]
  },
}

const small: DecodeStack = {
  ...{
    rows: 32,
    C: 256,
    F: 512,
    layers: 2,
    activation: "gelu_tanh",
    scale: 0.125,
    eps: 1e-5,
    hasBias: true,
    maxPages: 3,
    blocks: 20,
    classes: 0,
  },
}

test(
  "32 rows, lengths around chunks and pages, some rows empty",
  () => {
    const lengths = [0, 1, 31, 32, 33, 63, 64, 65, 95, 127, 128, 130, undefined, 7, undefined, 100, 3, 5]
    checkStack(batch, small, lengths, "random")
  },
  MS,
)

test(
  "8 rows, half a strip, from their embeddings on, to logits of which most blocks have none, and tokens of them",
  () => {
    const stack = { ...small, embeds: true, rows: 8, C: 768, F: 768, layers: 1, blocks: 12, classes: 77, allowed: 70 }
    checkStack(batch, stack, [40, 0, undefined, 64, 5, 31, 127], "late")
  },
  MS,
)

test(
  "64 rows to logits of an even number",
  () => {
    const stack = { ...small, rows: 64, C: 256, F: 256, layers: 1, blocks: 17, classes: 48, hasBias: false }
    checkStack(batch, stack, [3, 33, ...Array.from({ length: 61 }, () => undefined), 5], "early")
  },
  MS,
)

test(
  "warps with several columns' tiles; a row's logits are the same bits in other company",
  () => {
    const stack = { ...small, rows: 16, layers: 1, maxPages: 1, blocks: 3, classes: 1201 }
    const [one, other] = [7, undefined].map((length) =>
      checkStack(batch, stack, [31, length, ...Array.from({ length: 12 }, () => undefined), 5], "random"),
    )
    for (const row of [0, 14]) expect(one![row]).toEqual(other![row]!)
    expect(one![1]).not.toEqual(other![1]!)
  },
  MS,
)

test("a step of 5 to 64 sequences by a model of the GPT-2 family is one launch where generation asks for it", () => {
  const kindsOf = (rows: number, order?: "layers") => {
    const plans: Plan[] = []
    const device = {
      ahead: 0,
      compile(plan: Plan) {
        plans.push(plan)
        throw new Error("enough")
      },
    } as unknown as Device
    const sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }
    const model = resolveModel({ vocabSize: 50257, blockSize: 1024, nLayer: 12, nHead: 12, nEmbd: 768 })
    const options = { precision: "bf16", slots: rows, length: 1024, vocabulary: 50257, order } as const
    const generator = createGenerator(device, undefined as unknown as State, model, options)
    const turns = Array.from({ length: rows }, (_, slot) => ({ slot, id: 0, sampling, draw: 0 }))
    expect(() => generator.decode(turns, 0)).toThrow("enough")
    const { steps } = schedule(plans[0]!, { ...HOPPER, units: 132, stacks: true })
    return steps
      .flat()
      .map(({ launch: { kernel, variant } }) => ("text" in kernel ? (/one token of \d+/.exec(kernel.text)?.[0] ?? variant) : variant))
  }
  for (const rows of [5, 16, 20, 64]) expect(kindsOf(rows, "layers")).toEqual([`one token of ${2 ** Math.ceil(Math.log2(rows))}`])
  expect(kindsOf(64).length).toBeGreaterThan(80)
})

test("sizes that the kernel does not do are refused", () => {
  expect(isBatch(small)).toBe(true)
  expect(isBatch({ ...small, C: 320 })).toBe(false)
  expect(isBatch({ ...small, rows: 128 })).toBe(false)
  expect(isBatch({ ...small, maxPages: 200 })).toBe(false)
  expect(isBatch({ ...small, classes: 23 })).toBe(false)
  expect(isBatch({ ...small, classes: 50257, allowed: 50257 })).toBe(false) // a block for each row
})

test("barriers lie where the device takes them, however few sequences there are", () => {
  for (const rows of [1, 2, 4, 8, 16, 32, 64]) expect(placesOf({ ...small, rows }).full % 8).toBe(0)
})
