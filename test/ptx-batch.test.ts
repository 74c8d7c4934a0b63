/** Many sequences through all layers in one launch, run on the CPU instruction by instruction against f64. */
import { expect, test } from "bun:test"
import { batchWork, isBatch, ptxBatch } from "../shaders/ptx-batch.ts"
import { type DecodeStack, LAST, LAYER } from "../shaders/ptx-decode-frame.ts"
import { resolveModel } from "../src/config.ts"
import { createGenerator } from "../src/gpt.ts"
import { schedule } from "../src/gpu-schedule.ts"
import { activate } from "../src/op-activation.ts"
import type { Device, Launch, Plan, Scratch, State, Table } from "../src/program.ts"
import type { PtxKernel } from "../src/ptx.ts"
import { fromBf16, HOPPER, toBf16, uniforms } from "./bf16.ts"
import { runPtxLaunch } from "./ptx-launch.ts"
import type { Timing } from "./ptx-run.ts"

const random = uniforms(5)
const MS = 60_000

/** Runs the stack once for sequences of these lengths (undefined: none), twice where `again`, and compares y and the new keys and values. */
function check(stack: DecodeStack, lengths: readonly (number | undefined)[], timing: Timing): void {
  const { rows, C, F, layers, maxPages, blocks } = stack
  const heads = C / 64
  const bytes = new Map<Scratch, Uint16Array | Float32Array | Int32Array | Uint32Array>()
  const keep = <T extends Uint16Array | Float32Array | Int32Array | Uint32Array>(dtype: Scratch["dtype"], values: T): Scratch => {
    const memory: Scratch = { kind: "scratch", dtype, elements: values.length }
    bytes.set(memory, values)
    return memory
  }
  const numbers = (count: number, factor: number, offset = 0) => Array.from({ length: count }, () => factor * random() + offset)
  const matrix = (N: number, K: number) => keep("bf16", Uint16Array.from(numbers(N * K, 2 / Math.sqrt(K)), toBf16))
  const vector = (count: number, offset = 0) => keep("f32", Float32Array.from(numbers(count, 0.2, offset)))
  const pageCount = rows * maxPages
  const cache = () => {
    const all = new Uint16Array(pageCount * heads * 64 * 64).fill(0x7fc0) // what nobody wrote is no number
    return all
  }
  const pages = Int32Array.from({ length: rows * maxPages }, (_, i) => (i * 7) % pageCount)
  const cells = (kept: Uint16Array) => (b: number, h: number, position: number) => {
    const at = ((pages[b * maxPages + (position >> 6)]! * heads + h) * 64 + (position & 63)) * 64
    return kept.subarray(at, at + 64)
  }
  const made = Array.from({ length: layers }, () => {
    const [k, v] = [cache(), cache()]
    lengths.forEach((length, b) => {
      for (let h = 0; h < heads; h++)
        for (let i = 0; i < (length ?? 0); i++)
          for (const kept of [k, v]) cells(kept)(b, h, i).forEach((_, d, row) => (row[d] = toBf16(random())))
    })
    return {
      ...{ attnNormW: vector(C, 1), attnNormB: vector(C), qkvW: matrix(3 * C, C), qkvB: vector(3 * C) },
      ...{ kPages: keep("bf16", k), vPages: keep("bf16", v), projW: matrix(C, C), projB: vector(C) },
      ...{ mlpNormW: vector(C, 1), mlpNormB: vector(C), upW: matrix(F, C), upB: vector(F), downW: matrix(C, F), downB: vector(C) },
    } as Record<(typeof LAYER)[number], Scratch>
  })
  const last = { normW: vector(C, 1), normB: vector(C) } as Record<(typeof LAST)[number], Scratch>
  const x = keep("f32", Float32Array.from(numbers(rows * C, 1)))
  const y = keep("bf16", new Uint16Array(rows * C).fill(0x7fc0))
  const sync = keep("u32", Uint32Array.of(5 * 7 * layers * blocks, 5))
  const table: Table = {
    kind: "table",
    dtype: "u64",
    values: [...made.flatMap((layer) => LAYER.map((name) => layer[name])), ...LAST.map((name) => last[name])],
  }
  const counts = lengths.map((length) => (length === undefined ? 0 : 1))
  const padded = (values: readonly number[]) => Int32Array.from({ length: rows }, (_, b) => values[b] ?? 0)
  const launch: Launch = {
    kernel: ptxBatch("batch", stack) as unknown as PtxKernel,
    variant: "batch",
    buffers: {
      ...{ table, sync, work: keep("f32", new Float32Array(batchWork(stack).bytes / 4).fill(Number.NaN)), x, y },
      pages: keep("i32", pages),
      lengths: keep("i32", padded(lengths.map((length) => length ?? 0))),
      counts: keep("i32", padded(counts)),
    },
    ...{ push: {}, params: {}, constants: {}, groups: [blocks, 1, 1] },
  }
  const wanted = reference()
  runPtxLaunch(launch, (memory) => new Uint8Array(bytes.get(memory as Scratch)!.buffer as ArrayBuffer), Number, timing)
  const got = bytes.get(y)!
  let worst = 0
  wanted.y.forEach((row, b) => row?.forEach((value, c) => (worst = Math.max(worst, Math.abs(value - fromBf16(got[b * C + c]!))))))
  expect(worst).toBeLessThan(0.06)
  for (const [layer, own] of wanted.cache.entries())
    for (const { b, h, key, value } of own)
      for (const [name, row] of [
        ["kPages", key],
        ["vPages", value],
      ] as const) {
        const seen = cells(bytes.get(made[layer]![name]) as Uint16Array)(b, h, lengths[b]!)
        expect(Math.max(...row.map((one, d) => Math.abs(one - fromBf16(seen[d]!))))).toBeLessThan(0.06)
      }
  expect([...bytes.get(sync)!]).toEqual([6 * 7 * layers * blocks, 6])

  /** Everything in f64, with the roundings of what is kept in bf16. */
  function reference() {
    const f32 = (memory: Scratch) => bytes.get(memory) as Float32Array
    const bf = (value: number) => fromBf16(toBf16(value))
    const normed = (row: readonly number[], w: Scratch, b: Scratch) => {
      const mean = row.reduce((a, one) => a + one, 0) / C
      const scale = 1 / Math.sqrt(row.reduce((a, one) => a + (one - mean) ** 2, 0) / C + stack.eps)
      return row.map((one, i) => bf((one - mean) * scale * f32(w)[i]! + (stack.hasBias ? f32(b)[i]! : 0)))
    }
    const times = (row: readonly number[], w: Scratch, b: Scratch, N: number) => {
      const weights = Float64Array.from(bytes.get(w)!, fromBf16)
      return Array.from({ length: N }, (_, n) =>
        row.reduce((a, one, i) => a + one * weights[n * row.length + i]!, stack.hasBias ? f32(b)[n]! : 0),
      )
    }
    const cache: { b: number; h: number; key: number[]; value: number[] }[][] = made.map(() => [])
    const out = lengths.map((length, b) => {
      if (length === undefined) return undefined
      let stream = [...f32(x).subarray(b * C, (b + 1) * C)]
      made.forEach((layer, l) => {
        const qkv = times(normed(stream, layer.attnNormW, layer.attnNormB), layer.qkvW, layer.qkvB, 3 * C)
        const attended: number[] = []
        for (let h = 0; h < heads; h++) {
          const part = (i: number) => qkv.slice(i * C + 64 * h, i * C + 64 * (h + 1))
          const [q, key, value] = [part(0), part(1).map(bf), part(2).map(bf)]
          cache[l]!.push({ b, h, key, value })
          const of = (name: "kPages" | "vPages", own: number[]) => [
            ...Array.from({ length }, (_, i) => Array.from(cells(bytes.get(layer[name]) as Uint16Array)(b, h, i), fromBf16)),
            own,
          ]
          const [keys, values] = [of("kPages", key), of("vPages", value)]
          const weights = keys.map((one) => Math.exp(stack.scale * one.reduce((a, k, d) => a + k * q[d]!, 0)))
          const sum = weights.reduce((a, one) => a + one, 0)
          for (let d = 0; d < 64; d++) attended.push(bf(values.reduce((a, one, i) => a + (weights[i]! / sum) * one[d]!, 0)))
        }
        const proj = times(attended, layer.projW, layer.projB, C)
        stream = stream.map((one, i) => one + proj[i]!)
        const up = times(normed(stream, layer.mlpNormW, layer.mlpNormB), layer.upW, layer.upB, F)
        const down = times(
          up.map((one) => bf(activate(stack.activation, one))),
          layer.downW,
          layer.downB,
          C,
        )
        stream = stream.map((one, i) => one + down[i]!)
      })
      return normed(stream, last.normW, last.normB)
    })
    return { y: out, cache }
  }
}

