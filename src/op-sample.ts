/** Choosing the next token of every row of logits. */
import { SLICE, STREAM, sampleSlices } from "../shaders/sample.ts"
import { sampleChoose } from "../shaders/sample-choose.ts"
import { uniform } from "./base-random.ts"
import { nativeKernel } from "./native.ts"
import { defineOp } from "./op-define.ts"
import { launch, scratch } from "./op-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, ShapeError, shapeText } from "./tensor.ts"

/** Slices of the vocabulary that the GPU's kernel can look at: as many as its lanes. */
const MOST_SLICES = 1024

const sampleKernel = nativeKernel("sample", {
  logits: "pointer",
  temperature: "pointer",
  topP: "pointer",
  minP: "pointer",
  topK: "pointer",
  seed: "pointer",
  draw: "pointer",
  token: "pointer",
  rows: "int",
  classes: "int",
  allowed: "int",
  stream: "int",
})

export interface SampleAttrs {
  /** Only ids below this are chosen, for models with more rows than their tokenizer has tokens; absent: all. */
  readonly vocabulary?: number
}

const at = (view: View, i: number): number => view.data[i] as number

export const sample = defineOp({
  name: "sample",
  doc: `token (B) i32 of logits z (B, V). Only ids below \`vocabulary\` are chosen. Per row: temperature 0 takes the largest, the lowest id of equals; else
    weights softmax(z/temperature) are cut to the topK largest, to the smallest set of at least topP of what is left (the largest always stays), to those of at
    least minP of the largest, in this order, as transformers does, and one is drawn with uniform(seed, "samp", draw, 0). topK ≥ V, topP = 1, minP = 0 keep all.`,
  inputs: {
    logits: "state",
    temperature: "state",
    topK: "index",
    topP: "state",
    minP: "state",
    seed: "index",
    draw: "index",
  },
  outputs: ["token"],
  attrs: {} as SampleAttrs,
  shape({ logits, temperature, topK, topP, minP, seed, draw }) {
    const B = logits.shape[0] ?? 0
    if (logits.shape.length !== 2 || logits.dtype !== "f32")
      throw new ShapeError(`sample: logits are ${logits.dtype} ${shapeText(logits.shape)}, not f32 (B, V)`)
    for (const [name, t] of Object.entries({ temperature, topK, topP, minP, seed, draw })) expectShape("sample", name, t, [B], "logits")
    return { token: { shape: [B], dtype: "i32" } }
  },
  reference({ logits, temperature, topK, topP, minP, seed, draw }, { token }, { vocabulary }) {
    const [B, V] = logits.shape as readonly [number, number]
    const allowed = Math.min(V, vocabulary ?? V)
    for (let b = 0; b < B; b++) {
      const z = logits.data.subarray(b * V, (b + 1) * V)
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
    }
  },
  cpu: ({ logits, temperature, topK, topP, minP, seed, draw }, { token }, { vocabulary }) =>
    sampleKernel({
      logits,
      temperature,
      topP,
      minP,
      topK,
      seed,
      draw,
      token,
      rows: logits.shape[0] as number,
      classes: logits.shape[1] as number,
      allowed: Math.min(logits.shape[1] as number, vocabulary ?? Number.POSITIVE_INFINITY),
      stream: STREAM,
    }),
  gpu({ logits, temperature, topK, topP, minP, seed, draw }, { token }, { vocabulary }) {
    const [B, V] = logits.shape as readonly [number, number]
    const [allowed, S] = [Math.min(V, vocabulary ?? V), Math.ceil(V / SLICE)]
    if (S > MOST_SLICES) throw new ShapeError(`sample: ${V} classes, more than ${MOST_SLICES * SLICE}`)
    const [z, stats, place] = [scratch("f32", B * S * SLICE), scratch("f32", 2 * B * S), scratch("u32", B * S)]
    const settings = { temperature, topK, topP, minP, seed, draw }
    const scale = 2 ** Math.min(24, Math.floor(32 - Math.log2(V / 31)))
    const numbers = { allowed, S, scale, stream: STREAM }
    return [
      launch(sampleSlices, { logits, temperature, z, stats, place, V, allowed }, [S, B]),
      launch(sampleChoose, { z, stats, place, ...settings, token, ...numbers }, B),
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
    seed: ids(temperature.map((_, b) => 11 + b)),
    draw: ids(temperature.map((_, b) => 3 * b)),
  }
}

export const sampleOps = [sample]
