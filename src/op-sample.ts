/** Choosing the next token of every row of logits. */
import { SLICE, sampleSlices } from "../shaders/sample.ts"
import { sampleChoose } from "../shaders/sample-choose.ts"
import { uniform } from "./base-random.ts"
import { nativeKernel } from "./native.ts"
import { defineOp } from "./op-define.ts"
import { launch, scratch } from "./op-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, ShapeError, shapeText } from "./tensor.ts"

/** Random stream of sampling, apart from every dropout site. */
const STREAM = 0x73616d70
/** Slices of the vocabulary that the GPU's kernel can look at: as many as its lanes. */
const MOST_SLICES = 1024

const sampleKernel = nativeKernel("sample", {
  logits: "pointer",
  temperature: "pointer",
  topP: "pointer",
  minP: "pointer",
  penalty: "pointer",
  topK: "pointer",
  seed: "pointer",
  draw: "pointer",
  history: "pointer",
  lengths: "pointer",
  token: "pointer",
  logprob: "pointer",
  rows: "int",
  classes: "int",
  allowed: "int",
  longest: "int",
  stream: "int",
})

export interface SampleAttrs {
  /** Only ids below this are chosen, for models with more rows than their tokenizer has tokens; absent: all. */
  readonly vocabulary?: number
}

const at = (view: View, i: number): number => view.data[i] as number

