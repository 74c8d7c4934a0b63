/** Layer norm and RMS norm, alone or fused with the residual sum before them. */
import { AlphaError } from "./base-error.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import type { View } from "./program.ts"
import { type Dtype, expectShape, lastDim, rows, shapeText, type Tensor } from "./tensor.ts"

const normKernel = nativeKernel("norm", {
  x: "pointer", r: "pointer", w: "pointer", b: "pointer", y: "pointer", sum: "pointer", mean: "pointer", rstd: "pointer",
  rows: "int", columns: "int", centred: "int", xType: "int", rType: "int", yType: "int", eps: "float",
})
const normBackwardKernel = nativeKernel("norm_backward", {
  x: "pointer", dy: "pointer", w: "pointer", mean: "pointer", rstd: "pointer", dsum: "pointer",
  dx: "pointer", dr: "pointer", dw: "pointer", db: "pointer", betaW: "pointer", betaB: "pointer",
  rows: "int", columns: "int", xType: "int", dyType: "int",
})

/** eps is added to the mean square; out is the dtype of y. */
interface NormAttrs {
  readonly eps: number
  readonly out: Dtype
}

interface NormBackwardAttrs {
  /** bf16: dx is wanted in bf16 too, as the gradient of the branch that was added. */
  readonly branch?: "bf16" | undefined
}

const at = (view: View, i: number): number => view.data[i] as number

/** One value per row of x. */
const perRow = (x: Tensor) => ({ shape: x.shape.slice(0, -1), dtype: "f32" }) as const

function expectVectors(op: string, x: Tensor, w: Tensor, b?: Tensor): void {
  const because = `x ${shapeText(x.shape)}`
  expectShape(op, "w", w, [lastDim(x)], because)
  if (b !== undefined) expectShape(op, "b", b, [lastDim(x)], because)
}

interface NormViews {
  readonly x: View
  readonly r?: View
  readonly w: View
  readonly b?: View | undefined
  readonly y?: View
  readonly sum?: View
  readonly mean?: View
  readonly rstd?: View
}

function referenceNorm({ x, r, w, b, y, sum, mean, rstd }: NormViews, eps: number, centred: boolean): void {
  const C = lastDim(x)
  for (let row = 0; row < rows(x); row++) {
    const v = Array.from({ length: C }, (_, c) => at(x, row * C + c) + (r === undefined ? 0 : at(r, row * C + c)))
    const m = centred ? v.reduce((a, b) => a + b, 0) / C : 0
    const s = 1 / Math.sqrt(v.reduce((a, b) => a + (b - m) ** 2, 0) / C + eps)
    if (mean !== undefined) mean.data[row] = m
    if (rstd !== undefined) rstd.data[row] = s
    v.forEach((value, c) => {
      if (sum !== undefined) sum.data[row * C + c] = value
      if (y !== undefined) y.data[row * C + c] = (value - m) * s * at(w, c) + (b === undefined ? 0 : at(b, c))
    })
  }
}

type NormTensors = { readonly [N in keyof NormViews]: Tensor | undefined } & { readonly x: Tensor; readonly w: Tensor }

const callNorm = ({ x, r, w, b, y, sum, mean, rstd }: NormTensors, { eps, out }: NormAttrs, centred: boolean) =>
  normKernel({
    x, r, w, b, y, sum, mean, rstd,
    rows: rows(x), columns: lastDim(x), centred: centred ? 1 : 0,
    xType: typeOf(x), rType: r === undefined ? 0 : typeOf(r), yType: out === "bf16" ? 1 : 0, eps,
  })

const attrs = {} as NormAttrs
const f32 = { eps: 1e-5, out: "f32" } as const

export const rmsNorm = defineOp({
  name: "rms_norm",
  doc: "y[r,c] = x[r,c]·rstd[r]·w[c], rstd = 1/√(mean(x²)+eps); x, y (…, C), w (C), rstd (…). arXiv:1910.07467",
  inputs: { x: "grad", w: "grad" },
  outputs: ["y", "rstd"],
  attrs,
  act: ["x"],
  shape({ x, w }, { out }) {
    expectVectors("rms_norm", x, w)
    return { y: { shape: x.shape, dtype: out }, rstd: perRow(x) }
  },
  reference: ({ x, w }, { y, rstd }, { eps }) => referenceNorm({ x, w, y, rstd }, eps, false),
  cpu: ({ x, w }, { y, rstd }, a) => callNorm({ x, r: undefined, w, b: undefined, y, sum: undefined, mean: undefined, rstd }, a, false),
  backward({ x, w }, { rstd }, { y: dy }) {
    const { dx, dw } = rmsNormBackward({ x, w, rstd, dy: dy as Tensor }, {})
    return { x: dx, w: dw }
  },
  cases: [
    { inputs: { x: [1, 1], w: [1] }, attrs: f32 },
    { inputs: { x: [3, 5], w: [5] }, attrs: f32 },
    { inputs: { x: [2, 7, 100], w: [100] }, attrs: { eps: 0.1, out: "f32" }, about: "three axes" },
    { inputs: { x: [61, 300], w: [300] }, attrs: f32, about: "several tasks" },
    { inputs: { x: { shape: [5, 96], dtype: "f32" }, w: [96] }, attrs: { eps: 1e-6, out: "bf16" }, about: "f32 → bf16" },
  ],
})

