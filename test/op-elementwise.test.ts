/** Known answers of the elementwise family, from PyTorch 2.13 in f64. */
import { expect, test } from "bun:test"
import { uniform } from "../src/base-random.ts"
import { openCpu } from "../src/cpu.ts"
import { gradients } from "../src/grad.ts"
import {
  type Activation,
  activationBackward,
  add,
  assign,
  cast,
  dropout,
  linear,
  softCap,
  softCapBackward,
  swiglu,
  swigluBackward,
} from "../src/op.ts"
import { plan, trace } from "../src/program.ts"
import { evaluate, expectValues } from "./op-evaluate.ts"
import { fromBf16, toBf16 } from "./support.ts"

const z = [-3, -1, -0.25, 0, 0.5, 2]

const activations: [Activation, number[], number[]][] = [
  [
    "gelu",
    [-0.00404969409, -0.158655254, -0.100323419, 0, 0.345731231, 1.95449974],
    [-0.0119456472, -0.0833154706, 0.304626645, 0.5, 0.867495125, 1.0852318],
  ],
  [
    "gelu_tanh",
    [-0.00363739208, -0.158808009, -0.100324649, 0, 0.34571401, 1.95459769],
    [-0.0115841666, -0.0829640838, 0.304645905, 0.5, 0.867369904, 1.08609926],
  ],
  ["relu", [0, 0, 0, 0, 0.5, 2], [0, 0, 0, 0, 1, 1]],
  ["relu2", [0, 0, 0, 0, 0.25, 4], [0, 0, 0, 0, 1, 4]],
  [
    "silu",
    [-0.14227762, -0.268941421, -0.109455875, 0, 0.311229666, 1.76159416],
    [-0.088104106, 0.0723294881, 0.376289978, 0.5, 0.739961187, 1.09078425],
  ],
]

for (const [activation, value, slope] of activations) {
  test(`${activation} and its derivative`, () => {
    const results = evaluate({ two: z.map(() => [2]), column: z.map((x) => [x]), unit: [[1]] }, ({ two, column, unit }) => {
      const { y, slope } = linear({ x: column, w: unit }, { activation, out: "f32" })
      return { y, dz: activationBackward({ dy: two, slope }).dz }
    })
    expectValues(results.y, value)
    expectValues(
      results.dz,
      slope.map((one) => 2 * one),
    )
  })
}

test("swiglu gates with the first half", () => {
  const x = [[...z, 1, -2, 0.5, 3, -1.5, 0.25]]
  const { y, dx } = evaluate({ x, dy: [[1, 0.5, -1, 2, 1, -0.5]] }, ({ x, dy }) => ({
    y: swiglu({ x }).y,
    dx: swigluBackward({ x, dy }).dx,
  }))
  expectValues(y, [-0.14227762, 0.537882843, -0.0547279374, 0, -0.466844498, 0.440398539])
  expectValues(dx, [
    ...[-0.088104106, -0.0723294881, -0.188144989, 3, -1.10994178, -0.136348031],
    ...[-0.14227762, -0.134470711, 0.109455875, 0, 0.311229666, -0.880797078],
  ])
})

test("soft cap", () => {
  const x = [-100, -3, 0, 1, 25, 60]
  const { y, dx } = evaluate({ x, dy: x.map(() => 1) }, ({ x, dy }) => ({
    y: softCap({ x }, { cap: 30 }).y,
    dx: softCapBackward({ x, dy }, { cap: 30 }).dx,
  }))
  expectValues(y, [-29.923739, -2.99003984, 0, 0.999629794, 20.4678537, 28.9208274])
  expectValues(dx, [0.00507760312, 0.990066291, 1, 0.998889711, 0.53451885, 0.0706508249])
})

/** Dropout of `values` (rows, C) as rows `row` … of the global batch. */
function drop(values: readonly (readonly number[])[], row: number, p: number): Float32Array {
  const device = openCpu(2)
  const state = device.state()
  const C = values[0]?.length ?? 0
  const run = device.compile(
    plan(
      trace("dropout", (t) => {
        const counters = { seed: t.live("seed", "i32"), step: t.live("step", "i32"), row: t.live("row", "i32") }
        t.output("y", dropout({ x: t.state("x", "f32", [values.length, C]), ...counters }, { p, site: 4 }).y)
      }),
    ),
    state,
  )
  state.write("x", Float32Array.from(values.flat()))
  return Float32Array.from(run.submit({ seed: 42, step: 3, row }).read("y"))
}

test("dropout keeps what the counter says, whatever the batch is cut into", () => {
  const [R, C, p] = [40, 51, 0.3]
  const values = Array.from({ length: R }, (_, r) => Array.from({ length: C }, (_, c) => 1 + r + c))
  const whole = drop(values, 8, p)
  const parts = [0, 7, 13, 39].flatMap((from, i, all) => [...drop(values.slice(from, all[i + 1] ?? R), 8 + from, p)])
  expect([...whole]).toEqual(parts)
  const scale = Math.fround(1 / 0.7)
  const byHand = values.flatMap((row, r) => row.map((x, c) => (uniform(42, 4, 3, (8 + r) * C + c) >= p ? Math.fround(x * scale) : 0)))
  expect([...whole]).toEqual(byHand)
  const kept = whole.filter((x) => x !== 0).length / whole.length
  expect(Math.abs(kept - 0.7)).toBeLessThan(0.04) // 3.9 standard deviations
})

test("sums and copies round once, keep what is not finite, flush what is subnormal, and never read what they overwrite", () => {
  const special = [Number.NaN, Number.POSITIVE_INFINITY, -0, 1e-40, 3.4e38, 1]
  const { sum, half } = evaluate({ a: special, b: [1, Number.NEGATIVE_INFINITY, -0, 1e-40, 3.4e38, 2 ** -24] }, ({ a, b }) => ({
    sum: add({ a, b }).y,
    half: cast({ x: cast({ x: a }, { to: "bf16" }).y }, { to: "f32" }).y,
  }))
  expect([...(sum?.cpu ?? [])]).toEqual([Number.NaN, Number.NaN, -0, 0, Number.POSITIVE_INFINITY, 1])
  expect([...(half?.cpu ?? [])]).toEqual([...fromBf16(toBf16(special))])
})

test("a gradient that arrives twice is added to its place, and nothing there is read at first", () => {
  const device = openCpu(2)
  const state = device.state()
  const run = device.compile(
    plan(
      trace("twice", (t) => {
        const x = t.state("x", "f32", [])
        const into = t.state("dx", "f32", [])
        const beta = t.live("beta")
        const y = assign({ x: add({ a: x, b: x }).y }).y
        gradients(add({ a: y, b: x }).y, new Map([[x, { into, beta }]]))
      }),
    ),
    state,
  )
  state.write("dx", Float32Array.of(Number.NaN))
  run.submit({ beta: 0 })
  expect([...state.read("dx")]).toEqual([3])
  run.submit({ beta: 1 })
  expect([...state.read("dx")]).toEqual([6])
})
