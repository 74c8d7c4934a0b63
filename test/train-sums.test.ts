/** A micro-step adds to the sums what another rank would have made: g₁ + g₂ bit for bit, whatever a gradient consists of. */
import { expect, test } from "bun:test"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { initialise, type Precision, refreshCopies } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import type { Device } from "../src/program.ts"
import { microPlan, summands } from "../src/train-step.ts"
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
