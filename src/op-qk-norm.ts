/** QK-norm: RMS norm of every query and key head before they meet. */
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { qkNormBackwardLaunches, qkNormLaunches } from "./op-heads-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, lastDim, rows, ShapeError, shapeText, type Tensor } from "./tensor.ts"

const qkNormKernel = nativeKernel("qk_norm", {
  x: "pointer",
  qw: "pointer",
  kw: "pointer",
  y: "pointer",
  rows: "int",
  heads: "int",
  kvHeads: "int",
  headSize: "int",
  type: "int",
  eps: "float",
})
const qkNormBackwardKernel = nativeKernel("qk_norm_backward", {
  x: "pointer",
  dy: "pointer",
  qw: "pointer",
  kw: "pointer",
  dx: "pointer",
  dqw: "pointer",
  dkw: "pointer",
  betaQ: "pointer",
  betaK: "pointer",
  rows: "int",
  heads: "int",
  kvHeads: "int",
  headSize: "int",
  type: "int",
  eps: "float",
})

interface QkNormAttrs {
  readonly nHead: number
  readonly nKvHead: number
  readonly headDim: number
  readonly eps: number
}

const at = (view: View, i: number): number => view.data[i] as number

function expectHeads(op: string, qkv: Tensor, qw: Tensor, kw: Tensor, { nHead, nKvHead, headDim }: QkNormAttrs): void {
  const columns = (nHead + 2 * nKvHead) * headDim
  if (lastDim(qkv) !== columns) {
    throw new ShapeError(
      `${op}: qkv ${shapeText(qkv.shape)} where (…, ${columns}) is needed by ${nHead} + 2·${nKvHead} heads of ${headDim}`,
    )
  }
  expectShape(op, "qw", qw, [headDim], "headDim")
  expectShape(op, "kw", kw, [headDim], "headDim")
}

/** Calls `each` with the flat start of every query and key head, whether it is a query, and 1/√(mean square + eps). */
function eachHead(
  qkv: View,
  { nHead, nKvHead, headDim, eps }: QkNormAttrs,
  each: (start: number, isQuery: boolean, rstd: number) => void,
): void {
  for (let r = 0; r < rows(qkv); r++) {
    for (let head = 0; head < nHead + nKvHead; head++) {
      const start = r * lastDim(qkv) + head * headDim
      const squares = (qkv.data.subarray(start, start + headDim) as Float64Array).reduce((sum, x) => sum + x * x, 0)
      each(start, head < nHead, 1 / Math.sqrt(squares / headDim + eps))
    }
  }
}

export const qkNorm = defineOp({
  name: "qk_norm",
  doc: "Each query and key head h of qkv (…, (H+2K)·D): y = h·w/√(mean(h²)+eps), w = qw or kw (D); values are copied. As in Qwen3; arXiv:2302.05442",
  inputs: { qkv: "grad", qw: "grad", kw: "grad" },
  outputs: ["y"],
  attrs: {} as QkNormAttrs,
  act: ["qkv"],
  inPlace: { y: "qkv" },
  shape({ qkv, qw, kw }, attrs) {
    expectHeads("qk_norm", qkv, qw, kw, attrs)
    return { y: qkv }
  },
  reference({ qkv, qw, kw }, { y }, attrs) {
    y.data.set(qkv.data)
    eachHead(qkv, attrs, (start, isQuery, rstd) => {
      for (let i = 0; i < attrs.headDim; i++) y.data[start + i] = at(qkv, start + i) * rstd * at(isQuery ? qw : kw, i)
    })
  },
  cpu: ({ qkv, qw, kw }, { y }, { nHead, nKvHead, headDim, eps }) =>
    qkNormKernel({ x: qkv, qw, kw, y, rows: rows(qkv), heads: nHead, kvHeads: nKvHead, headSize: headDim, type: typeOf(qkv), eps }),
  gpu: ({ qkv, qw, kw }, { y }, attrs) => (y === undefined ? [] : qkNormLaunches({ x: qkv, qw, kw, y, ...attrs })),
  backward({ qkv, qw, kw }, _, { y: dy }, attrs) {
    const { dqkv, dqw, dkw } = qkNormBackward({ qkv, qw, kw, dy: dy as Tensor }, attrs)
    return { qkv: dqkv, qw: dqw, kw: dkw }
  },
  cases: [
    { inputs: { qkv: [1, 3], qw: [1], kw: [1] }, attrs: { nHead: 1, nKvHead: 1, headDim: 1, eps: 1e-5 } },
    { inputs: { qkv: [2, 5, 40], qw: [10], kw: [10] }, attrs: { nHead: 2, nKvHead: 1, headDim: 10, eps: 0.1 }, about: "shared keys" },
    { inputs: { qkv: [70, 288], qw: [96], kw: [96] }, attrs: { nHead: 1, nKvHead: 1, headDim: 96, eps: 1e-6 }, about: "several tasks" },
  ],
})

