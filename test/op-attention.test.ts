/** Known answers of attention from PyTorch 2.13 (scaled_dot_product_attention, causal, f64), and bits that do not depend on company. */
import { expect, test } from "bun:test"
import { fillNormal } from "../src/base-random.ts"
import { openCpu } from "../src/cpu.ts"
import { attention, attentionBackward, attentionCached } from "../src/op.ts"
import { plan, type Tracer, trace } from "../src/program.ts"
import type { Dtype, Tensor } from "../src/tensor.ts"
import { evaluate, expectValues } from "./op-evaluate.ts"
import { toBf16 } from "./support.ts"

const plain = { dropout: 0, site: 0 }

/** qkv[i] = sin(1 + 3i), dy[i] = cos(2i). */
function known(rows: number, heads: { nHead: number; nKvHead: number; headDim: number }, T: number) {
  const { nHead, nKvHead, headDim } = heads
  const matrix = (columns: number, f: (i: number) => number) =>
    Array.from({ length: rows }, (_, r) => Array.from({ length: columns }, (_, c) => f(r * columns + c)))
  const given = {
    qkv: matrix((nHead + 2 * nKvHead) * headDim, (i) => Math.sin(1 + 3 * i)),
    dy: matrix(nHead * headDim, (i) => Math.cos(2 * i)),
  }
  const attrs = { ...heads, ...plain, T, scale: 1 / Math.sqrt(headDim) }
  return evaluate(given, ({ qkv, dy }) => {
    const { y, lse } = attention({ qkv }, attrs)
    return { y, dqkv: attentionBackward({ qkv, y, lse, dy }, attrs).dqkv }
  })
}

test("two query heads on one key head", () => {
  const got = known(3, { nHead: 2, nKvHead: 1, headDim: 2 }, 3)
  expectValues(got.y, [
    ...[0.1498772, -0.008851309, 0.1498772, -0.008851309, -0.4134092, 0.5136872],
    ...[-0.5039509, 0.5976792, -0.7561856, 0.7519669, -0.7599013, 0.7547176],
  ])
  expectValues(got.dqkv, [
    ...[0, 0, 0, 0, -0.04505871, 0.07044848, 0.5152681, 0.2052391],
    ...[0.1142749, -0.110978, 0.1177544, -0.1143571, 0.06229353, -0.08918962, 0.2701258, -0.5179953],
    ...[-0.105893, 0.09713744, 0.08068342, -0.07530264, -0.01723481, 0.01874114, -0.290261, -0.1851987],
  ])
})

test("two sequences of two heads", () => {
  const got = known(4, { nHead: 2, nKvHead: 2, headDim: 3 }, 2)
  expectValues(got.y, [
    ...[
      -0.6435381, 0.7451132, -0.8317747, 0.9017883, -0.9537527, 0.9866276, -0.0984578, 0.02488622, 0.04918346, 0.3062177, -0.286879,
      0.2617984,
    ],
    ...[
      0.4677452, -0.3383334, 0.2021499, -0.06192034, -0.07954854, 0.2194253, -0.6497332, 0.6095685, -0.5572033, 0.5468064, -0.4528645,
      0.3498585,
    ],
  ])
  expectValues(got.dqkv, [
    ...[0, 0, 0, 0, 0, 0, -0.0759146, 0.07539199, -0.07336041, -0.1850377, 0.1720641, -0.1556466],
    ...[
      1.230175, -0.3788495, -0.9148608, 1.34121, 0.08998606, -1.416105, 0.06277011, -0.04365847, 0.023673, 0.008512097, 0.04584824,
      -0.09929092,
    ],
    ...[
      0.0759146, -0.07539199, 0.07336041, 0.1850377, -0.1720641, 0.1556466, 0.6136791, 0.09943992, -0.6964423, 0.2792772, 0.172596,
      -0.4229277,
    ],
    ...[0, 0, 0, 0, 0, 0, 0.0547827, -0.07459921, 0.09292261, 0.02555451, -0.02888921, 0.0316457],
    ...[
      0.4021746, 0.8111524, -1.077292, 0.1171365, 0.9269997, -0.8886724, -0.2946792, 0.2943101, -0.2880504, -0.06448433, 0.06038442,
      -0.05507591,
    ],
    ...[
      -0.0547827, 0.07459921, -0.09292261, -0.02555451, 0.02888921, -0.0316457, -0.1059592, 0.7908405, -0.5522523, -0.3628703, 0.907067,
      -0.3920758,
    ],
  ])
})

const device = openCpu(2)
type Values = Float32Array | Uint16Array
/** Rows [from, to) of `columns` values each, to be compared bit by bit. */
const bits = (values: Values, columns: number, from: number, to: number): string =>
  Buffer.from(values.slice(from * columns, to * columns).buffer).toString("hex")

