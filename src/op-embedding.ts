/** Embeddings: the table rows of tokens and positions, and the tables' gradients. */
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { bucketSumLaunches, embeddingLaunches, periodicSumLaunches } from "./op-embedding-gpu.ts"
import { sideBySide } from "./op-gpu.ts"
import type { View } from "./program.ts"
import { elements, expectShape, lastDim, ShapeError, shapeText, type Tensor } from "./tensor.ts"

const embeddingKernel = nativeKernel("embedding", {
  tokens: "pointer",
  positions: "pointer",
  wte: "pointer",
  wpe: "pointer",
  y: "pointer",
  rows: "int",
  columns: "int",
  T: "int",
  wteType: "int",
})
const embeddingBackwardKernel = nativeKernel("embedding_backward", {
  tokens: "pointer",
  positions: "pointer",
  dy: "pointer",
  dwte: "pointer",
  dwpe: "pointer",
  betaWte: "pointer",
  betaWpe: "pointer",
  rows: "int",
  columns: "int",
  T: "int",
  vocabSize: "int",
  wpeRows: "int",
})

const at = (view: View, i: number): number => view.data[i] as number

/** Position of row r: given, or counted within its sequence of T rows. */
const positionOf = (positions: View | undefined, r: number, T: number): number => (positions === undefined ? r % T : at(positions, r))

export const embedding = defineOp({
  name: "embedding",
  doc: "y[r] = wte[tokens[r]] + wpe[position r]: tokens (R), wte (V, C), wpe (≥ T, C) f32 → y (R, C) f32; positions (R), else r mod T.",
  inputs: { tokens: "index", wte: "grad", wpe: "grad?", positions: "index?" },
  outputs: ["y"],
  attrs: {} as { T: number },
  act: ["wte"],
  shape({ tokens, wte, wpe, positions }, { T }) {
    if (wte.shape.length !== 2) throw new ShapeError(`embedding: wte ${shapeText(wte.shape)} is no matrix`)
    if (wpe !== undefined && (lastDim(wpe) !== lastDim(wte) || (positions === undefined && (wpe.shape[0] as number) < T))) {
      throw new ShapeError(
        `embedding: wpe ${shapeText(wpe.shape)} where (≥ ${T}, ${lastDim(wte)}) is needed by wte ${shapeText(wte.shape)} and T ${T}`,
      )
    }
    if (positions !== undefined) expectShape("embedding", "positions", positions, tokens.shape, "tokens")
    return { y: { shape: [...tokens.shape, lastDim(wte)], dtype: "f32" } }
  },
  reference({ tokens, wte, wpe, positions }, { y }, { T }) {
    const C = lastDim(wte)
    tokens.data.forEach((token, r) => {
      for (let c = 0; c < C; c++) {
        y.data[r * C + c] = at(wte, token * C + c) + (wpe === undefined ? 0 : at(wpe, positionOf(positions, r, T) * C + c))
      }
    })
  },
  cpu: ({ tokens, wte, wpe, positions }, { y }, { T }) =>
    embeddingKernel({ tokens, positions, wte, wpe, y, rows: elements(tokens), columns: lastDim(wte), T, wteType: typeOf(wte) }),
  gpu: ({ tokens, wte, wpe, positions }, { y }, { T }, _, target) =>
    y === undefined ? [] : embeddingLaunches({ tokens, positions, wte, wpe, y, T }, target),
  backward({ tokens, wte, wpe, positions }, _, { y: dy }, { T }) {
    const sizes = { T, vocabSize: wte.shape[0] as number, wpeRows: wpe?.shape[0] }
    const { dwte, dwpe } = embeddingBackward({ tokens, positions, dy: dy as Tensor }, sizes)
    return { wte: dwte, wpe: wpe && dwpe }
  },
  cases: [
    { inputs: { tokens: { shape: [1], below: 1 }, wte: [1, 1] }, attrs: { T: 1 } },
    {
      inputs: { tokens: { shape: [12], below: 5 }, wte: [5, 37], wpe: [6, 37] },
      attrs: { T: 4 },
      about: "fewer positions than the table has",
    },
    {
      inputs: { tokens: { shape: [3, 7], below: 300 }, wte: [300, 20], wpe: [9, 20], positions: { shape: [3, 7], below: 9 } },
      attrs: { T: 7 },
    },
    { inputs: { tokens: { shape: [300], below: 3 }, wte: [3, 130] }, attrs: { T: 100 }, about: "tokens that fill more than one task" },
  ],
})

