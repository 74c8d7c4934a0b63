/** What a GPU does at once: dropout inside the norms, with the masks and gradients of the CPU; both gradients of a linear layer side by side. */
import { expect, test } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { initialise, paramSpecs, refreshCopies } from "../src/gpt.ts"
import { schedule } from "../src/gpu-schedule.ts"
import type { Device, GpuTarget } from "../src/program.ts"
import { microPlan, stepPlan } from "../src/train-step.ts"
import { simulatedDevice } from "./gpu-simulated.ts"
import { relativeL2 } from "./support.ts"

const size = { vocabSize: 40, blockSize: 16, nLayer: 2, nHead: 2, nEmbd: 32, dropout: 0.3, initStd: 0.2 }
const MODELS = {
  "layer norm": resolveModel({ ...size, activation: "gelu_tanh", bias: true }),
  "RMS norm": resolveModel({ ...size, norm: "rmsnorm", position: "rope", bias: false }),
}
const [B, T] = [2, 8]
const PORTABLE: GpuTarget = {
  subgroupSize: 8,
  matrix: "none",
  ptx: false,
  hasMatrixFunctions: false,
  units: 2,
  sharedBytes: 32768,
}

/** Loss and gradients of one micro-step. */
function step(device: Device, model: (typeof MODELS)["layer norm"], recompute: boolean) {
  const state = device.state()
  initialise(device, state, model, 5)
  refreshCopies(device, state, model, "bf16")
  const run = device.compile(microPlan({ model, precision: "bf16", B, T }, recompute), state)
  const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * i * 7 + 3) % 40)
  const targets = Int32Array.from({ length: B * T }, (_, i) => (i * 11 + 5) % 40)
  run.submit({ tokens, targets, accumulate: 0, seed: 9, step: 4, row: 16 })
  const grads = paramSpecs(model).map(({ name }) => ({ name, values: Float32Array.from(state.read(`grad.${name}`)) }))
  return { loss: state.read("sum.loss")[0] as number, grads }
}

const dropouts = (model: (typeof MODELS)["layer norm"], recompute: boolean): number =>
  schedule(microPlan({ model, precision: "bf16", B, T }, recompute), PORTABLE)
    .steps.flat()
    .filter(({ launch }) => launch.kernel.name === "dropout").length

for (const [name, model] of Object.entries(MODELS)) {
  for (const recompute of name === "RMS norm" ? [true] : [false]) {
    test(`${name}${recompute ? ", activations computed again" : ""}: the norms' dropouts are no launches; masks and gradients are the CPU's`, () => {
      expect(dropouts(model, recompute)).toBe(recompute ? 3 : 2) // the embedding's, and what begins a layer is read twice
      const [cpu, gpu] = [step(openCpu(1), model, recompute), step(simulatedDevice(8), model, recompute)]
      expect(Math.abs(gpu.loss / cpu.loss - 1)).toBeLessThan(0.01)
      for (const [i, { name, values }] of gpu.grads.entries()) expect(relativeL2(values, cpu.grads[i]!.values), name).toBeLessThan(0.05)
    }, 300_000)
  }
}

test("on Hopper a weight's gradient is left whole beside the input's where parts would cost more, unless it is added to what is there", () => {
  const target: GpuTarget = {
    ...PORTABLE,
    subgroupSize: 32,
    matrix: "nv2",
    ptx: true,
    hasMatrixFunctions: true,
    units: 132,
    sharedBytes: 49152,
  }
  const sizes = { vocabSize: 512, blockSize: 1024, nLayer: 1, nHead: 16, nEmbd: 1024, activation: "gelu_tanh", bias: true } as const
  const given = { model: resolveModel(sizes), precision: "bf16", B: 16, T: 1024 } as const
  const update = {
    optimizer: "adamw",
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    momentum: 0.95,
    weightDecay: 0.1,
    gradClip: 1,
    spikeThreshold: undefined,
    decayList: [],
    noDecayList: [],
  } as const
  const pairs = (plan: Parameters<typeof schedule>[0]) =>
    schedule(plan, target).steps.flatMap((step) => {
      const weight = step.findIndex(
        ({ node: { op }, launch }) => op.name === "linear_backward_weight" && "text" in launch.kernel && launch.buffers.kept !== undefined,
      )
      if (weight < 0) return []
      const { M, N, splits, rest } = (step[weight] as (typeof step)[number]).launch.push as Record<string, number>
      const beside = step.slice(weight + 1).filter(({ node }) => node.inputs.dy === step[weight]?.node.inputs.dy)
      return [
        {
          size: [M, N],
          parts: [splits, rest],
          beside: beside.map(({ node: { op }, launch: { push } }) => [op.name, push.N, push.span, (push.rest as number) > 0]),
        },
      ]
    })
  // The input's gradient of the other layer of the two is multiplied by a kept slope.
  expect(pairs(stepPlan(given, update, false))).toEqual([
    {
      size: [4096, 1024],
      parts: [1, 0],
      beside: [
        ["linear_backward_input", 768, 36, true],
        ["linear_backward_input", 1024, 1, false],
      ],
    },
  ])
  expect(pairs(microPlan(given, false))).toEqual([])
})
