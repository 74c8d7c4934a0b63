/** Matrix products on the GPU: every path of the builder against plain loops, and equal bits of a row in every product that holds it. */
import { describe, expect, test } from "bun:test"
import { gpus, openGpu } from "../src/gpu.ts"
import { classifier, linear } from "../src/op.ts"
import { checkCase } from "../src/op-check.ts"
import { defineOp } from "../src/op-define.ts"
import { gemm } from "../src/op-matmul-gpu.ts"
import type { Device, Op } from "../src/program.ts"
import { simulatedDevice } from "./gpu-simulated.ts"
import { testWith } from "./require.ts"

const found = gpus()
const withGpu = testWith("vulkan", found.length === 0 ? "no usable Vulkan device" : undefined)
const opened = new Map<string, Device>()
/** Each device at the first use; simulated ones are cheap. */
function deviceOf(name: string): Device {
  const known = opened.get(name) ?? (name === "simulated" ? simulatedDevice(16) : openGpu(0))
  opened.set(name, known)
  return known
}
const onBoth = (about: string, run: (device: Device) => void, simulates = true) => {
  if (simulates) test(`simulated: ${about}`, () => run(deviceOf("simulated")), 300_000)
  withGpu(`gpu: ${about}`, () => run(deviceOf("gpu")), 300_000)
}

interface Shape {
  readonly layout: "nn" | "nt" | "tn"
  readonly M: number
  readonly N: number
  readonly K: number
  readonly lda?: number
  readonly ldc?: number
  readonly scale?: number
  readonly beta?: number
  readonly order?: "forward" | "any"
  /** Processors that the choice of kernels believes in. */
  readonly units?: number
}

const sizeOf = ({ layout, M, N, K, lda }: Shape) => ({
  a: layout === "tn" ? [K, lda ?? M] : [M, lda ?? K],
  b: layout === "nt" ? [N, K] : [K, N],
})

/** gemm() as an op, so that it can be checked like one. */
const product = defineOp({
  name: "product",
  doc: "c = scale·a·b + beta·addend, with all that gemm() offers",
  inputs: { a: "state", b: "state", addend: "state?" },
  outputs: ["c"],
  attrs: {} as Shape,
  act: ["a", "b"],
  shape: (_, { M, N, ldc }) => ({ c: { shape: [M, ldc ?? N], dtype: "f32" } }),
  reference({ a, b, addend }, { c }, { layout, M, N, K, lda, ldc = N, scale = 1, beta = 0 }) {
    for (let m = 0; m < M; m++) {
      for (let n = 0; n < ldc; n++) {
        let sum = 0
        for (let k = 0; k < K && n < N; k++) {
          const left = layout === "tn" ? k * (lda ?? M) + m : m * (lda ?? K) + k
          sum += (a.data[left] as number) * (b.data[layout === "nt" ? n * K + k : k * N + n] as number)
        }
        // What lies between the rows of c keeps the NaN of its beginning: compare with 0 would fail, so it is not compared there.
        c.data[m * ldc + n] = n < N ? scale * sum + (beta === 0 ? 0 : beta * (addend?.data[m * ldc + n] as number)) : 0
      }
    }
  },
  cpu: () => {
    throw new Error("gpu only")
  },
  gpu({ a, b, addend }, { c }, { layout, M, N, K, lda, ldc, scale, beta, order = "any", units = 1 }, _, target) {
    const strides = { ...(lda === undefined ? {} : { lda }), ...(ldc === undefined ? {} : { ldc }) }
    const epilogue = { ...(scale === undefined ? {} : { scale }), ...(addend === undefined ? {} : { addend, beta }) }
    return gemm({ layout, a, b, c: c as NonNullable<typeof c>, M, N, K, order, ...strides, ...epilogue }, { ...target, units })
  },
  cases: [],
}) as unknown as Op

