/** Layer norm and RMS norm, alone or fused with the residual sum before them. */
import { AlphaError } from "./base-error.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { expectVectors, layerNormBackward, rmsNormBackward } from "./op-norm-backward.ts"
import { type Dropped, normLaunches } from "./op-norm-gpu.ts"
import type { View } from "./program.ts"
import { type Dtype, expectShape, lastDim, rows, type Tensor } from "./tensor.ts"

const normKernel = nativeKernel("norm", {
  x: "pointer",
  r: "pointer",
  w: "pointer",
  b: "pointer",
  y: "pointer",
  sum: "pointer",
  mean: "pointer",
  rstd: "pointer",
  rows: "int",
  columns: "int",
  centred: "int",
  xType: "int",
  rType: "int",
  yType: "int",
  eps: "float",
})
/** eps is added to the mean square; out is the dtype of y. */
interface NormAttrs {
  readonly eps: number
  readonly out: Dtype
  /** On a GPU, where r goes through dropout on the way. */
  readonly dropped?: Dropped
}

const at = (view: View, i: number): number => view.data[i] as number

/** One value per row of x. */
const perRow = (x: Tensor) => ({ shape: x.shape.slice(0, -1), dtype: "f32" }) as const

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
    x,
    r,
    w,
    b,
    y,
    sum,
    mean,
    rstd,
    rows: rows(x),
    columns: lastDim(x),
    centred: centred ? 1 : 0,
    xType: typeOf(x),
    rType: r === undefined ? 0 : typeOf(r),
    yType: out === "bf16" ? 1 : 0,
    eps,
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
  gpu: ({ x, w }, { y, rstd }, { eps }, _, target) => normLaunches({ x, w, y, rstd, eps, centred: false }, target),
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
  gpu: ({ x, w, b }, { y, mean, rstd }, { eps }, _, target) => normLaunches({ x, w, b, y, mean, rstd, eps, centred: true }, target),
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
  gpu: ({ x, r, w }, { y, sum, rstd }, { eps, dropped }, _, target) =>
    normLaunches({ x, r, w, y, sum, rstd, eps, centred: false, dropped }, target),
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
  gpu: ({ x, r, w, b }, { y, sum, mean, rstd }, { eps, dropped }, _, target) =>
    normLaunches({ x, r, w, b, y, sum, mean, rstd, eps, centred: true, dropped }, target),
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
    { inputs: { x: [70, 96], r: [70, 96], w: [96], b: [96] }, attrs: f32, about: "short aligned rows" },
    { inputs: { x: [2, 8216], r: [2, 8216], w: [8216], b: [8216] }, attrs: f32, about: "more columns than registers hold" },
    { inputs: { x: [2, 1037], r: [2, 1037], w: [1037], b: [1037] }, attrs: f32, about: "the same, not aligned" },
  ],
})

export const normOps = [rmsNorm, layerNorm, addRmsNorm, addLayerNorm]
