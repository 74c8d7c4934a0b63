/** The kernels of shaders/, simulated, against plain loops in f64: odd sizes, every variant, every subgroup size. */
import { describe, expect, test } from "bun:test"
import { geluBackward, geluForward, geluTanhBackward, geluTanhForward } from "../shaders/activation.ts"
import { add } from "../shaders/elementwise.ts"
import { columnSum } from "../shaders/reduce.ts"
import { simulate } from "../src/spirv.ts"
import { fromBf16, relativeL2, toBf16 } from "./support.ts"

type Dtype = "f32" | "bf16"
const DTYPES = ["f32", "bf16"] as const
/** Distance from f64 allowed to a result of each type. */
const TOLERANCE = { f32: 1e-6, bf16: 4e-3 } as const

/** Seeded numbers in −2 … 2, as a buffer and as what it holds. */
function sample(n: number, dtype: Dtype, seed = 1) {
  let state = seed * 7919
  const next = () => {
    state = (state * 48271) % 2147483647
    return (state / 2147483647) * 4 - 2
  }
  const floats = Float32Array.from({ length: n }, next)
  if (dtype === "f32") return { data: floats, values: Float64Array.from(floats) }
  const data = toBf16(floats)
  return { data, values: fromBf16(data) }
}
const empty = (n: number, dtype: Dtype) => (dtype === "f32" ? new Float32Array(n) : new Uint16Array(n))
const valuesOf = (data: Float32Array | Uint16Array): ArrayLike<number> => (data instanceof Uint16Array ? fromBf16(data) : data)

function expectClose(data: Float32Array | Uint16Array, reference: ArrayLike<number>): void {
  expect(relativeL2(valuesOf(data), reference)).toBeLessThan(TOLERANCE[data instanceof Uint16Array ? "bf16" : "f32"])
}

test("column sums add to what is there as beta says", () => {
  const [R, C] = [19, 37]
  const [x, y] = [sample(R * C, "f32"), sample(C, "f32", 2)]
  simulate(columnSum, { grid: [2], buffers: { x: x.data, y: y.data }, push: { R, C }, params: { beta: 0.5 } })
  expectClose(
    y.data,
    Float64Array.from(y.values, (before, c) => x.values.reduce((sum, v, i) => sum + (i % C === c ? v : 0), 0.5 * before)),
  )
})

/** The error function to 1e-15, by its series and the continued fraction of its complement. */
function erf(x: number): number {
  const a = Math.abs(x)
  let result = 0
  if (a < 3) {
    for (let n = 0, term = a; n < 80; n++, term *= (-a * a) / n) result += (term / (2 * n + 1)) * (2 / Math.sqrt(Math.PI))
  } else {
    let fraction = 0
    for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction)
    result = 1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction))
  }
  return Math.sign(x) * result
}
const gelu = (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2))
const geluTanh = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
const slope = (f: (x: number) => number) => (x: number) => (f(x + 1e-4) - f(x - 1e-4)) / 2e-4

describe.each(DTYPES)("elementwise, %s", (dtype) => {
  // Fewer than a pack, a tail of every length, more than one turn of the grid.
  test.each([1, 7, 8, 13, 517, 4099])("%d elements", (n) => {
    const [a, b] = [sample(n, dtype), sample(n, dtype, 2)]
    const y = empty(n, dtype)
    const run = { grid: [2], push: { n } } as const
    simulate(add, { ...run, variant: `add.${dtype}`, buffers: { a: a.data, b: b.data, y } })
    expectClose(
      y,
      Float64Array.from(a.values, (v, i) => v + b.values[i]!),
    )
    for (const [forward, f] of [[geluForward, gelu] as const, [geluTanhForward, geluTanh] as const]) {
      simulate(forward, { ...run, variant: `${forward.name}.${dtype}`, buffers: { x: a.data, y } })
      expectClose(y, Float64Array.from(a.values, f))
    }
    for (const [backward, f] of [[geluBackward, gelu] as const, [geluTanhBackward, geluTanh] as const]) {
      simulate(backward, { ...run, variant: `${backward.name}.${dtype}`, buffers: { x: a.data, dy: b.data, dx: y } })
      expectClose(
        y,
        Float64Array.from(a.values, (v, i) => b.values[i]! * slope(f)(v)),
      )
    }
  })
})

test("gelu far out: no NaN, the lower tail keeps its digits", () => {
  const x = Float32Array.of(-50, -12, -6, -3, 0, 3, 6, 12, 50, 1e4, -1e4)
  const y = new Float32Array(x.length)
  simulate(geluForward, { grid: [1], buffers: { x, y }, push: { n: x.length } })
  ;[...x].forEach((v, i) => {
    if (v > -5) expect(y[i]! - gelu(v)).toBeLessThan(1e-6)
  })
  expect(y[2]! / -5.9195e-9).toBeCloseTo(1, 3)
  expect([...y.subarray(7)]).toEqual([12, 50, 1e4, -0])
  simulate(geluTanhForward, { grid: [1], buffers: { x, y }, push: { n: x.length } })
  ;[...x].forEach((v, i) => {
    expect(Math.abs(y[i]! - geluTanh(v))).toBeLessThan(1e-6 * Math.max(1, Math.abs(v)))
  })
})