export const layerNorm = defineOp({
  name: "layer_norm",
  doc: "y[r,c] = (x[r,c] − mean[r])·rstd[r]·w[c] + b[c], rstd = 1/√(var(x)+eps), var biased; x, y (…, C), w, b (C), mean, rstd (…). arXiv:1607.06450",
  inputs: { x: "grad", w: "grad", b: "grad?" },
  outputs: ["y", "mean", "rstd"],
  attrs,
  act: ["x"],
  shape({ x, w, b }, { out }) {
    expectVectors("layer_norm", x, w, b)
    return { y: { shape: x.shape, dtype: out }, mean: perRow(x), rstd: perRow(x) }
  },
  reference: ({ x, w, b }, { y, mean, rstd }, { eps }) => referenceNorm({ x, w, b, y, mean, rstd }, eps, true),
  cpu: ({ x, w, b }, { y, mean, rstd }, a) => callNorm({ x, r: undefined, w, b, y, sum: undefined, mean, rstd }, a, true),
  backward({ x, w, b }, { mean, rstd }, { y: dy }) {
    const { dx, dw, db } = layerNormBackward({ x, w, mean, rstd, dy: dy as Tensor }, {})
    return { x: dx, w: dw, b: b && db }
  },
  cases: [
    { inputs: { x: [1, 1], w: [1], b: [1] }, attrs: f32 },
    { inputs: { x: [3, 5], w: [5] }, attrs: f32, about: "no bias" },
    { inputs: { x: [2, 7, 100], w: [100], b: [100] }, attrs: { eps: 0.1, out: "f32" }, about: "three axes" },
    { inputs: { x: [61, 300], w: [300], b: [300] }, attrs: f32, about: "several tasks" },
    { inputs: { x: { shape: [5, 96], dtype: "f32" }, w: [96], b: [96] }, attrs: { eps: 1e-6, out: "bf16" }, about: "f32 → bf16" },
  ],
})

/** The gradient of the value must be there: a sum alone would not need the norm. */
function needed(op: string, dy: Tensor | undefined): Tensor {
  if (dy === undefined) throw new AlphaError(`${op}: y has no gradient`, { hint: "use add where only the sum is needed" })
  return dy
}

export const addRmsNorm = defineOp({
  name: "add_rms_norm",
  doc: "sum = x + r, y = rms_norm(sum): x, sum (…, C) f32, r (…, C), w (C), rstd (…).",
  inputs: { x: "grad", r: "grad", w: "grad" },
  outputs: ["y", "sum", "rstd"],
  differentiable: ["y", "sum"],
  attrs,
  act: ["r"],
  inPlace: { y: "r", sum: "x" },
  shape({ x, r, w }, { out }) {
    expectShape("add_rms_norm", "r", r, x.shape, "x")
    expectVectors("add_rms_norm", x, w)
    return { y: { shape: x.shape, dtype: out }, sum: { shape: x.shape, dtype: "f32" }, rstd: perRow(x) }
  },
  reference: ({ x, r, w }, { y, sum, rstd }, { eps }) => referenceNorm({ x, r, w, y, sum, rstd }, eps, false),
  cpu: ({ x, r, w }, { y, sum, rstd }, a) => callNorm({ x, r, w, b: undefined, y, sum, mean: undefined, rstd }, a, false),
  backward({ r, w }, { sum, rstd }, { y, sum: dsum }) {
    const dy = needed("add_rms_norm", y)
    const branch = r.dtype === "bf16" ? r.dtype : undefined
    const { dx, dr, dw } = rmsNormBackward({ x: sum, w, rstd, dy, dsum }, { branch })
    return { x: dx, r: branch === undefined ? dx : dr, w: dw }
  },
  cases: [
    { inputs: { x: [1, 1], r: [1, 1], w: [1] }, attrs: f32 },
    { inputs: { x: [2, 3, 37], r: [2, 3, 37], w: [37] }, attrs: f32, about: "odd sizes" },
    { inputs: { x: [61, 300], r: [61, 300], w: [300] }, attrs: { eps: 1e-5, out: "bf16" }, about: "several tasks, bf16 result" },
  ],
})

