/** Attention on a Vulkan device: the bits of a row do not depend on company, chunk or the kernel that computes it. */
import { expect } from "bun:test"
import { fillNormal } from "../src/base-random.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import { attention, attentionCached } from "../src/op.ts"
import { plan, type Tracer, trace } from "../src/program.ts"
import type { Dtype, Tensor } from "../src/tensor.ts"
import { testWith } from "./require.ts"
import { toBf16 } from "./support.ts"

const isMissing = gpus().length === 0
const withGpu = testWith("vulkan", isMissing ? "no usable Vulkan device" : undefined)
const device = isMissing ? undefined : openGpu(0)
type Values = Float32Array | Uint16Array

/** Runs `body` once on states of these values; returns what the states hold afterwards. */
function run(states: Readonly<Record<string, Values>>, inputs: Readonly<Record<string, Int32Array>>, body: (t: Tracer) => void) {
  if (device === undefined) throw new Error("no device")
  const traced = plan(trace("attention", body))
  const state = device.state()
  const compiled = device.compile(traced, state)
  for (const [name, values] of Object.entries(states)) state.write(name, values)
  compiled.submit(inputs)
  const after = Object.fromEntries(state.names().map((name) => [name, state.read(name).slice() as Values]))
  compiled.free()
  state.free()
  return after
}

/** Lets an output be read from state "y". */
function keep(t: Tracer, y: Tensor): void {
  const node = t.program.nodes.at(-1)
  if (node !== undefined) node.outputs.y = t.state("y", y.dtype, y.shape)
}

function random(length: number, dtype: Dtype): Values {
  const values = new Float32Array(length)
  fillNormal(values, 7, 1, 1)
  return dtype === "bf16" ? toBf16(values) : values
}

const bits = (values: Values, columns: number, from: number, to: number): string =>
  Buffer.from(values.slice(from * columns, to * columns).buffer).toString("hex")

const scale = 0.3
const pageSize = 16
const pages = Int32Array.from({ length: 136 }, (_, i) => (i * 7) % 136)

const CHUNKS = [[150], [1, 63, 1, 1, 65, 17, 1, 1], [64, 0, 64, 22]]
const SHAPES = [
  { heads: { nHead: 2, nKvHead: 1, headDim: 20 }, T: 150, chunkings: CHUNKS },
  { heads: { nHead: 3, nKvHead: 3, headDim: 24 }, T: 150, chunkings: CHUNKS },
  { heads: { nHead: 3, nKvHead: 1, headDim: 72 }, T: 150, chunkings: CHUNKS },
  { heads: { nHead: 1, nKvHead: 1, headDim: 8 }, T: 1088, chunkings: [[1023, 1, 1, 62, 1]] },
]
for (const { heads, T, chunkings } of SHAPES) {
  for (const dtype of ["f32", "bf16"] as const) {
    const { nHead, nKvHead, headDim } = heads
    const [width, columns] = [(nHead + 2 * nKvHead) * headDim, nHead * headDim]
    withGpu(
      `training, prefill in chunks and decode give the same bits, ${nHead} heads on ${nKvHead} of ${headDim}, ${T} positions, ${dtype}`,
      () => {
        const two = random(2 * T * width, dtype)
        const whole = (qkv: Values, rows: number) =>
          run({ qkv }, {}, (t) =>
            keep(t, attention({ qkv: t.state("qkv", dtype, [rows, width]) }, { ...heads, T, scale, dropout: 0, site: 0 }).y),
          ).y as Values
        const want = whole(two, 2 * T)
        const qkv = two.slice(T * width)
        expect(bits(whole(qkv, T), columns, 0, T)).toBe(bits(want, columns, T, 2 * T))
        for (const chunks of chunkings) {
          let kept: Record<string, Values> = {}
          let done = 0
          for (const count of chunks) {
            const rows = Math.max(1, count)
            const chunk = dtype === "bf16" ? new Uint16Array(2 * rows * width) : new Float32Array(2 * rows * width)
            chunk.set(qkv.subarray(done * width, (done + count) * width), rows * width) // the second sequence of two
            const { kPages, vPages } = kept
            const after = run(
              { qkv: chunk, ...(kPages === undefined || vPages === undefined ? {} : { kPages, vPages }) },
              { pages, lengths: Int32Array.of(0, done), counts: Int32Array.of(0, count) },
              (t) => {
                const cache = [136, nKvHead, pageSize, headDim]
                const inputs = {
                  qkv: t.state("qkv", dtype, [2 * rows, width]),
                  kPages: t.state("kPages", dtype, cache),
                  vPages: t.state("vPages", dtype, cache),
                  pages: t.input("pages", "i32", [2, 68]),
                  lengths: t.input("lengths", "i32", [2]),
                  counts: t.input("counts", "i32", [2]),
                }
                keep(t, attentionCached(inputs, { ...heads, T: rows, scale, pageSize }).y)
              },
            )
            const y = after.y as Values
            expect(bits(y, columns, rows, rows + count)).toBe(bits(want, columns, T + done, T + done + count))
            expect(y.slice(0, rows * columns).every((value) => value === 0)).toBe(true)
            kept = after
            done += count
          }
        }
      },
      300_000,
    )
  }
}