/** Runs `body` once on states of these values; returns what the states hold afterwards. */
function run(states: Readonly<Record<string, Values>>, inputs: Readonly<Record<string, number | Int32Array>>, body: (t: Tracer) => void) {
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

const heads = { nHead: 4, nKvHead: 2, headDim: 20 }
const width = 160
const scale = 0.3

function random(length: number, dtype: Dtype): Values {
  const values = new Float32Array(length)
  fillNormal(values, 7, 1, 1)
  return dtype === "bf16" ? toBf16(values) : values
}

const whole = (qkv: Values, rows: number, T: number, dtype: Dtype): Values =>
  run({ qkv }, {}, (t) => keep(t, attention({ qkv: t.state("qkv", dtype, [rows, width]) }, { ...heads, ...plain, T, scale }).y)).y as Values

for (const dtype of ["f32", "bf16"] as const) {
  test(`training, prefill in chunks and decode give the same bits, ${dtype}`, () => {
    const T = 150
    const qkv = random(T * width, dtype)
    const want = whole(qkv, T, T, dtype)
    const [pageSize, pages] = [16, Int32Array.from({ length: 20 }, (_, i) => (i * 7) % 20)]
    const cache = [20, heads.nKvHead, pageSize, heads.headDim]
    for (const chunks of [[T], [1, 70, 79], Array.from({ length: T }, () => 1), [64, 0, 64, 22]]) {
      let kept: Record<string, Values> = {}
      let done = 0
      for (const count of chunks) {
        const rows = Math.max(2, count) // one row more than needed in decode
        const chunk = want instanceof Uint16Array ? new Uint16Array(2 * rows * width) : new Float32Array(2 * rows * width)
        chunk.set(qkv.subarray(done * width, (done + count) * width), rows * width) // the second sequence of two
        const { kPages, vPages } = kept
        const after = run(
          { qkv: chunk, ...(kPages === undefined || vPages === undefined ? {} : { kPages, vPages }) },
          {
            pages: Int32Array.from([...pages.slice(10), ...pages.slice(0, 10)]),
            lengths: Int32Array.of(0, done),
            counts: Int32Array.of(0, count),
          },
          (t) => {
            const inputs = {
              qkv: t.state("qkv", dtype, [2 * rows, width]),
              kPages: t.state("kPages", dtype, cache),
              vPages: t.state("vPages", dtype, cache),
              pages: t.input("pages", "i32", [2, 10]),
              lengths: t.input("lengths", "i32", [2]),
              counts: t.input("counts", "i32", [2]),
            }
            keep(t, attentionCached(inputs, { ...heads, T: rows, scale, pageSize }).y)
          },
        )
        const y = after.y as Values
        expect(bits(y, 80, rows, rows + count)).toBe(bits(want, 80, done, done + count))
        expect(y.slice(0, rows * 80).every((x) => x === 0)).toBe(true)
        kept = after
        done += count
      }
    }
  })
}

test("a sequence gives the same bits alone and in a batch", () => {
  const T = 70
  const qkv = random(3 * T * width, "f32")
  const batch = whole(qkv, 3 * T, T, "f32")
  expect(bits(batch, 80, 2 * T, 3 * T)).toBe(bits(whole(qkv.slice(2 * T * width), T, T, "f32"), 80, 0, T))
})

test("a NaN reaches every later position of its sequence and no other sequence", () => {
  const T = 70
  const qkv = random(2 * T * width, "f32")
  const want = whole(qkv, 2 * T, T, "f32")
  const y = whole(qkv.fill(Number.NaN, 5 * width, 6 * width), 2 * T, T, "f32")
  expect([...y.slice(5 * 80, T * 80)].every(Number.isNaN)).toBe(true)
  expect(bits(y, 80, T, 2 * T)).toBe(bits(want, 80, T, 2 * T))
})

test("the dropout of a sequence depends on its place in the global batch only", () => {
  const T = 9
  const qkv = random(2 * T * width, "f32")
  const dropped = (values: Values, rows: number, row: number) =>
    run({ qkv: values }, { seed: 5, step: 2, row }, (t) => {
      const live = { seed: t.live("seed", "i32"), step: t.live("step", "i32"), row: t.live("row", "i32") }
      keep(t, attention({ qkv: t.state("qkv", "f32", [rows, width]), ...live }, { ...heads, T, scale, dropout: 0.4, site: 3 }).y)
    }).y as Values
  const both = dropped(qkv, 2 * T, 4 * T)
  const second = bits(both, 80, T, 2 * T)
  expect(bits(dropped(qkv.slice(T * width), T, 5 * T), 80, 0, T)).toBe(second)
  expect(bits(dropped(qkv.slice(T * width), T, 6 * T), 80, 0, T)).not.toBe(second)
})
