/** The layout of heads in qkv, its checks, and the loops of the attention references. */
import { uniform } from "./base-random.ts"
import { typeOf } from "./op-define.ts"
import type { View } from "./program.ts"
import { expectShape, rows, ShapeError, type Tensor } from "./tensor.ts"

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
  /** The bits are those of attention_cached on every device, which keeps it from matrix instructions. */
  readonly isInvariant?: boolean | undefined
}

/** Throws unless qkv's rows and columns fit the heads. */
export function checkHeads(name: string, qkv: Tensor, { nHead, nKvHead, headDim }: Heads, T: number): void {
  if (nHead % nKvHead !== 0) throw new ShapeError(`${name}: ${nHead} query heads cannot share ${nKvHead} key heads`)
  expectShape(name, "qkv", qkv, [...qkv.shape.slice(0, -1), (nHead + 2 * nKvHead) * headDim], `${nHead} + 2·${nKvHead} heads of ${headDim}`)
  if (rows(qkv) % T !== 0) throw new ShapeError(`${name}: qkv has ${rows(qkv)} rows, not a multiple of T ${T}`)
}

/** Shape of y beside qkv. */
export const headsShape = (qkv: Tensor, { nHead, headDim }: Heads): number[] => [...qkv.shape.slice(0, -1), nHead * headDim]

/** Fields that both kernels take. */
export function attentionSizes(qkv: Tensor, { T, nHead, nKvHead, headDim, scale, dropout, site }: AttentionAttrs) {
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

/** What the dropout of a step is counted by. */
export interface Counters<T> {
  readonly seed: T | undefined
  readonly step: T | undefined
  readonly row: T | undefined
}

export function checkCounters(name: string, { seed, step, row }: Counters<Tensor>, { dropout }: AttentionAttrs): void {
  for (const [key, t] of Object.entries({ seed, step, row })) {
    if (dropout > 0 && t?.dtype !== "i32")
      throw new ShapeError(`${name}: dropout ${dropout} needs ${key} () i32, got ${t?.dtype ?? "nothing"}`)
  }
}

export const at = (view: View, i: number): number => view.data[i] as number

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
export function eachHead(qkv: View, { T, nHead }: AttentionAttrs, visit: (b: number, h: number) => void): void {
  for (let b = 0; b < rows(qkv) / T; b++) for (let h = 0; h < nHead; h++) visit(b, h)
}

/** Factor of the weight of key j for query i: 0 or 1/(1 − p) under dropout, 1 without. */
export function keepFactor(
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
/** Of the cases with dropout. */
export const counters = { seed: scalar(77), step: scalar(3), row: scalar(1000) }
export const plain = { dropout: 0, site: 0 }
