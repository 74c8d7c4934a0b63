/** Checks of the kernels that take a token of some sequences through all layers: run on the CPU instruction by instruction, against f64. */
import { expect } from "bun:test"
import { type DecodeStack, LAST, LAYER } from "../shaders/ptx-decode-frame.ts"
import { activate } from "../src/op-activation.ts"
import type { Launch, Scratch, Table } from "../src/program.ts"
import type { PtxKernel } from "../src/ptx.ts"
import { fromBf16, toBf16, uniforms } from "./bf16.ts"
import { checkChoice } from "./ptx-choice.ts"
import { runPtxLaunch } from "./ptx-launch.ts"
import type { Timing } from "./ptx-run.ts"

/** Tokens, and positions, that there are embeddings for. */
const TOKENS = 50

/** A kernel of a stack, the bytes of its work memory, and its counters before a launch and after. */
export interface StackKernel {
  readonly make: (name: string, stack: DecodeStack) => unknown
  readonly bytes: (stack: DecodeStack) => number
  readonly counters: (stack: DecodeStack, launches: number) => readonly number[]
}

/**
 * Runs the stack once, from x or from embeddings on, for sequences of these lengths (undefined: none), and compares y or logits and the new keys and
 * values with f64. Returns the rows of y or logits; what a sequence begins with depends on its row and length alone.
 */