export const qkNormBackward = defineOp({
  name: "qk_norm_backward",
  doc: "Per head with n = x·rstd, g = dy·w: dx = rstd·(g − n·mean(g·n)), dw = Σ dy·n over rows and heads (f32); dv is copied.",
  inputs: { qkv: "state", qw: "state", kw: "state", dy: "state" },
  outputs: ["dqkv", "dqw", "dkw"],
  accumulates: ["dqw", "dkw"],
  attrs: {} as QkNormAttrs,
  act: ["qkv", "dy"],
  inPlace: { dqkv: "dy" },
  shape({ qkv, qw, kw, dy }, attrs) {
    expectHeads("qk_norm_backward", qkv, qw, kw, attrs)
    expectShape("qk_norm_backward", "dy", dy, qkv.shape, "qkv")
    const vector = { shape: [attrs.headDim], dtype: "f32" } as const
    return { dqkv: qkv, dqw: vector, dkw: vector }
  },
  reference({ qkv, qw, kw, dy }, { dqkv, dqw, dkw }, attrs, beta) {
    const D = attrs.headDim
    for (const [out, factor] of [
      [dqw, beta("dqw") ?? 0],
      [dkw, beta("dkw") ?? 0],
    ] as const) {
      for (let i = 0; i < D; i++) out.data[i] = factor === 0 ? 0 : factor * at(out, i)
    }
    dqkv.data.set(dy.data)
    eachHead(qkv, attrs, (start, isQuery, rstd) => {
      const [w, dw] = isQuery ? [qw, dqw] : [kw, dkw]
      let sum = 0
      for (let i = 0; i < D; i++) sum += at(dy, start + i) * at(w, i) * at(qkv, start + i) * rstd
      for (let i = 0; i < D; i++) {
        const n = at(qkv, start + i) * rstd
        dw.data[i] = at(dw, i) + at(dy, start + i) * n
        dqkv.data[start + i] = rstd * (at(dy, start + i) * at(w, i) - (n * sum) / D)
      }
    })
  },
  cpu: ({ qkv, qw, kw, dy }, { dqkv, dqw, dkw }, { nHead, nKvHead, headDim, eps }, beta) =>
    qkNormBackwardKernel({
      x: qkv,
      dy,
      qw,
      kw,
      dx: dqkv,
      dqw,
      dkw,
      betaQ: beta("dqw"),
      betaK: beta("dkw"),
      rows: rows(qkv),
      heads: nHead,
      kvHeads: nKvHead,
      headSize: headDim,
      type: typeOf(qkv),
      eps,
    }),
  gpu: ({ qkv, qw, kw, dy }, { dqkv, dqw, dkw }, attrs, beta, target) =>
    qkNormBackwardLaunches({ x: qkv, dy, qw, kw, dx: dqkv, dqw, dkw, ...attrs }, beta, target),
  cases: [
    {
      inputs: { qkv: [2, 5, 40], qw: [10], kw: [10], dy: [2, 5, 40] },
      attrs: { nHead: 2, nKvHead: 1, headDim: 10, eps: 0.1 },
      about: "shared keys",
    },
    {
      inputs: { qkv: [70, 288], qw: [96], kw: [96], dy: [70, 288] },
      attrs: { nHead: 1, nKvHead: 1, headDim: 96, eps: 1e-6 },
      about: "several tasks",
    },
  ],
})

export const qkNormOps = [qkNorm, qkNormBackward]
