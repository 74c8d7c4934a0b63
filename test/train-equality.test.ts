/** Whole training steps give the same result however a batch is cut, on any number of threads, with and without recomputation. */
import { describe, expect, test } from "bun:test"
import { uniform } from "../src/base-random.ts"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { initialise, type Precision, paramSpecs, refreshCopies } from "../src/gpt.ts"
import { microPlan, type OptimizerConfig, stepPlan, updatePlan } from "../src/train.ts"
import { relativeL2 } from "./support.ts"

openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

const ROWS = 8
const T = 21

const small = { vocabSize: 131, blockSize: 32, nLayer: 2, nHead: 4, nEmbd: 48, dropout: 0.2, initStd: 0.1 }
const FORMS: Record<string, ModelConfig> = {
  gpt2: resolveModel(small),
  llama: resolveModel({
    ...small,
    nKvHead: 2,
    norm: "rmsnorm",
    position: "rope",
    activation: "swiglu",
    bias: false,
    tie: false,
    qkNorm: true,
    softCap: 15,
  }),
}

const OPTIMIZER: OptimizerConfig = {
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

/** Random tokens and targets of a step; row r counts only a fraction of its targets that differs from row to row, row 3 none. */
function batch(model: ModelConfig, step: number): { tokens: Int32Array; targets: Int32Array } {
  const draw = (stream: number, i: number) => uniform(9, stream, step, i)
  const id = (stream: number) => Int32Array.from({ length: ROWS * T }, (_, i) => Math.floor(draw(stream, i) * model.vocabSize))
  const shares = [1, 0.5, 0.1, 0, 0.9, 0.3, 0.05, 0.7]
  return { tokens: id(1), targets: id(2).map((target, i) => (draw(3, i) < (shares[Math.floor(i / T)] as number) ? target : -1)) }
}

interface Way {
  model: ModelConfig
  precision?: Precision
  /** Rows of a micro-batch. */
  B?: number
  threads?: number
  recompute?: boolean
  optimizer?: OptimizerConfig["optimizer"]
  /** A step is one program. */
  isOne?: boolean
  steps: number
}

/** Trains `steps` steps of 8 rows; losses of the steps and every state afterwards (gradients are those of the last step). */
function trained({ model, precision = "f32", B = ROWS, threads = 2, recompute = false, optimizer = "adamw", isOne = false, steps }: Way) {
  const device = openCpu(threads)
  const state = device.state()
  const shape = { model, precision, B, T }
  initialise(device, state, model, 4)
  refreshCopies(device, state, model, precision)
  const settings = { ...OPTIMIZER, optimizer }
  const micro = isOne ? undefined : device.compile(microPlan(shape, recompute), state)
  const update = device.compile(isOne ? stepPlan(shape, settings, recompute) : updatePlan(shape, settings), state)
  const losses: number[] = []
  for (let step = 0; step < steps; step++) {
    const { tokens, targets } = batch(model, step)
    for (let row = 0; row < ROWS; row += B) {
      const part = { tokens: tokens.slice(row * T, (row + B) * T), targets: targets.slice(row * T, (row + B) * T) }
      micro?.submit({ ...part, accumulate: row === 0 ? 0 : 1, seed: 6, step, row: row * T })
    }
    losses.push(update.submit({ tokens, targets, seed: 6, step, row: 0, lr: 0.01 }).read("loss")[0] as number)
  }
  const values = new Map(state.names().map((name) => [name, state.read(name).slice()]))
  for (const run of [micro, update]) run?.free()
  state.free()
  return { losses, values }
}

type Trained = ReturnType<typeof trained>

function expectSameBits(a: Trained, b: Trained): void {
  expect(a.losses).toEqual(b.losses)
  expect([...a.values.keys()].sort()).toEqual([...b.values.keys()].sort())
  for (const [name, values] of a.values) {
    const other = b.values.get(name) as typeof values
    expect(Buffer.from(values.buffer).equals(Buffer.from(other.buffer)), name).toBe(true)
  }
}

for (const [form, model] of Object.entries(FORMS)) {
  for (const precision of ["f32", "bf16"] as const) {
    describe(`${form} ${precision}`, () => {
      const whole = () => trained({ model, precision, steps: 1 })

      test("gradients of 1 × 8, 2 × 4 and 8 × 1 rows agree, with dropout and unevenly masked targets", () => {
        const { values: want, losses } = whole()
        const specs = paramSpecs(model)
        expect(want.get("sum.count")![0]).toBeGreaterThan(20)
        for (const B of [4, 2, 1]) {
          const { values: got, losses: cut } = trained({ model, precision, B, steps: 1 })
          expect(got.get("sum.count")).toEqual(want.get("sum.count"))
          expect(cut[0]! / losses[0]!).toBeCloseTo(1, 6)
          const far = specs.map(({ name }) => [name, relativeL2(got.get(`grad.${name}`)!, want.get(`grad.${name}`)!)] as const)
          expect(far.filter(([, distance]) => !(distance <= 1e-6))).toEqual([])
        }
      })

      test("dropout is at work in them", () => {
        const plain = trained({ model: { ...model, dropout: 0 }, precision, steps: 1 })
        expect(relativeL2(plain.values.get("grad.wte.weight")!, whole().values.get("grad.wte.weight")!)).toBeGreaterThan(0.1)
      })

      test("1, 2 and 4 threads: the same bits after three steps", () => {
        for (const optimizer of ["adamw", "muon"] as const) {
          const one = trained({ model, precision, B: 4, threads: 1, optimizer, steps: 3 })
          expect(one.losses.every(Number.isFinite)).toBe(true)
          for (const threads of [2, 4]) expectSameBits(one, trained({ model, precision, B: 4, threads, optimizer, steps: 3 }))
        }
      })

      test("a step as one program: the same bits after three steps, its gradients in the memory of activations", () => {
        for (const optimizer of ["adamw", "muon"] as const) {
          const [apart, one] = [false, true].map((isOne) => trained({ model, precision, optimizer, isOne, steps: 3 })) as [Trained, Trained]
          for (const name of apart.values.keys()) if (/^(grad|sum)\./.test(name)) apart.values.delete(name)
          expectSameBits(apart, one)
        }
      })

      test("activation checkpointing: the same bits after three steps in less memory", () => {
        const [plain, recomputing] = [false, true].map((recompute) => microPlan({ model, precision, B: ROWS, T }, recompute))
        expect(recomputing!.arenaBytes).toBeLessThan(plain!.arenaBytes)
        expectSameBits(trained({ model, precision, steps: 3 }), trained({ model, precision, recompute: true, steps: 3 }))
      })
    })
  }
}