export function checkStack(
  kernel: StackKernel,
  stack: DecodeStack,
  lengths: readonly (number | undefined)[],
  timing: Timing,
): readonly (Uint16Array | Float32Array)[] {
  const { rows, C, F, layers, maxPages, blocks, classes } = stack
  const heads = C / 64
  const random = uniforms(5)
  const ofRow = Array.from({ length: rows }, (_, b) => uniforms(1000 * b))
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
          for (const kept of [k, v]) cells(kept)(b, h, i).forEach((_, d, row) => (row[d] = toBf16(ofRow[b]!())))
    })
    return {
      ...{ attnNormW: vector(C, 1), attnNormB: vector(C), qkvW: matrix(3 * C, C), qkvB: vector(3 * C) },
      ...{ kPages: keep("bf16", k), vPages: keep("bf16", v), projW: matrix(C, C), projB: vector(C) },
      ...{ mlpNormW: vector(C, 1), mlpNormB: vector(C), upW: matrix(F, C), upB: vector(F), downW: matrix(C, F), downB: vector(C) },
    } as Record<(typeof LAYER)[number], Scratch>
  })
  const tables = stack.embeds === true ? { wte: matrix(TOKENS, C), wpe: vector(TOKENS * C) } : undefined
  const head = classes > 0 ? { headW: matrix(classes, C) } : undefined
  const last = { normW: vector(C, 1), normB: vector(C), ...head, ...tables } as Record<(typeof LAST)[number], Scratch>
  const some = (step: number) => Int32Array.from({ length: rows }, (_, b) => (step * b + 5) % TOKENS)
  const given = { tokens: keep("i32", some(7)), positions: keep("i32", some(3)) }
  const x = keep(
    "f32",
    Float32Array.from({ length: rows * C }, (_, i) => ofRow[Math.floor(i / C)]!()),
  )
  if (tables !== undefined)
    bytes.get(x)!.forEach((_, i, all) => {
      const [b, c] = [Math.floor(i / C), i % C]
      const [token, position] = [given.tokens, given.positions].map((one) => bytes.get(one)![b]!) as [number, number]
      all[i] = fromBf16(bytes.get(tables.wte)![token * C + c]!) + bytes.get(tables.wpe)![position * C + c]!
    })
  const width = classes > 0 ? classes : C
  const out =
    classes > 0 ? keep("f32", new Float32Array(rows * width).fill(Number.NaN)) : keep("bf16", new Uint16Array(rows * width).fill(0x7fc0))
  // one row greedy, one plain, one cut, one all of these
  const every = (...values: readonly number[]) => Int32Array.from({ length: rows }, (_, b) => values[b % values.length]!)
  const settings = {
    temperature: keep("f32", Float32Array.from(every(0, 1, 2, 1))),
    ...{
      topK: keep("i32", every(classes, classes, 7, 20)),
      topP: keep(
        "f32",
        Float32Array.from(every(1), (one, b) => one - (b % 4) / 10),
      ),
    },
    ...{ minP: keep("f32", new Float32Array(rows)), seed: keep("i32", every(1, 2, 3)), draw: keep("i32", every(4, 5)) },
  }
  const chosen = { token: keep("i32", every(-1)), logprob: keep("f32", new Float32Array(rows).fill(Number.NaN)) }
  const told = { toldToken: keep("i32", every(-1)), toldLogprob: keep("f32", new Float32Array(rows).fill(Number.NaN)) }
  const sync = keep("u32", Uint32Array.from(kernel.counters(stack, 5)))
  const table: Table = {
    kind: "table",
    dtype: "u64",
    values: [...made.flatMap((layer) => LAYER.map((name) => layer[name])), ...LAST.map((name) => last[name])],
  }
  const counts = lengths.map((length) => (length === undefined ? 0 : 1))
  const padded = (values: readonly number[]) => Int32Array.from({ length: rows }, (_, b) => values[b] ?? 0)
  const launch: Launch = {
    kernel: kernel.make("stack", stack) as PtxKernel,
    variant: "stack",
    buffers: {
      ...{ table, sync, work: keep("f32", new Float32Array(kernel.bytes(stack) / 4).fill(Number.NaN)) },
      ...(classes > 0 ? { logits: out } : { y: out }),
      ...(stack.allowed === undefined ? {} : { ...settings, ...chosen, ...told }),
      ...(tables === undefined ? { x } : given),
      pages: keep("i32", pages),
      lengths: keep("i32", padded(lengths.map((length) => length ?? 0))),
      counts: keep("i32", padded(counts)),
    },
    ...{ push: {}, params: {}, constants: {}, groups: [blocks, 1, 1] },
  }
  const wanted = reference()
  runPtxLaunch(launch, (memory) => new Uint8Array(bytes.get(memory as Scratch)!.buffer as ArrayBuffer), Number, timing)
  const got = bytes.get(out) as Uint16Array | Float32Array
  const seenAs = (one: number) => (classes > 0 ? one : fromBf16(one))
  const far = wanted.out.flatMap((row, b) => row?.map((value, c) => Math.abs(value - seenAs(got[b * width + c]!))) ?? [])
  expect(far.reduce((most, one) => Math.max(most, one), 0)).toBeLessThan(0.06)
  for (const [layer, own] of wanted.cache.entries())
    for (const { b, h, key, value } of own)
      for (const [name, row] of [
        ["kPages", key],
        ["vPages", value],
      ] as const) {
        const seen = cells(bytes.get(made[layer]![name]) as Uint16Array)(b, h, lengths[b]!)
        expect(Math.max(...row.map((one, d) => Math.abs(one - fromBf16(seen[d]!))))).toBeLessThan(0.06)
      }
  expect([...bytes.get(sync)!]).toEqual([...kernel.counters(stack, 6)])
  const chosenIn = (...memories: readonly Scratch[]) => memories.map((memory) => [...bytes.get(memory)!])
  expect(chosenIn(told.toldToken, told.toldLogprob)).toEqual(chosenIn(chosen.token, chosen.logprob))
  const found = Array.from({ length: rows }, (_, b) => got.slice(b * width, (b + 1) * width))
  const of = (memory: Scratch, b: number) => bytes.get(memory)![b]!
  found.forEach((row, b) => {
    if (stack.allowed === undefined || lengths[b] === undefined) return
    const names = Object.keys(settings) as (keyof typeof settings)[]
    const own = Object.fromEntries(names.map((name) => [name, of(settings[name], b)])) as Record<(typeof names)[number], number>
    checkChoice({ ...own, logits: row }, stack.allowed, of(chosen.token, b), of(chosen.logprob, b))
  })
  return found

  /** Everything in f64, with the roundings of what is kept in bf16. */
  function reference() {
    const f32 = (memory: Scratch) => bytes.get(memory) as Float32Array
    const bf = (value: number) => fromBf16(toBf16(value))
    const normed = (row: readonly number[], w: Scratch, b: Scratch) => {
      const mean = row.reduce((a, one) => a + one, 0) / C
      const scale = 1 / Math.sqrt(row.reduce((a, one) => a + (one - mean) ** 2, 0) / C + stack.eps)
      return row.map((one, i) => bf((one - mean) * scale * f32(w)[i]! + (stack.hasBias ? f32(b)[i]! : 0)))
    }
    const times = (row: readonly number[], w: Scratch, b: Scratch | undefined, N: number) => {
      const weights = Float64Array.from(bytes.get(w)!, fromBf16)
      const first = (n: number) => (stack.hasBias && b !== undefined ? f32(b)[n]! : 0)
      return Array.from({ length: N }, (_, n) => row.reduce((a, one, i) => a + one * weights[n * row.length + i]!, first(n)))
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
      const y = normed(stream, last.normW, last.normB)
      return head === undefined ? y : times(y, head.headW, undefined, classes)
    })
    return { out, cache }
  }
}
