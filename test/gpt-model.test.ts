/** Every option of the model computes and trains: gradients against finite differences, CPU against f64, bf16 near; parameter counts of the presets. */
import { describe, expect, test } from "bun:test"
import { normal, uniform } from "../src/base-random.ts"
import { findPreset, type ModelConfig, resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { copyName, countParams, flopsPerToken, gptLoss, initialise, type Precision, paramSpecs } from "../src/gpt.ts"
import { runReference, type Values } from "../src/op.ts"
import { type Plan, type Program, plan, trace } from "../src/program.ts"
import { elements } from "../src/tensor.ts"
import { microPlan, type OptimizerConfig, updatePlan } from "../src/train-step.ts"
import { fromBf16, relativeL2, toBf16 } from "./support.ts"

const device = openCpu(2)
const [B, T, V] = [2, 7, 13]

/** Each option's values; every pair of values of two options occurs in at least one configuration. */
const OPTIONS = {
  activation: ["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu"],
  position: [{ position: "learned" }, { position: "rope" }, { ropeScaling: "linear:2" }, { ropeScaling: "llama3:8:1:4:16" }],
  heads: [{ nHead: 4 }, { nHead: 4, nKvHead: 2 }, { nHead: 4, nKvHead: 1, headDim: 6 }],
  norm: ["layernorm", "rmsnorm"],
  bias: [true, false],
  tie: [true, false],
  qkNorm: [true, false],
  softCap: [undefined, 4],
  dropout: [0, 0.2],
} as const
const names = Object.keys(OPTIONS) as (keyof typeof OPTIONS)[]
const SEED = 5

/** Rows of value indices that cover all pairs: greedily, the best of 200 random rows each time. */
function pairwise(): number[][] {
  const left = new Set<string>()
  const pairs = (row: readonly number[]) => row.flatMap((a, i) => row.slice(0, i).map((b, j) => `${j}=${b} ${i}=${a}`))
  names.forEach((_, i) => {
    for (let j = 0; j < i; j++)
      OPTIONS[names[i]!].forEach((_, a) => {
        OPTIONS[names[j]!].forEach((_, b) => left.add(`${j}=${b} ${i}=${a}`))
      })
  })
  const rows: number[][] = []
  while (left.size > 0) {
    const tries = Array.from({ length: 200 }, (_, k) =>
      names.map((name, i) => Math.floor(uniform(SEED, rows.length, k, i) * OPTIONS[name].length)),
    )
    const gain = (row: readonly number[]) => pairs(row).filter((pair) => left.has(pair)).length
    const best = tries.reduce((a, b) => (gain(b) > gain(a) ? b : a))
    for (const pair of pairs(best)) left.delete(pair)
    rows.push(best)
  }
  return rows
}

const configs = pairwise().map((row) => {
  const pick = <N extends keyof typeof OPTIONS>(name: N) => OPTIONS[name][row[names.indexOf(name)]!] as (typeof OPTIONS)[N][number]
  const { position, heads, ...plain } = Object.fromEntries(names.map((name) => [name, pick(name)])) as {
    [N in keyof typeof OPTIONS]: (typeof OPTIONS)[N][number]
  }
  const given = { ...plain, ...heads, position: "rope" as const, ...position }
  const label = Object.entries(given).map(([name, value]) => (typeof value === "string" ? value : `${name}=${value}`))
  return { label: label.join(" "), model: resolveModel({ vocabSize: V, blockSize: T, nLayer: 2, nEmbd: 16, ffnDim: 20, ...given }) }
})

/** Values that no layer leaves at a special point: norms near 1, everything else around 0. */
const firstValues = (model: ModelConfig): Map<string, Float32Array> =>
  new Map(
    paramSpecs(model).map(({ name, shape, init }, k) => {
      const centre = "constant" in init ? init.constant : 0
      return [name, Float32Array.from({ length: elements({ shape }) }, (_, i) => centre + 0.3 * normal(SEED, k, 0, i))]
    }),
  )

const tokens = Int32Array.from({ length: B * T }, (_, i) => Math.floor(uniform(SEED, 900, 0, i) * V))
const targets = tokens.map((_, i) => (i % 5 === 3 ? -1 : (tokens[(i + 1) % (B * T)] as number)))
const COUNTED = targets.filter((target) => target >= 0).length
const live = { seed: 42, step: 3, row: T, accumulate: 0 }

const inputsOf = ({ inputs, live: scalars }: Program) =>
  Object.fromEntries(Object.entries({ tokens, targets, ...live }).filter(([name]) => inputs.has(name) || scalars.has(name)))

/** Loss and gradients in f64; bf16 programs see the rounded copies. */
function reference(program: Program, values: ReadonlyMap<string, Float32Array | Float64Array>) {
  const state: Values = new Map()
  for (const [name, list] of values) {
    state.set(name, Float64Array.from(list))
    state.set(copyName(name), fromBf16(toBf16(list)))
  }
  const outputs = runReference(program, state, inputsOf(program))
  return {
    loss: (outputs.get("loss") ?? state.get("sum.loss"))?.[0] as number,
    grad: (name: string) => state.get(`grad.${name}`) as Float64Array,
  }
}

function compiled(model: ModelConfig, micro: Plan, update?: Plan) {
  const state = device.state()
  const run = device.compile(micro, state)
  const apply = update && device.compile(update, state)
  for (const [name, list] of firstValues(model)) {
    if (state.has(name)) state.write(name, list)
    if (state.has(copyName(name))) state.write(copyName(name), toBf16(list))
  }
  const read = (name: string) => Float32Array.from(state.read(name))
  return { run: () => run.submit(inputsOf(micro.program)), apply, read }
}

function onCpu(model: ModelConfig, precision: Precision, recompute: boolean) {
  const micro = microPlan({ model, precision, B, T }, recompute)
  const { run, read } = compiled(model, micro)
  run()
  return {
    program: micro.program,
    loss: read("sum.loss")[0] as number,
    count: read("sum.count")[0],
    grad: (name: string) => read(`grad.${name}`),
  }
}

const settings: OptimizerConfig = {
  optimizer: "adamw",
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  momentum: 0.9,
  weightDecay: 0.1,
  decayList: [],
  noDecayList: [],
  gradClip: 1,
  spikeThreshold: undefined,
}

describe(`${configs.length} configurations cover every pair of model options`, () => {
  configs.forEach(({ label, model }, index) => {
    test(label, () => {
      const values = firstValues(model)
      const specs = paramSpecs(model)

      const f32 = onCpu(model, "f32", false)
      const exact = reference(f32.program, values)
      expect(f32.count).toBe(COUNTED)

      // one direction of all parameters: finite differences of the f64 loss against the f64 gradient
      const forward = plan(
        trace("loss", (t) => {
          const dropout =
            model.dropout > 0 ? { seed: t.live("seed", "i32"), step: t.live("step", "i32"), row: t.live("row", "i32") } : undefined
          const pass = { precision: "f32" as const, T, dropout }
          t.output("loss", gptLoss(model, t.input("tokens", "i32", [B * T]), t.input("targets", "i32", [B * T]), pass).loss)
        }),
      ).program
      const direction = (k: number, i: number) => normal(SEED + 1, k, 0, i)
      const at = (h: number) => {
        const moved = specs.map(
          ({ name }, k) => [name, Float64Array.from(values.get(name) ?? [], (x, i) => x + h * direction(k, i))] as const,
        )
        return reference(forward, new Map(moved)).loss
      }
      const h = 1e-6
      const numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
      const along = specs.reduce((sum, { name }, k) => sum + exact.grad(name).reduce((s, x, i) => s + x * direction(k, i), 0), 0)
      expect(Math.abs(along - numeric) / Math.max(1, Math.abs(numeric))).toBeLessThan(1e-8)

      // the CPU in f32, and with recomputation: the same bits
      expect(Math.abs(f32.loss / exact.loss - 1)).toBeLessThan(1e-6)
      const again = onCpu(model, "f32", true)
      expect(again.loss).toBe(f32.loss)
      for (const { name } of specs) {
        expect([name, relativeL2(f32.grad(name), exact.grad(name)) < 1e-5]).toEqual([name, true])
        expect([name, again.grad(name)]).toEqual([name, f32.grad(name)])
      }

      // bf16: near the f64 result of the rounded weights; most lie at 0.01, but a ReLU whose argument rounds across 0 turns a whole row
      const bf16 = onCpu(model, "bf16", false)
      const rounded = reference(bf16.program, values)
      expect(Math.abs(bf16.loss / rounded.loss - 1)).toBeLessThan(5e-3)
      const all = (grad: (name: string) => ArrayLike<number>) => specs.flatMap(({ name }) => Array.from(grad(name)))
      expect(relativeL2(all(bf16.grad), all(rounded.grad))).toBeLessThan(0.08)

      // a few steps learn the batch
      const optimizer = (["adamw", "muon", "lion", "sgd"] as const)[index % 4]!
      const lr = { adamw: 0.02, muon: 0.02, lion: 0.01, sgd: 0.05 }[optimizer]
      for (const precision of ["f32", "bf16"] as const) {
        const training = compiled(
          model,
          microPlan({ model, precision, B, T }, false),
          updatePlan({ model, precision }, { ...settings, optimizer }),
        )
        for (let step = 0; step < 12; step++) {
          training.run()
          training.apply?.submit({ lr })
        }
        training.run()
        expect(training.read("sum.loss")[0]).toBeLessThan(0.75 * f32.loss)
      }
    })
  })
})

describe("parameters and FLOPs per token, computed by hand", () => {
  const preset = (name: string, vocabSize: number): ModelConfig => {
    const values = findPreset(name).values({ isRandom: false })
    return resolveModel({ ...values, blockSize: values.context, vocabSize })
  }
  // 6·(N − look-ups) + 12·nLayer·nEmbd·T, T the preset's context
  const table: [name: string, vocabSize: number, parameters: number, flops: number][] = [
    ["gpt2-124m", 50257, 124_439_808, 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024],
    ["gpt2-350m", 50257, 354_823_168, 6 * (354_823_168 - 1024 * 1024) + 12 * 24 * 1024 * 1024],
    ["gpt2-774m", 50257, 774_030_080, 6 * (774_030_080 - 1024 * 1280) + 12 * 36 * 1280 * 1024],
    // nanoGPT prints 10.65M, which leaves out the 256 positions
    ["shakespeare-char", 65, 10_646_784 + 256 * 384, 6 * 10_646_784 + 12 * 6 * 384 * 256],
    // nanoGPT prints 802,944 decayed and 1,152 other parameters
    ["cpu-small", 65, 802_944 + 1_152, 6 * (804_096 - 64 * 128) + 12 * 4 * 128 * 64],
    // per layer 2·512 + 512·(512 + 2·256) + 512² + 3·512·1408
    ["llama-30m", 12288, 12288 * 512 + 8 * 2_950_144 + 512, 6 * (12288 * 512 + 8 * 2_950_144 + 512) + 12 * 8 * 512 * 512],
    // per layer 2·768 + 768·(768 + 2·256) + 768² + 3·768·2048
    ["llama-100m", 32768, 32768 * 768 + 12 * 6_292_992 + 768, 6 * (32768 * 768 + 12 * 6_292_992 + 768) + 12 * 12 * 768 * 1024],
    // an untied head: the embedding is a look-up
    ["novels", 2000, 2 * 2000 * 128 + 128 * 128 + 6 * 196_864 + 128, 6 * (2000 * 128 + 6 * 196_864 + 128) + 12 * 6 * 128 * 128],
  ]
  for (const [name, vocabSize, parameters, flops] of table) {
    test(name, () => {
      const model = preset(name, vocabSize)
      expect(countParams(model)).toBe(parameters)
      expect(flopsPerToken(model, model.blockSize)).toBe(flops)
    })
  }

  test("what a run starts with: normal values of that deviation, a different draw per matrix and seed", () => {
    const model = { ...preset("cpu-small", 65), residualScaling: false }
    const draw = (seed: number) => {
      const state = device.state()
      initialise(device, state, model, seed)
      return (name: string) => Float64Array.from(state.read(name))
    }
    const [first, second] = [draw(1337), draw(7)]
    for (const { name, init } of paramSpecs(model)) {
      const values = first(name)
      const mean = values.reduce((a, b) => a + b, 0) / values.length
      const std = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length)
      if ("constant" in init) expect([mean, std]).toEqual([init.constant, 0])
      else {
        expect(init.std).toBe(0.02) // also what writes to the residual stream, without residualScaling
        expect(Math.abs(mean)).toBeLessThan((4 * 0.02) / Math.sqrt(values.length))
        expect(Math.abs(std / 0.02 - 1)).toBeLessThan(4 / Math.sqrt(2 * values.length))
        expect(relativeL2(second(name), values)).toBeGreaterThan(1)
      }
    }
    expect(relativeL2(first("h.1.mlp.up.weight"), first("h.0.mlp.up.weight"))).toBeGreaterThan(1)
  })

  test("the initial weights have the standard deviations of GPT-2, norms are 1, biases 0", () => {
    const specs = paramSpecs(preset("gpt2-124m", 50257))
    const init = (name: string) => specs.find((spec) => spec.name === name)?.init
    expect(init("wte.weight")).toEqual({ std: 0.02 })
    expect(init("h.3.attn.qkv.weight")).toEqual({ std: 0.02 })
    expect(init("h.3.attn.proj.weight")).toEqual({ std: 0.02 / Math.sqrt(24) })
    expect(init("h.3.mlp.down.weight")).toEqual({ std: 0.02 / Math.sqrt(24) })
    expect(init("h.3.attnNorm.weight")).toEqual({ constant: 1 })
    expect(init("h.3.mlp.up.bias")).toEqual({ constant: 0 })
  })
})