export const embeddingBackward = defineOp({
  name: "embedding_backward",
  doc: "dwte[t] (V, C) = Σ rows r of dy (R, C) with tokens[r] = t; dwpe[p] = Σ rows at position p; f32, added in the order of the rows.",
  inputs: { tokens: "index", dy: "state", positions: "index?" },
  outputs: ["dwte", "dwpe"],
  accumulates: ["dwte", "dwpe"],
  attrs: {} as { T: number; vocabSize: number; wpeRows: number | undefined },
  shape({ tokens, dy, positions }, { vocabSize, wpeRows }) {
    const C = lastDim(dy)
    expectShape("embedding_backward", "dy", dy, [...tokens.shape, C], "tokens")
    if (positions !== undefined) expectShape("embedding_backward", "positions", positions, tokens.shape, "tokens")
    const dwte = { shape: [vocabSize, C], dtype: "f32" } as const
    return wpeRows === undefined ? { dwte } : { dwte, dwpe: { shape: [wpeRows, C], dtype: "f32" } }
  },
  reference({ tokens, dy, positions }, { dwte, dwpe }, { T }, beta) {
    const C = lastDim(dy)
    const scatter = (out: View | undefined, factor: number | undefined, key: (r: number) => number) => {
      if (out === undefined) return
      for (let i = 0; i < out.data.length; i++) out.data[i] = factor === undefined || factor === 0 ? 0 : factor * at(out, i)
      for (let i = 0; i < dy.data.length; i++) {
        const to = key(Math.floor(i / C)) * C + (i % C)
        out.data[to] = at(out, to) + at(dy, i)
      }
    }
    scatter(dwte, beta("dwte"), (r) => at(tokens, r))
    scatter(dwpe, beta("dwpe"), (r) => positionOf(positions, r, T))
  },
  cpu: ({ tokens, dy, positions }, { dwte, dwpe }, { T, vocabSize, wpeRows = 0 }, beta) =>
    embeddingBackwardKernel({
      tokens,
      positions,
      dy,
      dwte,
      dwpe,
      betaWte: beta("dwte"),
      betaWpe: beta("dwpe"),
      rows: elements(tokens),
      columns: lastDim(dy),
      T,
      vocabSize,
      wpeRows,
    }),
  gpu({ tokens, positions, dy }, { dwte, dwpe }, { T }, beta, target) {
    const sums = (keys: Tensor | undefined, out: Tensor | undefined, factor: Tensor | undefined) => {
      if (out === undefined) return []
      return keys === undefined ? periodicSumLaunches(dy, out, T, factor, target) : bucketSumLaunches(keys, dy, out, factor, target)
    }
    return sideBySide(sums(tokens, dwte, beta("dwte")), sums(positions, dwpe, beta("dwpe")))
  },
  cases: [
    { inputs: { tokens: { shape: [1], below: 1 }, dy: [1, 1] }, attrs: { T: 1, vocabSize: 1, wpeRows: undefined } },
    {
      inputs: { tokens: { shape: [12], below: 5 }, dy: [12, 37] },
      attrs: { T: 4, vocabSize: 6, wpeRows: 5 },
      about: "rows that nobody uses",
    },
    {
      inputs: { tokens: { shape: [300], below: 70_000 }, dy: [300, 3], positions: { shape: [300], below: 9 } },
      attrs: { T: 7, vocabSize: 70_000, wpeRows: 9 },
      about: "a vocabulary of three bytes, long runs of one position",
    },
    {
      inputs: { tokens: { shape: [300], below: 3 }, dy: [300, 130] },
      attrs: { T: 100, vocabSize: 3, wpeRows: undefined },
      about: "long runs",
    },
    {
      inputs: { tokens: { shape: [3300], below: 2 }, dy: [3300, 4] },
      attrs: { T: 100, vocabSize: 3, wpeRows: 100 },
      about: "runs of thousands, rows of four",
    },
  ],
})

export const embeddingOps = [embedding, embeddingBackward]