export const addLayerNorm = defineOp({
  name: "add_layer_norm",
  doc: "sum = x + r, y = layer_norm(sum): x, sum (…, C) f32, r (…, C), w, b (C), mean, rstd (…).",
  inputs: { x: "grad", r: "grad", w: "grad", b: "grad?" },
  outputs: ["y", "sum", "mean", "rstd"],
  differentiable: ["y", "sum"],
  attrs,
  act: ["r"],
  inPlace: { y: "r", sum: "x" },
  shape({ x, r, w, b }, { out }) {
    expectShape("add_layer_norm", "r", r, x.shape, "x")
    expectVectors("add_layer_norm", x, w, b)
    return { y: { shape: x.shape, dtype: out }, sum: { shape: x.shape, dtype: "f32" }, mean: perRow(x), rstd: perRow(x) }
  },
  reference: ({ x, r, w, b }, { y, sum, mean, rstd }, { eps }) => referenceNorm({ x, r, w, b, y, sum, mean, rstd }, eps, true),
  cpu: ({ x, r, w, b }, { y, sum, mean, rstd }, a) => callNorm({ x, r, w, b, y, sum, mean, rstd }, a, true),
  backward({ r, w, b }, { sum, mean, rstd }, { y, sum: dsum }) {
    const dy = needed("add_layer_norm", y)
    const branch = r.dtype === "bf16" ? r.dtype : undefined
    const { dx, dr, dw, db } = layerNormBackward({ x: sum, w, mean, rstd, dy, dsum }, { branch })
    return { x: dx, r: branch === undefined ? dx : dr, w: dw, b: b && db }
  },
  cases: [
    { inputs: { x: [1, 1], r: [1, 1], w: [1], b: [1] }, attrs: f32 },
    { inputs: { x: [2, 3, 37], r: [2, 3, 37], w: [37] }, attrs: f32, about: "odd sizes, no bias" },
    { inputs: { x: [61, 300], r: [61, 300], w: [300], b: [300] }, attrs: { eps: 1e-5, out: "bf16" }, about: "several tasks, bf16 result" },
  ],
})

interface BackwardViews {
  readonly x: View
  readonly w: View
  readonly mean?: View
  readonly rstd: View
  readonly dy: View
  readonly dsum: View | undefined
}

/** Per row: h = (x − mean)·rstd, g = dy·w; calls `each` with the flat index, the column, h and dx. */
function referenceBackward({ x, w, mean, rstd, dy, dsum }: BackwardViews, each: (i: number, c: number, h: number, dx: number) => void): void {
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
      x, dy, w, mean: undefined, rstd, dsum, dx, dr, dw, db: undefined, betaW: beta("dw"), betaB: undefined,
      rows: rows(x), columns: lastDim(x), xType: typeOf(x), dyType: typeOf(dy),
    }),
  cases: [
    { inputs: { x: [1, 1], w: [1], rstd: [1], dy: [1, 1] } },
    { inputs: { x: [2, 3, 37], w: [37], rstd: [2, 3], dy: [2, 3, 37] }, about: "odd sizes" },
    { inputs: { x: wide(61, 300), w: [300], rstd: [61], dy: [61, 300], dsum: [61, 300] }, attrs: { branch: "bf16" }, about: "several tasks, branch" },
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
      x, dy, w, mean, rstd, dsum, dx, dr, dw, db, betaW: beta("dw"), betaB: beta("db"),
      rows: rows(x), columns: lastDim(x), xType: typeOf(x), dyType: typeOf(dy),
    }),
  cases: [
    { inputs: { x: [1, 1], w: [1], mean: [1], rstd: [1], dy: [1, 1] } },
    { inputs: { x: [2, 3, 37], w: [37], mean: [2, 3], rstd: [2, 3], dy: [2, 3, 37] }, about: "odd sizes" },
    { inputs: { x: wide(61, 300), w: [300], mean: [61], rstd: [61], dy: [61, 300], dsum: [61, 300] }, attrs: { branch: "bf16" }, about: "several tasks, branch" },
  ],
})

export const normOps = [rmsNorm, layerNorm, addRmsNorm, addLayerNorm, rmsNormBackward, layerNormBackward]
