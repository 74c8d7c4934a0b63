/** Attention by plain KHR matrices in the simulator, against the f64 reference: partial tiles, shared key heads, large scores, every shape. */
import { expect, test } from "bun:test"
import { matrixAttention } from "../shaders/attention-matrix.ts"
import { matrixBackward } from "../shaders/attention-matrix-backward.ts"
import { attention, attentionBackward, cast, checkCase } from "../src/op.ts"
import { counters } from "../src/op-attention-heads.ts"
import { trial } from "../src/op-attention-matrix.ts"
import { type Device, type Op, plan, type Tracer, trace } from "../src/program.ts"
import { checkKernel, type Kernel } from "../src/spirv.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

const device = simulatedDevice(32, "khr")
const first = { forward: 0, queries: 0, keys: 0 }
const CASES = [
  { B: 1, T: 1, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, about: "one position" },
  { B: 2, T: 70, nHead: 2, nKvHead: 1, headDim: 64, scale: 0.125, about: "partial tiles, shared key heads, two sequences" },
  { B: 1, T: 128, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, way: { forward: 1, queries: 1, keys: 1 }, about: "second shapes" },
  { B: 1, T: 131, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, way: { forward: 2, queries: 2, keys: 2 }, about: "third shapes" },
  { B: 1, T: 33, nHead: 2, nKvHead: 1, headDim: 64, scale: 0.125, way: { ...first, keys: 3 }, about: "dk and dv apart" },
  { B: 1, T: 70, nHead: 2, nKvHead: 1, headDim: 128, scale: 0.09, about: "wide heads" },
  { B: 1, T: 65, nHead: 1, nKvHead: 1, headDim: 128, scale: 0.09, way: { forward: 1, queries: 1, keys: 1 }, about: "wide heads, second" },
  { B: 1, T: 33, nHead: 1, nKvHead: 1, headDim: 128, scale: 0.09, way: { ...first, keys: 2 }, about: "wide heads, third" },
  { B: 2, T: 67, nHead: 2, nKvHead: 1, headDim: 64, scale: 0.125, dropout: 0.4, about: "dropout, rows of bits that are not aligned" },
  {
    B: 1,
    T: 132,
    nHead: 1,
    nKvHead: 1,
    headDim: 64,
    scale: 0.125,
    dropout: 0.2,
    way: { forward: 2, queries: 1, keys: 1 },
    about: "dropout, more lanes",
  },
  { B: 1, T: 70, nHead: 1, nKvHead: 1, headDim: 128, scale: 0.09, dropout: 0.2, about: "dropout, wide heads" },
  { B: 1, T: 130, nHead: 2, nKvHead: 2, headDim: 32, scale: 0.2, about: "narrow heads" },
  { B: 1, T: 130, nHead: 1, nKvHead: 1, headDim: 64, scale: 6, about: "scores that pass the first reference" },
]

test("invariant attention has the bits of devices without matrices", () => {
  const [T, width] = [70, 4 * 64]
  const attrs = { T, nHead: 2, nKvHead: 1, headDim: 64, scale: 0.125, dropout: 0, site: 0 }
  const words = Uint16Array.from({ length: T * width }, (_, i) => new Uint32Array(Float32Array.of(Math.sin(1 + 3 * i)).buffer)[0]! >>> 16)
  const bits = (on: Device, isInvariant: boolean) => {
    const state = on.state()
    const body = (t: Tracer) => {
      const { y } = attention({ qkv: t.state("qkv", "bf16", [T, width]) }, { ...attrs, isInvariant })
      t.output("y", cast({ x: y }, { to: "f32" }).y)
    }
    const run = on.compile(plan(trace("invariant", body)), state)
    state.write("qkv", words)
    return [...run.submit({}).read("y")]
  }
  const portable = bits(simulatedDevice(32, "none"), false)
  expect(bits(device, true)).toEqual(portable)
  expect(bits(device, false)).not.toEqual(portable)
}, 300_000)

test("kernels of every shape keep the limits", () => {
  const lists = [matrixAttention, matrixBackward.queries, matrixBackward.keys].flatMap((bySize) => Object.values(bySize).flat())
  for (const { plain, dropout } of lists) for (const kernel of [plain, dropout].flat()) checkKernel(kernel as unknown as Kernel)
})

for (const { B, T, about, way = first, dropout = 0, ...heads } of CASES) {
  const { nHead: H, nKvHead: K, headDim: D } = heads
  const attrs = { ...heads, T, dropout, site: 3 }
  const qkv = [B * T, (H + 2 * K) * D]
  const run = (op: unknown, given: Record<string, number[]>) => {
    const inputs = { ...given, ...(dropout > 0 ? counters : {}) }
    trial.way = way
    try {
      const { worst, tensor } = checkCase(device, { op: op as Op, opCase: { inputs, attrs }, index: 1, act: "bf16", beta: 0 })
      expect(worst, tensor).toBeLessThanOrEqual(1)
    } finally {
      trial.way = undefined
    }
  }
  test(`attention, ${about}`, () => run(attention, { qkv }), 300_000)
  if (heads.scale < 1)
    test(
      `attention_backward, ${about}`,
      () => run(attentionBackward, { qkv, y: [B * T, H * D], lse: [B * T, H], dy: [B * T, H * D] }),
      300_000,
    )
}
