/** A device under its own clock as it really runs: the bits stay, every step of every submit is told, busy and idle times add up. */
import { expect, test } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { initialise } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import type { Stretch } from "../src/program.ts"
import { bubblesOf, microPlan } from "../src/train.ts"
import { buckets } from "../src/train-buckets.ts"
import { summands } from "../src/train-step.ts"
import { testWith } from "./require.ts"

const withGpu = testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)
const model = resolveModel({ vocabSize: 61, blockSize: 32, nLayer: 2, nHead: 2, nEmbd: 16 })
const [B, T] = [1, 16]
const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * 7) % 61)
const inputs = { tokens, targets: tokens, seed: 3, step: 2, row: 0, accumulate: 0 }
const micro = microPlan({ model, precision: "f32", B, T }, false)

withGpu(
  "watched submits have the bits of others; in order and without a gap in the count, none ends before it begins or begins before others end",
  () => {
    const device = openGpu(0)
    const state = device.state()
    initialise(device, state, model, 1)
    const run = device.compile(micro, state, buckets(micro.program, summands(model), 20_000))
    const gradients = () => summands(model).map((name) => [...(state.read(name) as Float32Array)])
    run.submit(inputs)
    const plain = gradients()
    const watch = device.watch!()
    for (const turn of [1, 2, 3]) {
      watch.turn = turn
      for (let i = 0; i < 2; i++) run.submit(inputs, undefined, watch)
    }
    expect(gradients()).toEqual(plain)
    const stretches = watch.end()
    expect(stretches.length).toBe(6 * (run.barriers + 1))
    expect(stretches.filter(({ isFirst }) => isFirst).length).toBeGreaterThan(6) // submits in parts
    expect(stretches.flatMap(({ kernels }) => kernels).length).toBe(6 * run.profile(inputs).rows.length)
    expect(stretches.map(({ turn }) => turn)).toEqual(stretches.map((_, i) => 1 + Math.floor((3 * i) / stretches.length)))
    stretches.forEach(({ startMs, endMs }, i) => {
      expect(startMs).toBeGreaterThanOrEqual(stretches[i - 1]?.endMs ?? 0)
      expect(endMs).toBeGreaterThanOrEqual(startMs)
    })
    const { step, step_ms, barriers_ms, submits_ms, share } = bubblesOf(stretches)!
    const busy = stretches.filter(({ turn }) => turn === step).reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0)
    expect(busy + barriers_ms + submits_ms).toBeCloseTo(step_ms, 6)
    expect(step_ms).toBeGreaterThan(busy)
    expect(share).toBeCloseTo((barriers_ms + submits_ms) / step_ms, 9)
    run.free()
    state.free()
    device.close()
  },
)

withGpu("a turn for which no timestamps are left runs unwatched, and it and later ones are not told of", () => {
  const device = openGpu(0)
  const state = device.state()
  initialise(device, state, model, 1)
  const run = device.compile(micro, state)
  const watch = device.watch!()
  const perTurn = 2 * (run.barriers + 1)
  const whole = Math.floor(8192 / perTurn)
  for (let turn = 0; turn < whole + 3; turn++) {
    watch.turn = turn
    run.submit(inputs, undefined, watch)
  }
  expect(new Set(watch.end().map(({ turn }) => turn)).size).toBe(whole)
  run.free()
  state.free()
  device.close()
})

test("bubbles are those of the shortest step that follows another", () => {
  const stretch = (turn: number, isFirst: boolean, startMs: number, endMs: number): Stretch => ({
    ...{ program: "train.step", kernels: ["a", "b"] },
    ...{ turn, isFirst, startMs, endMs },
  })
  const first = [stretch(7, true, 0, 4), stretch(7, false, 5, 9)]
  expect(bubblesOf([])).toBeUndefined()
  expect(bubblesOf(first)).toBeUndefined()
  const second = [stretch(8, true, 19, 23), stretch(8, false, 23, 27)]
  const third = [stretch(9, true, 27.5, 31), stretch(9, false, 31.25, 33), stretch(9, true, 33.25, 35)]
  expect(bubblesOf([...first, ...second])).toEqual({ step: 8, step_ms: 18, barriers_ms: 0, submits_ms: 10, share: 10 / 18 })
  expect(bubblesOf([...first, ...second, ...third])).toEqual({ step: 9, step_ms: 8, barriers_ms: 0.25, submits_ms: 0.75, share: 0.125 })
})