const CASES: readonly (Shape & { readonly about: string })[] = [
  ...(["nn", "nt", "tn"] as const).flatMap((layout) => [
    { layout, M: 256, N: 264, K: 24, about: "large tiles, a column of them cut off" },
    { layout, M: 72, N: 136, K: 56, about: "small tiles in packs" },
    { layout, M: 35, N: 67, K: 21, about: "odd sizes" },
    { layout, M: 24, N: 72, K: 32, scale: 0.5, beta: 2, about: "scale and addend" },
  ]),
  { layout: "nn", M: 40, N: 24, K: 800, units: 4, about: "split sum" },
  { layout: "tn", M: 37, N: 19, K: 1000, units: 4, scale: -1, beta: 0.5, about: "split sum, odd sizes, addend" },
  { layout: "nn", M: 20, N: 40, K: 24, lda: 32, about: "rows of a apart" },
  { layout: "nt", M: 3, N: 50, K: 4200, about: "few rows, more chunks than lanes" },
  { layout: "nt", M: 13, N: 9, K: 64, about: "two groups of few rows" },
]

describe("every path of gemm()", () => {
  CASES.forEach(({ about, ...attrs }, index) => {
    const { a, b } = sizeOf(attrs)
    const inputs = { a, b, ...(attrs.beta === undefined ? {} : { addend: [attrs.M, attrs.N] }) }
    for (const act of ["f32", "bf16"] as const) {
      onBoth(`${attrs.layout} ${attrs.M}×${attrs.N}×${attrs.K}, ${act}, ${about}`, (device) => {
        const { worst } = checkCase(device, { op: product, opCase: { inputs, attrs: attrs as never }, index, act, beta: 0 })
        expect(worst).toBeLessThanOrEqual(1)
      })
    }
  })
})

describe("a row's bits are the same alone, in a batch and in a chunk", () => {
  for (const act of ["f32", "bf16"] as const) {
    for (const [N, K] of [
      [40, 96],
      [33, 70],
      [12, 4224],
    ] as const) {
      onBoth(
        `${act}, ${K} → ${N}`,
        (device) => {
          const rowsOf = (M: number) => {
            const opCase = { inputs: { x: [M, K], w: [N, K], b: [N] }, attrs: { activation: "gelu_tanh", out: act } }
            const { bits } = checkCase(device, { op: linear as Op, opCase, index: 0, act, beta: 0 })
            return bits.get("out.y") as Uint8Array
          }
          const all = rowsOf(K > 4000 ? 17 : 70)
          for (const M of [1, 2, 3, 8, 9, 17]) {
            const some = rowsOf(M)
            expect(Buffer.from(some).equals(Buffer.from(all.subarray(0, some.length))), `${M} rows`).toBe(true)
          }
        },
        K < 4000,
      ) // long sums take the simulator too long
    }
  }
})

withGpu(
  "gpu: a classifier of more rows than are done at a time",
  () => {
    const R = 65536 + 70
    const inputs = { x: [R, 3], w: [5, 3], targets: { shape: [R], from: -1, below: 5 } }
    for (const beta of [0, 1] as const) {
      const { worst, tensor } = checkCase(deviceOf("gpu"), { op: classifier as Op, opCase: { inputs }, index: 0, act: "f32", beta })
      expect(worst, tensor).toBeLessThanOrEqual(1)
    }
  },
  300_000,
)

test("a target beyond the classes makes the loss NaN, and only that", () => {
  const inputs = { x: [2, 3], w: [5, 3], targets: { shape: [2], values: [1, 5] } }
  const { bits } = checkCase(deviceOf("simulated"), { op: classifier as Op, opCase: { inputs }, index: 0, act: "f32", beta: 0 })
  const floats = (name: string) => [...new Float32Array((bits.get(name) as Uint8Array).buffer)]
  expect(floats("out.loss")).toEqual([Number.NaN])
  expect(floats("out.count")).toEqual([2])
  expect(floats("out.dx").some(Number.isNaN)).toBe(false)
})
