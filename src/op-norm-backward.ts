/** Gradients of layer norm and RMS norm. */
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { type Dropped, normBackwardLaunches } from "./op-norm-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, lastDim, rows, shapeText, type Tensor } from "./tensor.ts"

const normBackwardKernel = nativeKernel("norm_backward", {
  x: "pointer",
  dy: "pointer",
  w: "pointer",
  mean: "pointer",
  rstd: "pointer",
  dsum: "pointer",
  dx: "pointer",
  dr: "pointer",
  dw: "pointer",
  db: "pointer",
  betaW: "pointer",
  betaB: "pointer",
  rows: "int",
  columns: "int",
  xType: "int",
  dyType: "int",
})

interface NormBackwardAttrs {
  /** bf16: dx is wanted in bf16 too, as the gradient of the branch that was added. */
  readonly branch?: "bf16" | undefined
  /** On a GPU, where dr goes through dropout on the way. */
  readonly dropped?: Dropped
}

const at = (view: View, i: number): number => view.data[i] as number

/** Throws unless every vector has as many entries as x has columns. */
export function expectVectors(op: string, x: Tensor, w: Tensor, b?: Tensor): void {
  const because = `x ${shapeText(x.shape)}`
  expectShape(op, "w", w, [lastDim(x)], because)
  if (b !== undefined) expectShape(op, "b", b, [lastDim(x)], because)
}

interface BackwardViews {
  readonly x: View
  readonly w: View
  readonly mean?: View
  readonly rstd: View
  readonly dy: View
  readonly dsum: View | undefined
}

/** Per row: h = (x − mean)·rstd, g = dy·w; calls `each` with the flat index, the column, h and dx. */
function referenceBackward(
  { x, w, mean, rstd, dy, dsum }: BackwardViews,
  each: (i: number, c: number, h: number, dx: number) => void,
): void {
  const C = lastDim(x)
  for (let row = 0; row < rows(x); row++) {
    const [s, m] = [at(rstd, row), mean === undefined ? 0 : at(mean, row)]
    let [gSum, ghSum] = [0, 0]
    for (let i = row * C; i < (row + 1) * C; i++) {
      const g = at(dy, i) * at(w, i - row * C)
      gSum += g
      ghSum += g * (at(x, i) - m) * s
    }
    for (let i = row * C; i < (row + 1) * C; i++) {
      const h = (at(x, i) - m) * s
      const centre = mean === undefined ? 0 : gSum / C
      const dx = s * (at(dy, i) * at(w, i - row * C) - centre - (h * ghSum) / C)
      each(i, i - row * C, h, dx + (dsum === undefined ? 0 : at(dsum, i)))
    }
  }
}

/** Scales what an accumulating output holds; 0 where it is to be overwritten. */
function begin(out: View | undefined, beta: number | undefined): void {
  out?.data.forEach((old, i) => {
    out.data[i] = beta === undefined || beta === 0 ? 0 : beta * old
  })
}

function plus(out: View | undefined, i: number, x: number): void {
  if (out !== undefined) out.data[i] = at(out, i) + x
}

/** Shapes of dx, dr and one gradient per weight. */
function backwardShapes(op: string, x: Tensor, w: Tensor, dy: Tensor, dsum: Tensor | undefined, { branch }: NormBackwardAttrs) {
  expectVectors(op, x, w)
  expectShape(op, "dy", dy, x.shape, "x")
  if (dsum !== undefined) expectShape(op, "dsum", dsum, x.shape, "x")
  return {
    dx: { shape: x.shape, dtype: x.dtype },
    dw: { shape: w.shape, dtype: "f32" },
    ...(branch === undefined ? {} : { dr: { shape: x.shape, dtype: branch } }),
  } as const
}

const backwardAttrs = {} as NormBackwardAttrs
const wide = (...shape: number[]) => ({ shape, dtype: "f32" }) as const

