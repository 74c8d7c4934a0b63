/** The kernels of shaders/, simulated, against plain loops in f64: odd sizes, every variant, every subgroup size. */
import { describe, expect, test } from "bun:test"
import { type ActivationName, activationBackward, activations } from "../shaders/activation.ts"
import { add, eachElement } from "../shaders/elementwise.ts"
import { matmuls } from "../shaders/matmul.ts"
import { rmsNormBackward, rmsNormForward } from "../shaders/norm.ts"
import { columnSum } from "../shaders/reduce.ts"
import { activate, activateDerivative } from "../src/op.ts"
import { act, kernel, read, simulate, u32, write } from "../src/spirv.ts"
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

describe.each(DTYPES)("rms norm, %s", (dtype) => {
  test.each([
    [1, 1, 32],
    [3, 5, 4],
    [2, 300, 8],
    [1, 515, 16],
    [3, 257, 64],
  ])("%d rows of %d columns, subgroups of %d", (R, C, subgroupSize) => {
    const eps = 1e-5
    const [x, w, dy] = [sample(R * C, dtype), sample(C, "f32", 2), sample(R * C, dtype, 3)]
    const [y, rstd] = [empty(R * C, dtype), new Float32Array(R)]
    const buffers = { x: x.data, w: w.data, y, rstd }
    simulate(rmsNormForward, { variant: `rms_norm_forward.${dtype}`, grid: [R], subgroupSize, buffers, push: { C, eps } })
    const P = Math.min(R, 2)
    const [dx, partial] = [empty(R * C, dtype), new Float32Array(P * C).fill(Number.NaN)]
    const backward = { x: x.data, dy: dy.data, w: w.data, rstd, dx, partial }
    simulate(rmsNormBackward, { variant: `rms_norm_backward.${dtype}`, grid: [P], subgroupSize, buffers: backward, push: { R, C } })
    const dw = new Float32Array(C).fill(Number.NaN)
    simulate(columnSum, { grid: [Math.ceil(C / 32)], buffers: { x: partial, y: dw }, push: { R: P, C, beta: 0 } })

    const [wantY, wantDx, wantDw] = [new Float64Array(R * C), new Float64Array(R * C), new Float64Array(C)]
    for (let r = 0; r < R; r++) {
      const [row, drow] = [x.values.subarray(r * C, r * C + C), dy.values.subarray(r * C, r * C + C)]
      const s = 1 / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / C + eps)
      expect(rstd[r]! / s).toBeCloseTo(1, 6)
      const mean = drow.reduce((sum, d, c) => sum + d * w.values[c]! * row[c]! * s, 0) / C
      for (let c = 0; c < C; c++) {
        const h = row[c]! * s
        wantY[r * C + c] = h * w.values[c]!
        wantDx[r * C + c] = (drow[c]! * w.values[c]! - h * mean) * s
        wantDw[c]! += drow[c]! * h
      }
    }
    expectClose(y, wantY)
    expectClose(dw, wantDw)
    if (C > 1) expectClose(dx, wantDx)
  })
})

test("column sums add to what is there as beta says", () => {
  const [R, C] = [19, 37]
  const [x, y] = [sample(R * C, "f32"), sample(C, "f32", 2)]
  simulate(columnSum, { grid: [2], buffers: { x: x.data, y: y.data }, push: { R, C, beta: 0.5 } })
  expectClose(
    y.data,
    Float64Array.from(y.values, (before, c) => x.values.reduce((sum, v, i) => sum + (i % C === c ? v : 0), 0.5 * before)),
  )
})

const kinds = Object.keys(activations) as ActivationName[]
/** An activation alone; products apply it where they write. */
const forward = (kind: ActivationName) =>
  kernel({
    name: kind,
    workgroup: 256,
    buffers: { x: read(act), y: write(act) },
    push: { n: u32 },
    body: (k, { x, y, n }) => eachElement(k, n, [x], y, (v) => activations[kind].value(k, v)),
  })

