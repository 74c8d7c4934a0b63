/**
 * Known answers for mistakes that other trainers made and no parity test sees when both sides make them. Elsewhere: heads mixed with time
 * (op-attention, golden), moments and random state lost in a checkpoint (train: killed runs with dropout end in the same bytes), tails of
 * vectors (op: odd sizes everywhere).
 */
import { describe, expect, test } from "bun:test"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { createGenerator, initialise } from "../src/gpt.ts"
import { add, globalNorm, linearBackwardInput } from "../src/op.ts"
import { plan, type State, type Tracer, trace } from "../src/program.ts"
import { toBf16 } from "./support.ts"

const device = openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

/** Runs `body` once with states filled from `values`; `check` sees the state before it is freed. */
function run(values: Readonly<Record<string, Float32Array | Uint16Array>>, body: (t: Tracer) => void, check: (state: State) => void): void {
  const state = device.state()
  const compiled = device.compile(plan(trace("trap", body)), state)
  for (const [name, given] of Object.entries(values)) state.write(name, given)
  compiled.submit({})
  check(state)
  compiled.free()
  state.free()
}

/** Lets the output `name` of the last op be read from state "out". */
function keep(t: Tracer, name: string): void {
  const node = t.program.nodes.at(-1)
  const value = node?.outputs[name]
  if (node !== undefined && value !== undefined) node.outputs[name] = t.state("out", value.dtype, value.shape)
}

describe("the global norm counts every element", () => {
  for (const sizes of [[65_536], [65_537], [100_000], [65_537, 34_463], [1, 299_999]]) {
    test(`${sizes.join(" + ")} gradients of 2`, () => {
      const shapes = sizes.map((size, i) => [`g${i}`, size] as const)
      const given = Object.fromEntries(shapes.map(([name, size]) => [name, new Float32Array(size).fill(2)]))
      const body = (t: Tracer) => {
        globalNorm({ grads: shapes.map(([name, size]) => t.state(name, "f32", [size])) })
        keep(t, "norm")
      }
      const total = sizes.reduce((a, b) => a + b, 0)
      run(given, body, (state) => expect(state.read("out")[0]! / (2 * Math.sqrt(total))).toBeCloseTo(1, 6))
    })
  }
})

test("sizes beyond 2^24 are exact: the last of 16,777,221 elements is reached and nothing after it", () => {
  const count = 2 ** 24 + 5
  const a = new Float32Array(count)
  a.set([1, 2, 3, 4, 5, 6], count - 6)
  const body = (t: Tracer) => {
    add({ a: t.state("a", "f32", [count]), b: t.state("b", "f32", [count]) })
    keep(t, "y")
  }
  run({ a, b: new Float32Array(count).fill(10) }, body, (state) => {
    const out = state.read("out")
    expect(out.length).toBe(count)
    expect([...out.slice(-7)]).toEqual([10, 11, 12, 13, 14, 15, 16])
  })
})

test("gradients of 1e-30 are kept in bf16, far below the smallest f16 of 6e-8", () => {
  const [rows, width] = [3, 40]
  const body = (t: Tracer) => {
    linearBackwardInput({ dy: t.state("dy", "bf16", [rows, width]), w: t.state("w", "bf16", [width, width]) }, { out: "bf16" })
    keep(t, "dx")
  }
  const dy = toBf16(new Float32Array(rows * width).fill(1e-30))
  const w = toBf16(Float32Array.from({ length: width * width }, (_, i) => (i % (width + 1) === 0 ? 1 : 0))) // the identity
  run({ dy, w }, body, (state) => expect(state.read("out")).toEqual(dy))
})

describe("inference computes the activation that was chosen", () => {
  // One token, one layer, attention silenced: the residual stream is (1 + act(−1.5), −1 + act(1.5)), and the logits are its norm.
  const FORMULAS: Partial<Record<ModelConfig["activation"], (x: number) => number>> = {
    gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
    gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    relu: (x) => Math.max(0, x),
    relu2: (x) => Math.max(0, x) ** 2,
    silu: (x) => x / (1 + Math.exp(-x)),
    swiglu: (x) => (x / (1 + Math.exp(-x))) * x,
  }
  const erf = (x: number): number => {
    let [sum, term] = [0, x]
    for (let n = 0; n < 60; n++) {
      sum += term / (2 * n + 1)
      term *= -(x * x) / (n + 1)
    }
    return (2 / Math.sqrt(Math.PI)) * sum
  }

  for (const [activation, formula] of Object.entries(FORMULAS)) {
    test(activation, () => {
      const model = resolveModel({
        ...{ vocabSize: 3, blockSize: 4, nLayer: 1, nHead: 1, nEmbd: 2, ffnDim: 2, bias: false, tie: false },
        ...{ norm: "rmsnorm", normEps: 0, position: "rope", activation: activation as ModelConfig["activation"] },
      })
      const state = device.state()
      initialise(device, state, model, 1)
      const set = (name: string, values: readonly number[]) => state.write(name, Float32Array.from(values))
      set("wte.weight", [1, -1, 0, 0, 0, 0]) // RMS norm of (1, −1) is itself
      set("h.0.attn.proj.weight", [0, 0, 0, 0])
      if (activation === "swiglu") set("h.0.mlp.gateUp.weight", [-1.5, 0, 1.5, 0, -1.5, 0, 1.5, 0])
      else set("h.0.mlp.up.weight", [-1.5, 0, 1.5, 0])
      set("h.0.mlp.down.weight", [1, 0, 0, 1])
      set("head.weight", [1, 0, 0, 1, 0, 0])
      const generator = createGenerator(device, state, model, { precision: "f32", slots: 1, length: 4, vocabulary: 3 })
      const sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 1 }
      const { id, logprob } = generator.prefill({ slot: 0, ids: [0], sampling, draw: 0 })
      const x = [1 + formula(-1.5), -1 + formula(1.5)]
      const rms = Math.sqrt((x[0]! ** 2 + x[1]! ** 2) / 2)
      const logits = [x[0]! / rms, x[1]! / rms, 0]
      const best = logits.indexOf(Math.max(...logits))
      const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0)
      expect(id).toBe(best)
      expect(logprob).toBeCloseTo(logits[best]! - Math.log(total), 5)
      generator.free()
      state.free()
    })
  }
})
