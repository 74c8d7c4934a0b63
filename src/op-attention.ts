/** Causal self-attention of whole sequences, forward and backward, without a (T, T) matrix. */
import { uniform } from "./base-random.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import type { View } from "./program.ts"
import { expectShape, lastDim, rows, ShapeError, type Tensor } from "./tensor.ts"

/** How the columns of qkv are laid out: nHead query heads, nKvHead key heads, nKvHead value heads, headDim columns each. */
export interface Heads {
  readonly nHead: number
  readonly nKvHead: number
  readonly headDim: number
}

export interface AttentionAttrs extends Heads {
  /** Rows per sequence: row r is position r mod T of sequence ⌊r/T⌋. */
  readonly T: number
  /** Factor of q·k, usually 1/√headDim. */
  readonly scale: number
  /** Probability in [0, 1) that a weight is dropped; above 0 it needs seed, step, row. */
  readonly dropout: number
  /** Tells apart the dropouts of a model. */
  readonly site: number
}

const forwardKernel = nativeKernel("attention", {
  qkv: "pointer",
  seed: "pointer",
  step: "pointer",
  row: "pointer",
  y: "pointer",
  lse: "pointer",
  batch: "int",
  T: "int",
  heads: "int",
  keyHeads: "int",
  D: "int",
  type: "int",
  scale: "float",
  dropout: "float",
  site: "int",
  threshold: "int",
})
const backwardKernel = nativeKernel("attention_backward", {
  qkv: "pointer",
  y: "pointer",
  lse: "pointer",
  dy: "pointer",
  seed: "pointer",
  step: "pointer",
  row: "pointer",
  dqkv: "pointer",
  batch: "int",
  T: "int",
  heads: "int",
  keyHeads: "int",
  D: "int",
  type: "int",
  scale: "float",
  dropout: "float",
  site: "int",
  threshold: "int",
})

/** Throws unless qkv's rows and columns fit the heads. */
export function checkHeads(name: string, qkv: Tensor, { nHead, nKvHead, headDim }: Heads, T: number): void {
  if (nHead % nKvHead !== 0) throw new ShapeError(`${name}: ${nHead} query heads cannot share ${nKvHead} key heads`)
  expectShape(name, "qkv", qkv, [...qkv.shape.slice(0, -1), (nHead + 2 * nKvHead) * headDim], `${nHead} + 2·${nKvHead} heads of ${headDim}`)
  if (rows(qkv) % T !== 0) throw new ShapeError(`${name}: qkv has ${rows(qkv)} rows, not a multiple of T ${T}`)
}

/** Shape of y beside qkv. */
export const headsShape = (qkv: Tensor, { nHead, headDim }: Heads): number[] => [...qkv.shape.slice(0, -1), nHead * headDim]

function sizes(qkv: Tensor, { T, nHead, nKvHead, headDim, scale, dropout, site }: AttentionAttrs) {
  return {
    batch: rows(qkv) / T,
    T,
    heads: nHead,
    keyHeads: nKvHead,
    D: headDim,
    type: typeOf(qkv),
    scale,
    dropout,
    site,
    threshold: Math.ceil(dropout * 2 ** 24),
  }
}

interface Counters<T> {
  readonly seed: T | undefined
  readonly step: T | undefined
  readonly row: T | undefined
}

function checkCounters(name: string, { seed, step, row }: Counters<Tensor>, { dropout }: AttentionAttrs): void {
  for (const [key, t] of Object.entries({ seed, step, row })) {
    if (dropout > 0 && t?.dtype !== "i32")
      throw new ShapeError(`${name}: dropout ${dropout} needs ${key} () i32, got ${t?.dtype ?? "nothing"}`)
  }
}

const at = (view: View, i: number): number => view.data[i] as number

/** Elements of one head's rows: q(i, d), k(j, d), v(j, d) as offsets into qkv, o(i, d) into y. */
export function offsets({ nHead, nKvHead, headDim: D }: Heads, T: number, b: number, h: number) {
  const width = (nHead + 2 * nKvHead) * D
  const keyHead = nHead + Math.floor((h * nKvHead) / nHead)
  return {
    q: (i: number, d: number) => (b * T + i) * width + h * D + d,
    k: (j: number, d: number) => (b * T + j) * width + keyHead * D + d,
    v: (j: number, d: number) => (b * T + j) * width + (keyHead + nKvHead) * D + d,
    o: (i: number, d: number) => ((b * T + i) * nHead + h) * D + d,
  }
}

/** Σ over d < D. */
export function sumOver(D: number, term: (d: number) => number): number {
  let sum = 0
  for (let d = 0; d < D; d++) sum += term(d)
  return sum
}

