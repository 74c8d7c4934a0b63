/** The order of launches: nothing runs beside what it has a hazard with, scratch memory is one's own while it is used, small launches keep away from PTX. */
import { expect, test } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { levelsOf, type Placed, spansOf } from "../src/gpu-order.ts"
import { schedule } from "../src/gpu-schedule.ts"
import type { GpuTarget, Memory, Plan, Scratch, Table } from "../src/program.ts"
import { microPlan, stepPlan, updatePlan } from "../src/train-step.ts"

const PORTABLE = {
  subgroupSize: 8,
  matrix: "none",
  ptx: false,
  hasMatrixFunctions: false,
  units: 2,
  sharedBytes: 32768,
  resident: 0,
} as const
const HOPPER = {
  subgroupSize: 32,
  matrix: "nv2",
  ptx: true,
  hasMatrixFunctions: true,
  units: 132,
  sharedBytes: 49152,
  resident: 0,
} as const

const size = { vocabSize: 640, blockSize: 64, nLayer: 2, nHead: 2, nEmbd: 128 }
const MODELS = {
  gpt2: resolveModel({ ...size, activation: "gelu_tanh", bias: true, dropout: 0.1 }),
  llama: resolveModel({
    ...size,
    nKvHead: 1,
    norm: "rmsnorm",
    position: "rope",
    activation: "swiglu",
    qkNorm: true,
    bias: false,
    tie: false,
  }),
}
const update = {
  optimizer: "muon",
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  momentum: 0.95,
  weightDecay: 0.1,
  gradClip: 1,
  spikeThreshold: undefined,
} as const

function launchesOf({ program }: Plan, target: GpuTarget): Placed[] {
  return program.nodes.flatMap((node) =>
    node.op.gpu!(node.inputs, node.outputs, node.attrs, (name) => node.accumulate[name], target).flatMap((given, step) =>
      ("kernel" in given ? [given] : given).map((launch) => ({ scheduled: { node, launch }, step })),
    ),
  )
}

for (const [name, model] of Object.entries(MODELS)) {
  for (const [path, target, B] of [
    ["portable", PORTABLE, 2],
    ["PTX", HOPPER, 64],
  ] as const) {
    const shape = { model, precision: "bf16", B, T: 64 } as const
    const settings = { ...update, decayList: [], noDecayList: [] }
    const plans = [microPlan(shape, true), updatePlan(shape, settings), stepPlan(shape, settings, false)]
    test(`${name}, ${path}: launches with a hazard between them run in the program's order`, () => {
      for (const plan of plans) {
        const launches = launchesOf(plan, target)
        const levels = levelsOf(launches, plan.offsets, target)
        const spans = launches.map(({ scheduled }) => spansOf(scheduled, plan.offsets))
        let hazards = 0
        launches.forEach((later, j) => {
          for (let i = 0; i < j; i++) {
            const before = launches[i] as Placed
            if (before.scheduled.node === later.scheduled.node && before.step === later.step) continue
            const isHazard = spans[i]!.some((a) =>
              spans[j]!.some((b) => a.space === b.space && a.from < b.to && b.from < a.to && (a.isWritten || b.isWritten)),
            )
            if (!isHazard) continue
            hazards++
            if (levels[i]! >= levels[j]!)
              throw new Error(`${before.scheduled.launch.variant} at ${levels[i]}, ${later.scheduled.launch.variant} at ${levels[j]}`)
          }
        })
        expect(hazards).toBeGreaterThan(plan.program.nodes.length)
        expect(new Set(levels).size).toBe(Math.max(...levels) + 1)
      }
    })

    test(`${name}, ${path}: no scratch lies where other scratch of the same time or a temporary lies`, () => {
      for (const plan of plans) {
        const { steps, scratch, arenaBytes } = schedule(plan, target)
        const lives = new Map<Scratch, { from: number; to: number }>()
        const add = (memory: Memory | Table["values"][number], level: number): void => {
          if (typeof memory !== "object" || !("kind" in memory)) return
          if (memory.kind === "table") for (const value of memory.values) add(value, level)
          else if (memory.kind === "part") add(memory.of, level)
          else lives.set(memory as Scratch, { from: lives.get(memory as Scratch)?.from ?? level, to: level })
        }
        steps.forEach((step, level) => {
          for (const { launch } of step) for (const memory of Object.values(launch.buffers)) add(memory, level)
        })
        const all = [...lives].map(([memory, life]) => {
          const start = scratch.get(memory)!
          return { ...life, start, end: start + memory.elements * (memory.dtype === "bf16" ? 2 : 4) }
        })
        for (const [i, a] of all.entries()) {
          expect(a.start).toBeGreaterThanOrEqual(plan.arenaBytes)
          expect(a.end).toBeLessThanOrEqual(arenaBytes)
          for (const b of all.slice(i + 1)) if (a.from <= b.to && b.from <= a.to) expect(a.start >= b.end || b.start >= a.end).toBe(true)
        }
      }
    })
  }
}

test("on Hopper gradients' second stages run beside other work, and what is small beside no kernel in PTX", () => {
  const plan = microPlan({ model: MODELS.gpt2, precision: "bf16", B: 64, T: 64 }, false)
  const { steps } = schedule(plan, HOPPER)
  const names = steps.map((step) => step.map(({ launch }) => launch.variant))
  const isPtx = (variants: readonly string[]) => variants.some((variant) => variant.startsWith("ptx_"))
  const small = names.filter((variants) => variants.some((variant) => /^(column_sum|sort_)/.test(variant)))
  expect(small.length).toBeGreaterThan(4)
  expect(small.filter(isPtx)).toEqual([])
  expect(small.filter((variants) => variants.length > 2).length).toBeGreaterThan(4)
})