describe.each(DTYPES)("elementwise, %s", (dtype) => {
  // Fewer than a pack, a tail of every length, more than one turn of the grid.
  test.each([3, 7, 8, 13, 517, 4099])("%d elements", (n) => {
    const [a, b] = [sample(n, dtype), sample(n, dtype, 2)]
    const y = empty(n, dtype)
    const run = { grid: [2], push: { n } } as const
    simulate(add, { ...run, variant: `add.${dtype}.${dtype}.${dtype}`, buffers: { a: a.data, b: b.data, y } })
    expectClose(
      y,
      Float64Array.from(a.values, (v, i) => v + b.values[i]!),
    )
    for (const kind of kinds) {
      simulate(forward(kind), { ...run, variant: `${kind}.${dtype}`, buffers: { x: a.data, y } })
      expectClose(
        y,
        Float64Array.from(a.values, (v) => activate(kind, v)),
      )
      simulate(activationBackward[kind], { ...run, variant: `${kind}_backward.${dtype}`, buffers: { x: a.data, dy: b.data, dx: y } })
      expectClose(
        y,
        Float64Array.from(a.values, (v, i) => b.values[i]! * activateDerivative(kind, v)),
      )
    }
  })
})

test.each(kinds)("%s far out: finite where it should be, NaN stays", (kind) => {
  const x = Float32Array.of(-1e18, -1e4, -90, -50, -12, -6, -3, 0, 3, 6, 12, 50, 90, 1e4, 1e18, Number.NaN)
  const [y, dx, dy] = [new Float32Array(x.length), new Float32Array(x.length), new Float32Array(x.length).fill(1)]
  simulate(forward(kind), { grid: [1], buffers: { x, y }, push: { n: x.length } })
  simulate(activationBackward[kind], { grid: [1], buffers: { x, dy, dx }, push: { n: x.length } })
  ;[...x].forEach((v, i) => {
    if (Number.isNaN(v)) expect(y[i]).toBeNaN()
    else expect(Math.abs(y[i]! - Math.fround(activate(kind, v)))).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(v)))
    if (Math.abs(v) < 1e5) expect(Math.abs(dx[i]! - activateDerivative(kind, v))).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(v)))
    if (kind !== "none") expect(Number.isNaN(dx[i]!)).toBe(Number.isNaN(v))
  })
  if (kind === "gelu") expect(y[5]! / -5.9195e-9).toBeCloseTo(1, 3) // the lower tail keeps its digits
})

describe("matrix products", () => {
  const at = (values: ArrayLike<number>, rows: number, columns: number, isTransposed: boolean) => (r: number, c: number) =>
    values[isTransposed ? c * rows + r : r * columns + c]!
  for (const kernel of matmuls) {
    const isEdge = kernel.name.endsWith("_edge")
    const layout = kernel.name.split("_")[1]!
    const sizes = isEdge ? [[1, 1, 1], [67, 3, 19], [5, 70, 33]] : [[64, 128, 32]] // biome-ignore format: one line
    for (const { name } of kernel.variants) {
      test(`${name}: ${sizes.map((size) => size.join("×")).join(", ")}`, () => {
        const [, act, out] = name.split(".") as [string, Dtype, Dtype]
        for (const [M, N, K] of sizes as [number, number, number][]) {
          const [a, b] = [sample(M * K, act), sample(K * N, act, 2)]
          const c = empty(M * N, out)
          const grid = [Math.ceil(N / 64), Math.ceil(M / 64)] as const
          simulate(kernel, { variant: name, grid, buffers: { a: a.data, b: b.data, c }, push: { M, N, K } })
          const [left, right] = [at(a.values, M, K, layout[0] === "t"), at(b.values, K, N, layout[1] === "t")]
          const want = new Float64Array(M * N)
          for (let m = 0; m < M; m++) for (let n = 0; n < N; n++) for (let i = 0; i < K; i++) want[m * N + n]! += left(m, i) * right(i, n)
          expectClose(c, want)
        }
      })
    }
  }
})
