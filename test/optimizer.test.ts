/** Optimizers against PyTorch: AdamW with clipping, Lion, SGD, Muon; masters and bf16 copies; which parameters decay. Values: fixtures/optimizer.py. */
import { describe, expect, test } from "bun:test"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { paramSpecs } from "../src/gpt.ts"
import { adamw, CONTROL, CONTROL_SIZE, globalNorm, lion, muon, runReference, sgd, stepControl, type Values } from "../src/op.ts"
import { type Plan, plan, type Tracer, trace } from "../src/program.ts"
import { elements, type Tensor } from "../src/tensor.ts"
import { decayOf, type OptimizerConfig, trainerStates, updatePlan } from "../src/train-step.ts"
import known from "./fixtures/optimizer.json"
import { fromBf16, relativeL2, toBf16 } from "./support.ts"

const device = openCpu(2)

/** count values in (−1, 1) of the Lehmer generator x ← 48271·x mod (2³¹ − 1), as optimizer.py draws them. */
function random(seed: number, count: number): number[] {
  let x = seed
  return Array.from({ length: count }, () => {
    x = (x * 48271) % 2147483647
    return (x / 2147483647) * 2 - 1
  })
}
const rate = (step: number) => (0.01 * (1 + step)) / 20
const scaled = (values: readonly number[], factor: number) => values.map((x) => x * factor)

/** Gradients arrive as sums over this many targets. */
const TARGETS = 8

interface Machine {
  write(name: string, values: readonly number[]): void
  read(name: string): readonly number[]
  run(inputs: Record<string, number>): void
}

/** The f64 reference and the CPU device, each with the program's state at zero. */
function machines(program: Plan): { exact: Machine; cpu: Machine } {
  const values: Values = new Map()
  const state = device.state()
  const run = device.compile(program, state)
  return {
    exact: {
      write: (name, list) => void values.set(name, Float64Array.from(list)),
      read: (name) => [...(values.get(name) ?? [])],
      run: (inputs) => void runReference(program.program, values, inputs),
    },
    cpu: {
      write: (name, list) => state.write(name, Float32Array.from(list)),
      read: (name) => [...state.read(name)],
      run: (inputs) => void run.submit(inputs),
    },
  }
}

/** An update of parameters of these shapes by `apply`, as updatePlan puts it together. */
function program(
  shapes: Record<string, readonly number[]>,
  clip: number,
  apply: (lists: { params: Tensor[]; grads: Tensor[]; m: Tensor[]; v: Tensor[]; copies: Tensor[]; lr: Tensor; control: Tensor }) => void,
): Plan {
  return plan(
    trace("update", (t: Tracer) => {
      const list = (prefix: string) => Object.entries(shapes).map(([name, shape]) => t.state(`${prefix}${name}`, "f32", shape))
      const [grads, control] = [list("grad."), t.state("control", "f32", [CONTROL_SIZE])]
      const { norm } = globalNorm({ grads })
      stepControl({ norm, targets: t.state("sum.count", "f32", []), control }, { clip, spike: 0 })
      apply({ params: list(""), grads, m: list("m."), v: list("v."), copies: [], lr: t.live("lr"), control })
    }),
  )
}

function expectNear(got: readonly number[], want: readonly number[], tolerance: number): void {
  expect(got.length).toBe(want.length)
  got.forEach((x, i) => {
    expect(Math.abs(x - (want[i] as number))).toBeLessThanOrEqual(tolerance)
  })
}