export const sample = defineOp({
  name: "sample",
  doc: `token (B) i32 of logits (B, V), logprob (B) = ln softmax(logits)[token]. Only ids below \`vocabulary\` are chosen. Per row: logits of tokens in
    history[b, : lengths[b]] are divided by repetitionPenalty where positive, else multiplied (arXiv:1909.05858); temperature 0 takes the largest, the lowest id
    of equals; else weights softmax(z/temperature) are cut to the topK largest, to the smallest set of at least topP of what is left (the largest always stays),
    to those of at least minP of the largest, in this order, as transformers does, and one is drawn with uniform(seed, "samp", draw, 0). topK ≥ V, topP = 1,
    minP = 0 keep all.`,
  inputs: {
    logits: "state",
    temperature: "state",
    topK: "index",
    topP: "state",
    minP: "state",
    repetitionPenalty: "state",
    seed: "index",
    draw: "index",
    history: "index?",
    lengths: "index?",
  },
  outputs: ["token", "logprob"],
  attrs: {} as SampleAttrs,
  shape({ logits, temperature, topK, topP, minP, repetitionPenalty, seed, draw, history, lengths }) {
    const B = logits.shape[0] ?? 0
    if (logits.shape.length !== 2 || logits.dtype !== "f32")
      throw new ShapeError(`sample: logits are ${logits.dtype} ${shapeText(logits.shape)}, not f32 (B, V)`)
    for (const [name, t] of Object.entries({ temperature, topK, topP, minP, repetitionPenalty, seed, draw }))
      expectShape("sample", name, t, [B], "logits")
    if ((history === undefined) !== (lengths === undefined)) throw new ShapeError("sample: history and lengths come together")
    if (history !== undefined && lengths !== undefined) {
      expectShape("sample", "history", history, [B, history.shape[1] ?? 0], "logits")
      expectShape("sample", "lengths", lengths, [B], "logits")
    }
    return { token: { shape: [B], dtype: "i32" }, logprob: { shape: [B], dtype: "f32" } }
  },
  reference(
    { logits, temperature, topK, topP, minP, repetitionPenalty, seed, draw, history, lengths },
    { token, logprob },
    { vocabulary },
  ) {
    const [B, V] = logits.shape as readonly [number, number]
    const allowed = Math.min(V, vocabulary ?? V)
    for (let b = 0; b < B; b++) {
      const raw = Array.from(logits.data.subarray(b * V, (b + 1) * V))
      const longest = history?.shape[1] ?? 0
      const used = new Set(
        history === undefined ? [] : history.data.subarray(b * longest, b * longest + Math.min(longest, at(lengths as View, b))),
      )
      const penalty = at(repetitionPenalty, b)
      const z = raw.map((value, v) => (!used.has(v) ? value : value > 0 ? value / penalty : value * penalty))
      let order = Array.from({ length: allowed }, (_, v) => v).sort((a, b) => (z[b] as number) - (z[a] as number) || a - b)
      let id = order[0] as number
      if (at(temperature, b) > 0) {
        const top = z[id] as number
        const weight = (v: number): number => Math.exp(((z[v] as number) - top) / at(temperature, b))
        const total = (ids: readonly number[]): number => ids.reduce((sum, v) => sum + weight(v), 0)
        order = order.slice(0, Math.max(1, at(topK, b)))
        const limit = at(topP, b) * total(order)
        if (at(topP, b) < 1) order = order.filter((_, i) => i === 0 || total(order.slice(0, i)) < limit)
        else if (at(topK, b) >= allowed) order.sort((a, b) => a - b)
        order = order.filter((v) => weight(v) >= at(minP, b))
        const target = uniform(at(seed, b), STREAM, at(draw, b), 0) * total(order)
        id = order.find((_, i) => total(order.slice(0, i + 1)) > target) ?? (order.at(-1) as number)
      }
      token.data[b] = id
      const max = Math.max(...raw)
      if (logprob !== undefined)
        logprob.data[b] = (raw[id] as number) - max - Math.log(raw.reduce((sum, value) => sum + Math.exp(value - max), 0))
    }
  },
  cpu: ({ logits, temperature, topK, topP, minP, repetitionPenalty, seed, draw, history, lengths }, { token, logprob }, { vocabulary }) =>
    sampleKernel({
      logits,
      temperature,
      topP,
      minP,
      penalty: repetitionPenalty,
      topK,
      seed,
      draw,
      history,
      lengths,
      token,
      logprob,
      rows: logits.shape[0] as number,
      classes: logits.shape[1] as number,
      allowed: Math.min(logits.shape[1] as number, vocabulary ?? Number.POSITIVE_INFINITY),
      longest: history?.shape[1] ?? 0,
      stream: STREAM,
    }),
  gpu({ logits, temperature, topK, topP, minP, repetitionPenalty, seed, draw, history, lengths }, { token, logprob }, { vocabulary }) {
    const [B, V] = logits.shape as readonly [number, number]
    const [allowed, S] = [Math.min(V, vocabulary ?? V), Math.ceil(V / SLICE)]
    if (S > MOST_SLICES) throw new ShapeError(`sample: ${V} classes, more than ${MOST_SLICES * SLICE}`)
    const [z, stats, place] = [scratch("f32", B * S * SLICE), scratch("f32", 4 * B * S), scratch("u32", B * S)]
    const longest = history?.shape[1] ?? 0
    const slices = { logits, temperature, penalty: repetitionPenalty, history, lengths, z, stats, place, V, allowed, longest }
    const settings = { temperature, topK, topP, minP, seed, draw }
    const scale = 2 ** Math.min(24, Math.floor(32 - Math.log2(V / 31)))
    const numbers = { V, allowed, S, scale, stream: STREAM, wantsLogprob: logprob === undefined ? 0 : 1 }
    return [
      launch(sampleSlices, slices, [S, B]),
      launch(sampleChoose, { logits, z, stats, place, ...settings, token, logprob, ...numbers }, B),
    ]
  },
  cases: [
    { inputs: settings(1, 1, [1]), about: "one class" },
    { inputs: settings(4, 65, [0, 1, 0.5, 2]), about: "plain" },
    { inputs: { ...settings(3, 100, [0.8, 1, 3]), topK: ids([1, 5, 99]) }, about: "top k" },
    { inputs: { ...settings(4, 300, [1, 1, 0.3, 5]), topP: numbers([0.01, 0.5, 0.9, 0.99]) }, about: "top p" },
    {
      inputs: { ...settings(3, 70, [1, 1, 1]), minP: numbers([0.2, 0.01, 1]), topP: numbers([1, 0.9, 1]), topK: ids([70, 70, 20]) },
      about: "min p",
    },
    {
      inputs: {
        ...settings(3, 20, [0, 0, 1]),
        repetitionPenalty: numbers([5, 1, 1.3]),
        history: { shape: [3, 30], from: 0, below: 20 },
        lengths: ids([30, 30, 7]),
      },
      about: "repetition penalty",
    },
    {
      inputs: { ...settings(2, 5, [0, 0]), logits: { shape: [2, 5], values: [1, 3, 3, 2, 3, -1, -2, -1, -3, -4] } },
      about: "equal logits",
    },
    {
      inputs: {
        ...settings(4, 2500, [0, 0.7, 1, 1]),
        topK: ids([1, 50, 2500, 2500]),
        topP: numbers([1, 0.8, 0.5, 1]),
        repetitionPenalty: numbers([9, 1, 1.2, 1]),
        history: { shape: [4, 40], from: 1000, below: 2500 },
        lengths: ids([40, 0, 3, 40]),
      },
      about: "several slices of the vocabulary",
    },
    {
      inputs: {
        ...settings(3, 60, [0, 1, 4]),
        topP: numbers([1, 1, 0.9]),
        logits: { shape: [3, 60], values: Array.from({ length: 180 }, (_, i) => (i % 60) / 10) },
      },
      attrs: { vocabulary: 41 },
      about: "fewer tokens than classes",
    },
  ],
})

function numbers(values: readonly number[]) {
  return { shape: [values.length], values, dtype: "f32" } as const
}
function ids(values: readonly number[]) {
  return { shape: [values.length], values } as const
}

/** Inputs of a case that keeps every token: B rows of V random logits. */
function settings(B: number, V: number, temperature: readonly number[]) {
  const each = (value: number) => temperature.map(() => value)
  return {
    logits: [B, V],
    temperature: numbers(temperature),
    topK: ids(each(V)),
    topP: numbers(each(1)),
    minP: numbers(each(0)),
    repetitionPenalty: numbers(each(1)),
    seed: ids(temperature.map((_, b) => 11 + b)),
    draw: ids(temperature.map((_, b) => 3 * b)),
  }
}

export const sampleOps = [sample]
