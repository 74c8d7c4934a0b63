/** What ranks rely on: a micro-step adds what another rank would have made, g₁ + g₂ bit for bit, and weights that differ are found. */
import { expect, test } from "bun:test"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { copyName, initialise, type Precision, paramSpecs, refreshCopies } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import type { Device } from "../src/program.ts"
import { Ranks } from "../src/train-ranks.ts"
import { microPlan, summands, weightPlans } from "../src/train-step.ts"
import { testWith } from "./require.ts"

const small = { nLayer: 1, nHead: 2, nEmbd: 32, dropout: 0.1 }

interface Shape {
  readonly model: ModelConfig
  readonly precision: Precision
  readonly B: number
  readonly T: number
}

/** Names of the sums of two micro-steps that are not the sum of each one's alone. */
function differing(device: Device, shape: Shape): string[] {
  const { model, precision, B, T } = shape
  const names = summands(model)
  const state = device.state()
  initialise(device, state, model, 1)
  refreshCopies(device, state, model, precision)
  const micro = device.compile(microPlan(shape, false, true), state)
  const run = (k: number, accumulate: number): Map<string, Float32Array> => {
    const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * i * 7 + k) % model.vocabSize)
    const targets = tokens.map((token) => (token % 11 === k ? -1 : (token * 3) % model.vocabSize))
    micro.submit({ tokens, targets, seed: 3, step: 2, row: k * B * T, accumulate })
    return new Map(names.map((name) => [name, Float32Array.from(state.read(name) as Float32Array)]))
  }
  const [second, first, sum] = [run(1, 0), run(0, 0), run(1, 1)]
  const at = (of: Map<string, Float32Array>, name: string, i: number) => of.get(name)?.[i] as number
  const far = names.filter((name) => sum.get(name)?.some((x, i) => x !== Math.fround(at(first, name, i) + at(second, name, i))))
  micro.free()
  state.free()
  return far
}

// 60,000 words: the CPU cuts the logits into two chunks, each of which adds to the head's gradient.
const SHAPES: Record<string, Omit<Shape, "precision">> = {
  "tied, many rows": { model: resolveModel({ ...small, vocabSize: 61, blockSize: 64 }), B: 16, T: 64 },
  "tied, logits in chunks": { model: resolveModel({ ...small, vocabSize: 60_000, blockSize: 40 }), B: 8, T: 40 },
  "not tied, logits in chunks": { model: resolveModel({ ...small, vocabSize: 60_000, blockSize: 40, tie: false }), B: 8, T: 40 },
}
for (const precision of ["f32", "bf16"] as const) {
  for (const [about, shape] of Object.entries(SHAPES))
    test(`CPU, ${precision}: ${about}`, () => expect(differing(openCpu(2), { ...shape, precision })).toEqual([]))
  testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)(`GPU, ${precision}: tied`, () => {
    const device = openGpu(0)
    expect(differing(device, { ...(SHAPES["tied, many rows"] as Shape), precision })).toEqual([])
    device.close()
  })
}

/** Two ranks with other weights, of which each updates a part: the weights that both end with are those of the owners, bit for bit. */
function exchange(device: Device, model: ModelConfig): void {
  const names = paramSpecs(model).map(({ name }) => name)
  const owner = (name: string) => names.indexOf(name) % 2
  const ranks = [0, 1].map((rank) => {
    const state = device.state()
    initialise(device, state, model, rank + 1)
    refreshCopies(device, state, model, "bf16")
    const [give, take] = weightPlans({ model, precision: "bf16" }, (name) => owner(name) === rank).map((plan) =>
      device.compile(plan, state),
    )
    return { state, give, take }
  })
  const read = (rank: number, name: string) => Float32Array.from(ranks[rank]?.state.read(name) as Float32Array)
  const expected = new Map(names.map((name) => [name, read(owner(name), name)]))
  for (const { give } of ranks) give?.submit({})
  const sums = names.map((name) => {
    const [a, b] = [read(0, `grad.${name}`), read(1, `grad.${name}`)]
    return a.map((x, i) => x + (b[i] as number))
  })
  for (const [rank, { state, take }] of ranks.entries()) {
    names.forEach((name, i) => {
      state.write(`grad.${name}`, sums[i] as Float32Array)
    })
    take?.submit({})
    for (const { name, matmul } of paramSpecs(model)) {
      expect(read(rank, name)).toEqual(expected.get(name) as Float32Array<ArrayBuffer>)
      if (matmul) expect(String(state.read(copyName(name)))).toBe(String(ranks[owner(name)]?.state.read(copyName(name))))
    }
  }
  for (const { state } of ranks) state.free()
}

const untied = resolveModel({ ...small, vocabSize: 61, blockSize: 64, tie: false })
test("CPU: weights that each rank has updated a part of go round through the gradients' memory", () => exchange(openCpu(2), untied))
testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)(
  "GPU: weights go round through the gradients' memory",
  () => {
    const device = openGpu(0)
    exchange(device, untied)
    device.close()
  },
)

test("ranks whose weights differ in one bit are told by number before a checkpoint is written", () => {
  const model = resolveModel({ vocabSize: 7, blockSize: 4, nLayer: 1, nHead: 1, nEmbd: 4 })
  const device = openCpu(1)
  const weights = (change: boolean) => {
    const state = device.state()
    initialise(device, state, model, 1)
    const table = state.read("wte.weight") as Float32Array
    new Uint32Array(table.buffer, table.byteOffset, 1)[0] =
      (new Uint32Array(table.buffer, table.byteOffset, 1)[0] as number) ^ (change ? 1 : 0)
    state.write("wte.weight", table)
    return state
  }
  // What each of two ranks says in a gathering, in turn: rank 1's words are kept for rank 0.
  const said: Uint8Array[] = []
  const world = (rank: number) => ({ rank, size: 2, transport: { allGather: (mine: Uint8Array) => gathered(rank, mine) } })
  let turn = 0
  const gathered = (rank: number, mine: Uint8Array): Uint8Array => {
    if (rank === 1) said.push(Uint8Array.from(mine))
    return rank === 1 ? Uint8Array.of(...mine, ...mine) : Uint8Array.of(...mine, ...(said[turn++] as Uint8Array))
  }
  const check = (rank: number, change: boolean) =>
    Ranks.prototype.requireSameWeights.call({ world: world(rank) } as unknown as Ranks, weights(change), model, 7)
  check(1, false)
  expect(() => check(0, false)).not.toThrow()
  check(1, true)
  expect(() => check(0, false)).toThrow("step 7: the weights of rank 1 are not those of rank 0")
})
