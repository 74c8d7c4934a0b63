/** The matrix product under the linear layers: odd sizes, cuts between blocks, bits that do not depend on company, values that are not numbers. */
import { describe, expect, test } from "bun:test"
import { philox } from "../src/base-random.ts"
import { openCpu } from "../src/cpu.ts"
import { checkCase, linear, linearBackwardInput, linearBackwardWeight } from "../src/op.ts"
import { type Op, type OpCase, plan, trace } from "../src/program.ts"
import { relativeL2, toBf16 } from "./support.ts"

openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

type Precision = "f32" | "bf16"
interface Product {
  readonly x: Float32Array
  readonly w: Float32Array
  readonly types: readonly [Precision, Precision]
}

/** y (rows, n) = x (rows, K) · w (n, K)ᵀ in f32 on so many threads. */
function multiply({ x, w, types }: Product, K: number, threads = 2): Float32Array {
  const device = openCpu(threads)
  const state = device.state()
  const made = plan(
    trace("product", (t) => {
      const [a, b] = [t.state("x", types[0], [x.length / K, K]), t.state("w", types[1], [w.length / K, K])]
      t.output("y", linear({ x: a, w: b }, { activation: "none", out: "f32" }).y)
    }),
  )
  const run = device.compile(made, state)
  state.write("x", types[0] === "bf16" ? toBf16(x) : x)
  state.write("w", types[1] === "bf16" ? toBf16(w) : w)
  const y = Float32Array.from(run.submit({}).read("y") as Float32Array)
  run.free()
  state.free()
  return y
}

const floats = (length: number, seed: number) =>
  Float32Array.from({ length }, (_, i) => Math.fround(Math.sin(seed + i * 1.7) * Math.cos(i * i)))
const bits = (y: Float32Array) => Buffer.from(y.buffer, y.byteOffset, y.byteLength)
const PAIRS = [
  ["f32", "f32"],
  ["bf16", "bf16"],
  ["f32", "bf16"],
] as const

/** Wider, and deeper, than what is packed at a time. */
const LARGE = [
  [1060, 1300, 1090],
  [130, 9000, 130],
] as const

describe("random sizes are right, forward and backward, and equal on 1 and 2 threads", () => {
  const random = new Uint32Array(4)
  for (let i = 0; i < 60; i++) {
    philox(i, 0, 0, 0, 20, 26, random)
    const [R, K, N] = [1, 2, 3].map((at) => 1 + ((random[at] as number) % 70)) as [number, number, number]
    const act: Precision = i % 2 === 0 ? "f32" : "bf16"
    const kinds: [Op, OpCase][] = [
      [linear as Op, { inputs: { x: [R, K], w: [N, K], b: [N] }, attrs: { activation: ["none", "gelu_tanh", "silu"][i % 3], out: act } }],
      [linearBackwardInput as Op, { inputs: { dy: [R, N], w: [N, K] }, attrs: { activation: "none", out: act } }],
      [linearBackwardWeight as Op, { inputs: { x: [R, K], dy: [R, N] }, attrs: { bias: true } }],
    ]
    test(`(${R}, ${K}) · (${N}, ${K})ᵀ ${act}`, () => {
      for (const [op, opCase] of kinds) {
        for (const beta of op.accumulates.length > 0 ? ([0, 1] as const) : ([0] as const)) {
          const variant = { op, opCase, index: i, act, beta }
          const two = checkCase(openCpu(2), variant)
          expect(two.worst, `${op.name} ${two.tensor}`).toBeLessThanOrEqual(1)
          const one = checkCase(openCpu(1), variant)
          for (const [name, value] of one.bits)
            expect(Buffer.from(value).equals(Buffer.from(two.bits.get(name) as Uint8Array)), name).toBe(true)
        }
      }
    })
  }
})

test("a weight's gradient wider than what is packed at a time", () => {
  const opCase = { inputs: { x: [8, 1060], dy: [8, 1090] }, attrs: { bias: true } }
  expect(checkCase(openCpu(2), { op: linearBackwardWeight as Op, opCase, index: 0, act: "f32", beta: 0 }).worst).toBeLessThanOrEqual(1)
})

for (const types of PAIRS) {
  const name = `x ${types[0]}, w ${types[1]}`
  test(`a row has the same bits alone, in a chunk, in a batch and on 1, 2, 3 threads: ${name}`, () => {
    for (const [R, K, N] of [
      [70, 31, 33],
      [40, 385, 70],
      [130, 1100, 40], // beyond one pass of f32 (384) and of bf16 (1024)
      [64, 64, 200],
      ...(types[1] === "f32" ? LARGE : []),
    ] as const) {
      const [x, w] = [floats(R * K, 1), floats(N * K, 2)]
      const batch = multiply({ x, w, types }, K)
      for (const threads of [1, 3]) expect(bits(multiply({ x, w, types }, K, threads)).equals(bits(batch)), `${threads} threads`).toBe(true)
      for (const chunk of [1, 2, 7, 16, 17, 33]) {
        for (let r = 0; r < R; r += R > 1000 ? 301 : chunk * 5) {
          const part = multiply({ x: x.slice(r * K, (r + chunk) * K), w, types }, K)
          expect(bits(part).equals(bits(batch.slice(r * N, (r + chunk) * N))), `rows ${r} … ${r + chunk - 1} of (${R}, ${K}, ${N})`).toBe(
            true,
          )
        }
      }
    }
  })

  test(`NaN and infinity reach their row, and only theirs: ${name}`, () => {
    const [K, N] = [70, 40]
    for (const R of [3, 40]) {
      const [x, w] = [floats(R * K, 3), floats(N * K, 4)]
      const clean = multiply({ x, w, types }, K)
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        const y = multiply({ x: x.with(K + 65, bad), w, types }, K)
        expect(y.slice(N, 2 * N).some(Number.isFinite)).toBe(false)
        expect(bits(y.slice(0, N)).equals(bits(clean.slice(0, N)))).toBe(true)
        expect(bits(y.slice(2 * N)).equals(bits(clean.slice(2 * N)))).toBe(true)
      }
    }
  })
}

test("f32 sums of thousands of positive products keep f32's precision", () => {
  const [R, K, N] = [20, 20_000, 8]
  const [x, w] = [floats(R * K, 5).map(Math.abs), floats(N * K, 6).map(Math.abs)]
  const exact = Float64Array.from({ length: R * N }, (_, i) => {
    let sum = 0
    for (let k = 0; k < K; k++) sum += (x[Math.floor(i / N) * K + k] as number) * (w[(i % N) * K + k] as number)
    return sum
  })
  expect(relativeL2(multiply({ x, w, types: ["f32", "f32"] }, K), exact)).toBeLessThan(6e-7)
})