export const rmsNormBackward = defineOp({
  name: "rms_norm_backward",
  doc: "dx = rstd·(g − h·mean(g·h)) + dsum, dr = dx as bf16, dw = Σ rows dy·h; h = x·rstd, g = dy·w; x is the sum where there was one.",
  inputs: { x: "state", w: "state", rstd: "state", dy: "state", dsum: "state?" },
  outputs: ["dx", "dr", "dw"],
  accumulates: ["dw"],
  attrs: backwardAttrs,
  act: ["x", "dy"],
  inPlace: { dx: "dsum" },
  shape: ({ x, w, dy, dsum }, a) => backwardShapes("rms_norm_backward", x, w, dy, dsum, a),
  reference(inputs, { dx, dr, dw }, _, beta) {
    begin(dw, beta("dw"))
    referenceBackward(inputs, (i, c, h, d) => {
      if (dx !== undefined) dx.data[i] = d
      if (dr !== undefined) dr.data[i] = d
      plus(dw, c, at(inputs.dy, i) * h)
    })
  },
  cpu: ({ x, w, rstd, dy, dsum }, { dx, dr, dw }, _, beta) =>
    normBackwardKernel({
      x,
      dy,
      w,
      mean: undefined,
      rstd,
      dsum,
      dx,
      dr,
      dw,
      db: undefined,
      betaW: beta("dw"),
      betaB: undefined,
      rows: rows(x),
      columns: lastDim(x),
      xType: typeOf(x),
      dyType: typeOf(dy),
    }),
  gpu: ({ x, w, rstd, dy, dsum }, { dx, dr, dw }, { dropped }, beta, target) =>
    normBackwardLaunches({ x, w, rstd, dy, dsum, dx, dr, dw, dropped }, beta, target),
  cases: [
    { inputs: { x: [1, 1], w: [1], rstd: [1], dy: [1, 1] } },
    { inputs: { x: [2, 3, 37], w: [37], rstd: [2, 3], dy: [2, 3, 37] }, about: "odd sizes" },
    {
      inputs: { x: wide(61, 300), w: [300], rstd: [61], dy: [61, 300], dsum: [61, 300] },
      attrs: { branch: "bf16" },
      about: "several tasks, branch",
    },
  ],
})

export const layerNormBackward = defineOp({
  name: "layer_norm_backward",
  doc: "dx = rstd·(g − mean(g) − h·mean(g·h)) + dsum, dr = dx as bf16, dw = Σ rows dy·h, db = Σ rows dy; h = (x − mean)·rstd, g = dy·w.",
  inputs: { x: "state", w: "state", mean: "state", rstd: "state", dy: "state", dsum: "state?" },
  outputs: ["dx", "dr", "dw", "db"],
  accumulates: ["dw", "db"],
  attrs: backwardAttrs,
  act: ["x", "dy"],
  inPlace: { dx: "dsum" },
  shape: ({ x, w, dy, dsum }, a) => ({ ...backwardShapes("layer_norm_backward", x, w, dy, dsum, a), db: { shape: w.shape, dtype: "f32" } }),
  reference(inputs, { dx, dr, dw, db }, _, beta) {
    begin(dw, beta("dw"))
    begin(db, beta("db"))
    referenceBackward(inputs, (i, c, h, d) => {
      if (dx !== undefined) dx.data[i] = d
      if (dr !== undefined) dr.data[i] = d
      plus(dw, c, at(inputs.dy, i) * h)
      plus(db, c, at(inputs.dy, i))
    })
  },
  cpu: ({ x, w, mean, rstd, dy, dsum }, { dx, dr, dw, db }, _, beta) =>
    normBackwardKernel({
      x,
      dy,
      w,
      mean,
      rstd,
      dsum,
      dx,
      dr,
      dw,
      db,
      betaW: beta("dw"),
      betaB: beta("db"),
      rows: rows(x),
      columns: lastDim(x),
      xType: typeOf(x),
      dyType: typeOf(dy),
    }),
  gpu: ({ x, w, mean, rstd, dy, dsum }, { dx, dr, dw, db }, { dropped }, beta, target) =>
    normBackwardLaunches({ x, w, mean, rstd, dy, dsum, dx, dr, dw, db, dropped }, beta, target),
  cases: [
    { inputs: { x: [1, 1], w: [1], mean: [1], rstd: [1], dy: [1, 1] } },
    { inputs: { x: [2, 3, 37], w: [37], mean: [2, 3], rstd: [2, 3], dy: [2, 3, 37] }, about: "odd sizes" },
    {
      inputs: { x: wide(61, 300), w: [300], mean: [61], rstd: [61], dy: [61, 300], dsum: [61, 300] },
      attrs: { branch: "bf16" },
      about: "several tasks, branch",
    },
    { inputs: { x: [200, 40], w: [40], mean: [200], rstd: [200], dy: [200, 40] }, about: "short aligned rows" },
    {
      inputs: { x: wide(45, 1032), w: [1032], mean: [45], rstd: [45], dy: [45, 1032], dsum: [45, 1032] },
      attrs: { branch: "bf16" },
      about: "rows one after another, branch",
    },
    { inputs: { x: [3, 8216], w: [8216], mean: [3], rstd: [3], dy: [3, 8216] }, about: "more columns than registers hold" },
    { inputs: { x: [3, 1037], w: [1037], mean: [3], rstd: [3], dy: [3, 1037] }, about: "the same, not aligned" },
  ],
})

export const normBackwardOps = [rmsNormBackward, layerNormBackward]