describe("AdamW", () => {
  const { adamw: want } = known
  const made = program({ weight: [3, 2], bias: [3] }, 1, (lists) => {
    adamw(lists, { beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: [0.1, 0], copies: [undefined, undefined] })
  })
  const { exact, cpu } = machines(made)
  for (const [name, machine, tolerance] of [
    ["f64 reference", exact, 2e-11],
    ["cpu f32", cpu, 2e-6],
  ] as const) {
    test(`${name}: 20 steps of torch.optim.AdamW after clip_grad_norm_, decay on the matrix only`, () => {
      machine.write("weight", random(11, 6))
      machine.write("bias", random(12, 3))
      machine.write("sum.count", [TARGETS])
      machine.write("control", new Array(CONTROL_SIZE).fill(0))
      for (let step = 0; step < 20; step++) {
        const factor = 0.1 * (step + 1) * TARGETS
        machine.write("grad.weight", scaled(random(100 + step, 6), factor))
        machine.write("grad.bias", scaled(random(200 + step, 3), factor))
        machine.run({ lr: rate(step) })
        const control = machine.read("control")
        const norm = want.norms[step] as number
        expectNear([control[CONTROL.norm] as number], [norm], tolerance)
        expectNear([(control[CONTROL.scale] as number) * TARGETS], [Math.min(1, 1 / (norm + 1e-6))], tolerance)
        const at = [0, 9, 19].indexOf(step)
        if (at < 0) continue
        expectNear(machine.read("weight"), want.weight[at] as number[], tolerance)
        expectNear(machine.read("bias"), want.bias[at] as number[], tolerance)
      }
      expectNear(machine.read("m.weight"), want.m, tolerance)
      expectNear(machine.read("v.weight"), want.v, tolerance)
      expect(machine.read("control")[CONTROL.applied]).toBe(20)
    })
  }
})

describe("Lion and SGD with momentum", () => {
  const rules = {
    lion: (lists: Parameters<typeof lion>[0]) => lion(lists, { beta1: 0.9, beta2: 0.99, decay: [0.1], copies: [undefined] }),
    sgd: (lists: Parameters<typeof sgd>[0]) => sgd(lists, { momentum: 0.9, decay: [0.1], copies: [undefined] }),
  }
  for (const [rule, apply] of Object.entries(rules)) {
    const { exact, cpu } = machines(program({ weight: [6] }, 0, apply))
    const want = known[rule as keyof typeof rules]
    for (const [name, machine, tolerance] of [
      ["f64 reference", exact, 2e-11],
      ["cpu f32", cpu, 2e-6],
    ] as const) {
      test(`${rule}, ${name}: 20 steps as computed in Python`, () => {
        machine.write("weight", random(11, 6))
        machine.write("sum.count", [TARGETS])
        for (let step = 0; step < 20; step++) {
          machine.write("grad.weight", scaled(random(100 + step, 6), TARGETS))
          machine.run({ lr: rate(step) })
        }
        expectNear(machine.read("weight"), want.weight, tolerance)
        expectNear(machine.read("m.weight"), want.m, tolerance)
      })
    }
  }

  test("lion: a direction of exactly 0 moves nothing", () => {
    const { exact, cpu } = machines(program({ weight: [3] }, 0, rules.lion))
    for (const machine of [exact, cpu]) {
      machine.write("weight", [1, 2, 3])
      machine.write("sum.count", [1])
      machine.write("grad.weight", [0, 1e-20, -1e-20])
      machine.run({ lr: 0.5 })
      expectNear(machine.read("weight"), [1 * 0.95, 2 * 0.95 - 0.5, 3 * 0.95 + 0.5], 1e-6)
    }
  })
})

describe("Muon", () => {
  const blocks = { tall: [12], wide: [5], square: [8], qkv: [8, 4, 4] }
  const columns = { tall: 5, wide: 12, square: 8, qkv: 8 }
  Object.entries(blocks).forEach(([shape, rows], index) => {
    test(`${shape}: 5 steps equal the f64 computation, and torch.optim.Muon as far as its bf16 goes`, () => {
      const name = shape as keyof typeof blocks
      const size = [rows.reduce((a, b) => a + b), columns[name]] as const
      const made = program({ weight: size }, 0, (lists) =>
        muon(lists, { momentum: 0.95, decay: [0.1], copies: [undefined], blocks: [rows] }),
      )
      const count = size[0] * size[1]
      const start = random(31 + index, count)
      const moved = (end: readonly number[]) => end.map((x, i) => x - (start[i] as number))
      const { exact, cpu } = machines(made)
      for (const [machine, tolerance] of [
        [exact, 1e-9],
        [cpu, 1e-4],
      ] as const) {
        machine.write("weight", start)
        machine.write("sum.count", [TARGETS])
        for (let step = 0; step < 5; step++) {
          machine.write("grad.weight", scaled(random(300 + 10 * index + step, count), TARGETS))
          machine.run({ lr: rate(step) })
        }
        expect(relativeL2(moved(machine.read("weight")), moved(known.muon[name].f64))).toBeLessThan(tolerance)
        expect(relativeL2(moved(machine.read("weight")), moved(known.muon[name].torch))).toBeLessThan(0.02)
      }
    })
  })
})

