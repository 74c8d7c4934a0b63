/** Buckets of gradients: a program cut after each computes the same bits, and a bucket that is told to be final keeps what it holds. */
import { expect } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { initialise } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import { buckets } from "../src/train-buckets.ts"
import { microPlan, summands } from "../src/train-step.ts"
import { testWith } from "./require.ts"

const withGpu = testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)
const model = resolveModel({ vocabSize: 61, blockSize: 32, nLayer: 3, nHead: 2, nEmbd: 32, dropout: 0.1 })
const [B, T] = [2, 32]
const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * 7) % 61)
const inputs = { tokens, targets: tokens, seed: 3, step: 2, row: 0 }

withGpu("a step cut into buckets: each is final when it is told so, and all bits are those of the step in one piece", () => {
  const device = openGpu(0)
  const micro = microPlan({ model, precision: "f32", B, T }, false)
  const names = summands(model)
  const groups = buckets(micro.program, names, 20_000)
  expect(groups.length).toBeGreaterThan(3)
  expect(groups.flat().toSorted()).toEqual(names.toSorted())
  expect(buckets(micro.program, names, Number.POSITIVE_INFINITY).length).toBe(1)
  // The embeddings have their last gradients at the very end, the last layer is there first.
  expect(groups.slice(-2).flat()).toContain("grad.wte.weight")
  expect(groups[0]?.some((name) => name.startsWith(`grad.h.${model.nLayer - 1}.`) || name.startsWith("grad.ln_f"))).toBeTrue()

  const run = (cut: boolean) => {
    const state = device.state()
    initialise(device, state, model, 1)
    const executable = device.compile(micro, state, cut ? groups : undefined)
    const told: number[] = []
    const early = new Map<string, number[]>()
    executable.submit({ ...inputs, accumulate: 0 })
    executable.submit({ ...inputs, row: 64, accumulate: 1 }, (group) => {
      told.push(group)
      for (const name of groups[group] as string[]) early.set(name, [...(state.read(name) as Float32Array)])
    })
    const all = new Map(names.map((name) => [name, [...(state.read(name) as Float32Array)]]))
    executable.free()
    state.free()
    return { told, early, all }
  }
  const [whole, parts] = [run(false), run(true)]
  expect(whole.told).toEqual([])
  expect(parts.told).toEqual(groups.map((_, i) => i))
  for (const name of names) {
    expect([name, parts.all.get(name)]).toEqual([name, whole.all.get(name)])
    expect([name, parts.early.get(name)]).toEqual([name, whole.all.get(name)])
  }
  device.close()
})