const small: DecodeStack = {
  ...{
    rows: 32,
    C: 384,
    F: 384,
    layers: 2,
    activation: "gelu_tanh",
    scale: 0.125,
    eps: 1e-5,
    hasBias: true,
    maxPages: 3,
    blocks: 20,
    classes: 0,
  },
}

test(
  "32 rows, lengths around chunks and pages, some rows empty",
  () => {
    const lengths = [0, 1, 31, 32, 33, 63, 64, 65, 95, 127, 128, 130, undefined, 7, undefined, 100, 3, 5]
    check(small, lengths, "random")
  },
  MS,
)

test(
  "8 rows, half a strip",
  () => check({ ...small, rows: 8, C: 768, F: 768, layers: 1, blocks: 12 }, [40, 0, undefined, 64, 5, 31, 127], "late"),
  MS,
)

test("a step of 17 to 64 sequences by a model of the GPT-2 family has its layers in one launch where generation asks for it", () => {
  const kindsOf = (rows: number, order?: "layers") => {
    const plans: Plan[] = []
    const device = {
      ahead: 0,
      compile(plan: Plan) {
        plans.push(plan)
        throw new Error("enough")
      },
    } as unknown as Device
    const sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }
    const model = resolveModel({ vocabSize: 50257, blockSize: 1024, nLayer: 12, nHead: 12, nEmbd: 768 })
    const options = { precision: "bf16", slots: rows, length: 1024, vocabulary: 50257, order } as const
    const generator = createGenerator(device, undefined as unknown as State, model, options)
    expect(() => generator.decode(Array.from({ length: rows }, (_, slot) => ({ slot, id: 0, sampling, draw: 0 })))).toThrow("enough")
    const { steps } = schedule(plans[0]!, { ...HOPPER, units: 132, stacks: true })
    return steps
      .flat()
      .map(({ launch: { kernel, variant } }) => ("text" in kernel ? (/one token of \d+/.exec(kernel.text)?.[0] ?? variant) : variant))
  }
  expect(kindsOf(20, "layers").filter((kind) => kind?.startsWith("one"))).toEqual(["one token of 32"])
  expect(kindsOf(64, "layers").filter((kind) => kind?.startsWith("one"))).toEqual(["one token of 64"])
  expect(kindsOf(64, "layers").length).toBeLessThan(8)
  expect(kindsOf(64).length).toBeGreaterThan(80)
})

test("sizes that the kernel does not do are refused", () => {
  expect(isBatch(small)).toBe(true)
  expect(isBatch({ ...small, C: 320 })).toBe(false)
  expect(isBatch({ ...small, rows: 128 })).toBe(false)
  expect(isBatch({ ...small, maxPages: 200 })).toBe(false)
})