/** Calls `visit` for every head of every sequence. */
function eachHead(qkv: View, { T, nHead }: AttentionAttrs, visit: (b: number, h: number) => void): void {
  for (let b = 0; b < rows(qkv) / T; b++) for (let h = 0; h < nHead; h++) visit(b, h)
}

/** Factor of the weight of key j for query i: 0 or 1/(1 − p) under dropout, 1 without. */
function keepFactor(
  { seed, step, row }: Counters<View>,
  { T, nHead, dropout, site }: AttentionAttrs,
  b: number,
  h: number,
  i: number,
  j: number,
): number {
  if (dropout === 0 || seed === undefined || step === undefined || row === undefined) return 1
  const sample = b + Math.floor(at(row, 0) / T)
  return uniform(at(seed, 0), site, at(step, 0), ((sample * nHead + h) * T + i) * T + j) < dropout ? 0 : 1 / (1 - dropout)
}

const scalar = (value: number) => ({ shape: [], dtype: "i32", values: [value] }) as const
const counters = { seed: scalar(77), step: scalar(3), row: scalar(1000) }
const plain = { dropout: 0, site: 0 }

export const attention = defineOp({
  name: "attention",
  doc: `y[i] = Σ over j ≤ i of keep·softmax(scale·q[i]·k[j])·v[j] per sequence and head; keep is 1, or with dropout p: u < p ? 0 : 1/(1 − p),
    u = uniform(seed, site, step, ((sample·H + h)·T + i)·T + j), sample = ⌊row/T⌋ + b. Query head h reads key head ⌊h·K/H⌋.
    qkv (R, (H + 2K)·D), y (R, H·D), lse (R, H) f32 = ln Σ e^score, kept for backward. 2·R·T·H·D FLOPs. Dao et al. 2022, arXiv:2205.14135.`,
  inputs: { qkv: "grad", seed: "scalar?", step: "scalar?", row: "scalar?" },
  outputs: ["y", "lse"],
  attrs: {} as AttentionAttrs,
  act: ["qkv"],
  shape({ qkv, ...live }, attrs) {
    checkHeads("attention", qkv, attrs, attrs.T)
    checkCounters("attention", live, attrs)
    return {
      y: { shape: headsShape(qkv, attrs), dtype: qkv.dtype },
      lse: { shape: [...qkv.shape.slice(0, -1), attrs.nHead], dtype: "f32" },
    }
  },
  reference({ qkv, ...live }, { y, lse }, attrs) {
    const { T, nHead, headDim: D, scale } = attrs
    eachHead(qkv, attrs, (b, h) => {
      const { q, k, v, o } = offsets(attrs, T, b, h)
      for (let i = 0; i < T; i++) {
        const scores = Array.from({ length: i + 1 }, (_, j) => scale * sumOver(D, (d) => at(qkv, q(i, d)) * at(qkv, k(j, d))))
        const max = Math.max(...scores)
        const total = max + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - max), 0))
        if (lse !== undefined) lse.data[(b * T + i) * nHead + h] = total
        const weights = scores.map((s, j) => Math.exp(s - total) * keepFactor(live, attrs, b, h, i, j))
        for (let d = 0; d < D; d++) y.data[o(i, d)] = weights.reduce((sum, p, j) => sum + p * at(qkv, v(j, d)), 0)
      }
    })
  },
  cpu: ({ qkv, seed, step, row }, { y, lse }, attrs) => forwardKernel({ qkv, seed, step, row, y, lse, ...sizes(qkv, attrs) }),
  backward: ({ qkv, seed, step, row }, { y, lse }, { y: dy }, attrs) => ({
    qkv: attentionBackward({ qkv, y, lse, dy: dy as Tensor, seed, step, row }, attrs).dqkv,
  }),
  cases: [
    { inputs: { qkv: [1, 3] }, attrs: { T: 1, nHead: 1, nKvHead: 1, headDim: 1, scale: 1, ...plain } },
    { inputs: { qkv: [2, 5, 42] }, attrs: { T: 5, nHead: 2, nKvHead: 2, headDim: 7, scale: 0.4, ...plain }, about: "odd head size" },
    { inputs: { qkv: [6, 80] }, attrs: { T: 3, nHead: 3, nKvHead: 1, headDim: 16, scale: 0.25, ...plain }, about: "one key head" },
    {
      inputs: { qkv: [70, 160] },
      attrs: { T: 70, nHead: 4, nKvHead: 2, headDim: 20, scale: 0.2, ...plain },
      about: "shared key heads, two blocks of keys",
    },
    {
      inputs: { qkv: [270, 12] },
      attrs: { T: 270, nHead: 2, nKvHead: 1, headDim: 3, scale: 2, ...plain },
      about: "several tasks, peaked weights",
    },
    {
      inputs: { qkv: [10, 24], ...counters },
      attrs: { T: 5, nHead: 2, nKvHead: 1, headDim: 6, scale: 0.4, dropout: 0.3, site: 4 },
      about: "dropout",
    },
    {
      inputs: { qkv: [67, 9], ...counters },
      attrs: { T: 67, nHead: 1, nKvHead: 1, headDim: 3, scale: 0.5, dropout: 0.5, site: 9 },
      about: "dropout, two blocks",
    },
  ],
})

