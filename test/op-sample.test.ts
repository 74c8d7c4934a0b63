/** Sampling: distributions against the logits warpers of transformers 5.17, greedy choice, counted random numbers. */
import { expect, test } from "bun:test"
import { openCpu } from "../src/cpu.ts"
import { logitAdjust, logprobs, sample } from "../src/op.ts"
import { type Executable, plan, trace } from "../src/program.ts"

const logits = [1.2, -0.3, 2.5, 0.1, -1.7, 1.9, 0.8, -0.6, 2.2, 0.4]
const V = logits.length
/** Rows that run together. */
const B = 400

const device = openCpu(2)

function sampler(): Executable {
  const made = plan(
    trace("sample", (t) => {
      const floats = (name: string) => t.input(name, "f32", [B])
      const ids = (name: string) => t.input(name, "i32", [B])
      const raw = t.input("logits", "f32", [B, V])
      const list = (name: string) => t.input(name, "f32", [B, 3])
      const lists = { ids: t.input("ids", "i32", [B, 3]), scale: list("scale"), bias: list("bias"), counts: ids("counts") }
      const { token } = sample({
        logits: logitAdjust({ logits: raw, ...lists }).y,
        temperature: floats("temperature"),
        topK: ids("topK"),
        topP: floats("topP"),
        minP: floats("minP"),
        seed: ids("seed"),
        draw: ids("draw"),
      })
      t.output("token", token)
      t.output("logprob", logprobs({ logits: raw, targets: token }, { top: 0 }).logprob)
    }),
  )
  return device.compile(made, device.state())
}

const settings = { temperature: 1, topK: V, topP: 1, minP: 0, repetitionPenalty: 1, draw: 0, counts: 0 }
const run = sampler()

/** One draw for B rows with the same settings and seeds of their own. */
function draw(changes: Partial<typeof settings>, rows: readonly number[] = logits) {
  const { temperature, topK, topP, minP, repetitionPenalty, draw, counts } = { ...settings, ...changes }
  const floats = (value: number) => new Float32Array(B).fill(value)
  const ids = (value: number) => new Int32Array(B).fill(value)
  const out = run.submit({
    logits: Float32Array.from({ length: B * V }, (_, i) => rows[i % V] as number),
    ids: Int32Array.from({ length: B * 3 }, (_, i) => [2, 7, 3][i % 3] as number),
    scale: new Float32Array(B * 3).fill(repetitionPenalty),
    bias: new Float32Array(B * 3),
    temperature: floats(temperature),
    topP: floats(topP),
    minP: floats(minP),
    topK: ids(topK),
    seed: Int32Array.from({ length: B }, (_, b) => b - 5),
    draw: ids(draw),
    counts: ids(counts),
  })
  return { token: Array.from(out.read("token")), logprob: Array.from(out.read("logprob")) }
}

const top4 = [0.106368, 0, 0.390295, 0, 0, 0.214199, 0, 0, 0.289138, 0]

for (const [name, changes, want] of [
  [
    "temperature",
    { temperature: 0.7 },
    [0.0641132, 0.0075217, 0.410671, 0.0133194, 0.00101795, 0.174278, 0.0362059, 0.00489993, 0.267527, 0.0204461],
  ],
  ["top k", { topK: 3 }, [0, 0, 0.436752, 0, 0, 0.239694, 0, 0, 0.323554, 0]],
  ["top p", { topP: 0.8 }, top4],
  ["min p", { minP: 0.25 }, top4],
  [
    "penalty",
    { repetitionPenalty: 1.5, counts: 3 },
    [0.109064, 0.0243355, 0.173921, 0.0351141, 0.00600106, 0.219628, 0.0731078, 0.0133556, 0.296467, 0.0490056],
  ],
  [
    "all",
    { repetitionPenalty: 1.5, counts: 3, temperature: 0.8, topK: 6, topP: 0.9, minP: 0.2 },
    [0.115191, 0, 0.206423, 0, 0, 0.276329, 0, 0, 0.402057, 0],
  ],
] as const) {
  test(`${name}: the tokens drawn are distributed as in transformers`, () => {
    const draws = 25
    const counts = new Float64Array(V)
    for (let n = 0; n < draws; n++) for (const id of draw({ ...changes, draw: n }).token) counts[id] = (counts[id] as number) + 1
    want.forEach((p, id) => {
      const [expected, got] = [p * B * draws, counts[id] as number]
      if (p === 0) expect(got).toBe(0)
      else expect(Math.abs(got - expected)).toBeLessThan(4 * Math.sqrt(expected)) // four standard deviations; seeds are fixed
    })
  })
}

test("ln of the probability is that of the unmodified logits", () => {
  const { token, logprob } = draw({ temperature: 0.3, topK: 5 })
  const want = [-2.42456, -3.92456, -1.12456, -3.52456, -5.32456, -1.72456, -2.82456, -4.22456, -1.42456, -3.22456]
  token.forEach((id, b) => {
    expect(logprob[b]).toBeCloseTo(want[id] as number, 5)
  })
})

test("temperature 0 takes the largest logit, the lowest id of equals", () => {
  expect(new Set(draw({ temperature: 0 }).token)).toEqual(new Set([2]))
  expect(new Set(draw({ temperature: 0, repetitionPenalty: 2, counts: 1 }).token)).toEqual(new Set([8]))
  expect(new Set(draw({ temperature: 0 }, [0, 3, 1, 3, 3, 0, 0, 0, 0, 0]).token)).toEqual(new Set([1]))
})

test("equal seeds and draws give equal tokens, others do not", () => {
  const first = draw({ draw: 9 }).token
  expect(draw({ draw: 9 }).token).toEqual(first)
  expect(draw({ draw: 10 }).token).not.toEqual(first)
})

test("infinite and missing logits: a token is always chosen", () => {
  const inf = Number.POSITIVE_INFINITY
  expect(new Set(draw({}, [-inf, -inf, -inf, 1, -inf, -inf, -inf, -inf, -inf, -inf]).token)).toEqual(new Set([3]))
  for (const id of draw(
    {},
    logits.map(() => Number.NaN),
  ).token)
    expect(id).toBeWithin(0, V)
})