const model: ModelConfig = resolveModel({
  vocabSize: 11,
  blockSize: 6,
  nLayer: 1,
  nHead: 2,
  nKvHead: 1,
  nEmbd: 8,
  bias: true,
  tie: false,
  qkNorm: true,
})
const settings: OptimizerConfig = {
  optimizer: "adamw",
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  momentum: 0.95,
  weightDecay: 0.1,
  decayList: [],
  noDecayList: [],
  gradClip: 1,
  spikeThreshold: undefined,
}

describe("the update program", () => {
  for (const optimizer of ["adamw", "muon", "lion", "sgd"] as const) {
    test(`${optimizer} in bf16: every matrix's copy is its master rounded, vectors have none`, () => {
      const made = updatePlan({ model, precision: "bf16" }, { ...settings, optimizer })
      const state = device.state()
      const run = device.compile(made, state)
      paramSpecs(model).forEach(({ name, shape, matmul }, i) => {
        state.write(name, Float32Array.from(random(i + 1, elements({ shape }))))
        state.write(`grad.${name}`, Float32Array.from(random(i + 1000, elements({ shape }))))
        expect(made.program.states.has(`bf16.${name}`)).toBe(matmul)
      })
      state.write("sum.count", Float32Array.of(TARGETS))
      const before = paramSpecs(model).map(({ name }) => Float32Array.from(state.read(name)))
      run.submit({ lr: 0.01 })
      paramSpecs(model).forEach(({ name, matmul }, i) => {
        const master = state.read(name) as Float32Array
        expect(relativeL2(master, before[i] as Float32Array)).toBeGreaterThan(1e-4)
        if (!matmul) return
        expect(state.read(`bf16.${name}`) as Uint16Array).toEqual(toBf16(master))
        expect(relativeL2(fromBf16(state.read(`bf16.${name}`) as Uint16Array), master)).toBeLessThan(4e-3)
      })
    })
  }

  test("Muon takes the matrices of the blocks, AdamW embeddings, head and vectors", () => {
    const made = updatePlan({ model, precision: "f32" }, { ...settings, optimizer: "muon" })
    const adam = trainerStates(made.program).filter((name) => name.startsWith("v."))
    expect(adam).toEqual(
      paramSpecs(model)
        .map(({ name }) => name)
        .filter((name) => !/^h\.0\.(attn\.(qkv|proj)|mlp\.(up|down))\.weight$/.test(name))
        .map((name) => `v.${name}`),
    )
    const attrs = made.program.nodes.find(({ op }) => op.name === "muon")?.attrs
    expect(attrs?.blocks).toEqual([[8, 4, 4], [8], [32], [8]])
  })

  test("matrices decay, vectors do not; a list names further ones, another takes some out", () => {
    const decayed = (lists: Partial<OptimizerConfig>) =>
      paramSpecs(model)
        .filter((spec) => decayOf(spec, { ...settings, ...lists }) === 0.1)
        .map(({ name }) => name)
    const matrices = [
      "wte.weight",
      "wpe.weight",
      ...["attn.qkv", "attn.proj", "mlp.up", "mlp.down"].map((n) => `h.0.${n}.weight`),
      "head.weight",
    ]
    expect(decayed({})).toEqual(matrices)
    expect(decayed({ noDecayList: ["wte", "wpe"] })).toEqual(matrices.slice(2))
    expect(decayed({ decayList: ["mlp.up"] })).toEqual([...matrices.slice(0, 5), "h.0.mlp.up.bias", ...matrices.slice(5)])
    expect(decayed({ decayList: ["wte"], noDecayList: ["wte"] })).toEqual(matrices.slice(1))
  })
})