export const attentionBackward = defineOp({
  name: "attention_backward",
  doc: `dqkv (R, (H + 2K)·D) of attention from dy (R, H·D), with p = e^(scale·q·k − lse) and δ = Σ dy·y per row and head:
    dv[j] = Σ keep·p·dy[i], ds = p·(keep·dy[i]·v[j] − δ[i]), dq[i] = scale·Σ ds·k[j], dk[j] = scale·Σ ds·q[i]. 5·R·T·H·D FLOPs.`,
  inputs: { qkv: "state", y: "state", lse: "state", dy: "state", seed: "scalar?", step: "scalar?", row: "scalar?" },
  outputs: ["dqkv"],
  attrs: {} as AttentionAttrs,
  act: ["qkv", "y", "dy"],
  shape({ qkv, y, lse, dy, ...live }, attrs) {
    checkHeads("attention_backward", qkv, attrs, attrs.T)
    checkCounters("attention_backward", live, attrs)
    for (const [name, t] of Object.entries({ y, dy })) expectShape("attention_backward", name, t, headsShape(qkv, attrs), "qkv")
    expectShape("attention_backward", "lse", lse, [...qkv.shape.slice(0, -1), attrs.nHead], "qkv")
    return { dqkv: qkv }
  },
  reference({ qkv, y, lse, dy, ...live }, { dqkv }, attrs) {
    const { T, nHead, headDim: D, scale } = attrs
    dqkv.data.fill(0)
    const add = (i: number, value: number) => {
      dqkv.data[i] = at(dqkv, i) + value
    }
    eachHead(qkv, attrs, (b, h) => {
      const { q, k, v, o } = offsets(attrs, T, b, h)
      for (let i = 0; i < T; i++) {
        const delta = sumOver(D, (d) => at(dy, o(i, d)) * at(y, o(i, d)))
        for (let j = 0; j <= i; j++) {
          const keep = keepFactor(live, attrs, b, h, i, j)
          const p = Math.exp(scale * sumOver(D, (d) => at(qkv, q(i, d)) * at(qkv, k(j, d))) - at(lse, (b * T + i) * nHead + h))
          const ds = p * (keep * sumOver(D, (d) => at(dy, o(i, d)) * at(qkv, v(j, d))) - delta)
          for (let d = 0; d < D; d++) {
            add(v(j, d), keep * p * at(dy, o(i, d)))
            add(q(i, d), scale * ds * at(qkv, k(j, d)))
            add(k(j, d), scale * ds * at(qkv, q(i, d)))
          }
        }
      }
    })
  },
  cpu: ({ qkv, y, lse, dy, seed, step, row }, { dqkv }, attrs) =>
    backwardKernel({ qkv, y, lse, dy, seed, step, row, dqkv, ...sizes(qkv, attrs) }),
  cases: [
    backwardCase(1, { T: 1, nHead: 1, nKvHead: 1, headDim: 1, scale: 1, ...plain }),
    backwardCase(10, { T: 5, nHead: 3, nKvHead: 1, headDim: 17, scale: 0.2, ...plain }, "one key head"),
    backwardCase(140, { T: 70, nHead: 4, nKvHead: 2, headDim: 8, scale: 0.3, ...plain }, "two blocks of keys"),
    backwardCase(600, { T: 600, nHead: 1, nKvHead: 1, headDim: 4, scale: 0.5, ...plain }, "queries in parts"),
    backwardCase(67, { T: 67, nHead: 2, nKvHead: 1, headDim: 5, scale: 0.3, dropout: 0.3, site: 9 }, "dropout"),
  ],
})

/** A case whose inputs are independent of each other: the formula holds for any y and lse. */
function backwardCase(R: number, attrs: AttentionAttrs, about = "smallest") {
  const { nHead: H, nKvHead: K, headDim: D } = attrs
  const inputs = { qkv: [R, (H + 2 * K) * D], y: [R, H * D], lse: [R, H], dy: [R, H * D], ...(attrs.dropout > 0 ? counters : {}) }
  return { inputs, attrs, about }
}

export const attentionOps = [attention, attentionBackward]
