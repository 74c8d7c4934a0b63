/** The kernels of shaders/, simulated, against plain loops in f64: odd sizes, every variant, every subgroup size. */
import { describe, expect, test } from "bun:test"
import { type ActivationName, activations } from "../shaders/activation.ts"
import { crossEntropy } from "../shaders/classifier.ts"
import { add, eachElement, multiply } from "../shaders/elementwise.ts"
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

test("column sums add to what is there as beta says", () => {
  const [R, C] = [19, 37]
  const [x, y] = [sample(R * C, "f32"), sample(C, "f32", 2)]
  simulate(columnSum, { grid: [3], buffers: { x: x.data, y: y.data }, push: { R, C }, params: { beta: 0.5 } })
  expectClose(
    y.data,
    Float64Array.from(y.values, (before, c) => x.values.reduce((sum, v, i) => sum + (i % C === c ? v : 0), 0.5 * before)),
  )
})

describe.each(DTYPES)("cross-entropy, %s", (dtype) => {
  // More packs than all lanes take at once, some left over, and some that are not all logits; the target in each of these.
  test.each([undefined, 3])("soft cap %p", (softCap) => {
    const [V, pitch, lanes] = [2100, 2112, 64]
    const targets = [5, -1, 2099, 2050, 3]
    const nan = targets.length - 1
    const logits = sample(targets.length * pitch, dtype)
    const values = Float64Array.from(logits.values)
    if (logits.data instanceof Uint16Array) logits.data[nan * pitch + 7] = 0x7fc0
    else logits.data[nan * pitch + 7] = Number.NaN
    const losses = new Float32Array(targets.length)
    const kernel = crossEntropy[dtype] as typeof crossEntropy.f32
    simulate(kernel, {
      variant: `${kernel.name}.${dtype}`,
      grid: [targets.length],
      buffers: { logits: logits.data, targets: Int32Array.from(targets), losses, gradient: logits.data },
      push: { V, pitch, cap: softCap ?? 1 },
      constants: { lanes, isCapped: softCap === undefined ? 0 : 1 },
    })
    const gradient = valuesOf(logits.data)
    targets.forEach((target, r) => {
      const row = Array.from({ length: pitch }, (_, v) => gradient[r * pitch + v] as number)
      if (r === nan) return expect([losses[r], ...row.filter((slope) => !Number.isNaN(slope))]).toEqual([Number.NaN])
      const z = Array.from(values.subarray(r * pitch, r * pitch + V), (v) => (softCap === undefined ? v : softCap * Math.tanh(v / softCap)))
      const lse = Math.log(z.reduce((sum, v) => sum + Math.exp(v), 0))
      const slopes = z.map((v, i) => (Math.exp(v - lse) - Number(i === target)) * (softCap === undefined ? 1 : 1 - (v / softCap) ** 2))
      expect(row.slice(V)).toEqual(Array(pitch - V).fill(0))
      if (target < 0) return expect([losses[r], ...row.filter((slope) => slope !== 0)]).toEqual([0])
      expect(losses[r]).toBeCloseTo(lse - z[target]!, 4)
      expect(relativeL2(row.slice(0, V), slopes)).toBeLessThan(TOLERANCE[dtype])
    })
  })
})

const kinds = Object.keys(activations) as ActivationName[]
/** An activation alone, or its derivative; products apply it where they write. */
const alone = (kind: ActivationName, what: "value" | "derivative") =>
  kernel({
    name: kind,
    workgroup: 256,
    buffers: { x: read(act), y: write(act) },
    push: { n: u32 },
    body: (k, { x, y, n }) => eachElement(k, n, [x], y, (v) => activations[kind][what](k, v)),
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
    simulate(multiply, { ...run, variant: `multiply.${dtype}`, buffers: { a: a.data, b: b.data, y } })
    expectClose(
      y,
      Float64Array.from(a.values, (v, i) => v * b.values[i]!),
    )
    for (const kind of kinds) {
      simulate(alone(kind, "value"), { ...run, variant: `${kind}.${dtype}`, buffers: { x: a.data, y } })
      expectClose(
        y,
        Float64Array.from(a.values, (v) => activate(kind, v)),
      )
      simulate(alone(kind, "derivative"), { ...run, variant: `${kind}.${dtype}`, buffers: { x: a.data, y } })
      expectClose(
        y,
        Float64Array.from(a.values, (v) => activateDerivative(kind, v)),
      )
    }
  })
})

test.each(kinds)("%s far out: finite where it should be, NaN stays", (kind) => {
  const x = Float32Array.of(-1e18, -1e4, -90, -50, -12, -6, -3, 0, 3, 6, 12, 50, 90, 1e4, 1e18, Number.NaN)
  const [y, dx] = [new Float32Array(x.length), new Float32Array(x.length)]
  simulate(alone(kind, "value"), { grid: [1], buffers: { x, y }, push: { n: x.length } })
  simulate(alone(kind, "derivative"), { grid: [1], buffers: { x, y: dx }, push: { n: x.length } })
  ;[...x].forEach((v, i) => {
    if (Number.isNaN(v)) expect(y[i]).toBeNaN()
    else expect(Math.abs(y[i]! - Math.fround(activate(kind, v)))).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(v)))
    if (Math.abs(v) < 1e5) expect(Math.abs(dx[i]! - activateDerivative(kind, v))).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(v)))
    if (kind !== "none") expect(Number.isNaN(dx[i]!)).toBe(Number.isNaN(v))
  })
  if (kind === "gelu") expect(y[5]! / -5.9195e-9).toBeCloseTo(1, 3) // the lower tail keeps its digits
})
