/** Linear layers: the matrix products of the model with bias and activation in their epilogue. */
import { nativeKernel } from "./native.ts"
import { type Activation, activate, activateDerivative, activationBackward, activationIndex } from "./op-activation.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { scratch, sideBySide } from "./op-gpu.ts"
import { biasGradient } from "./op-matmul-bias.ts"
import { gemm } from "./op-matmul-gpu.ts"
import { ptxGemmLaunches, ptxLaunchesOf } from "./op-matmul-ptx.ts"
import { pairing } from "./op-matmul-ptx-pair.ts"
import type { Gemm } from "./op-matmul-request.ts"
import { type Op, tracer, type View } from "./program.ts"
import { type Dtype, expectShape, lastDim, rows, ShapeError, shapeText, type Tensor } from "./tensor.ts"

const forwardKernel = nativeKernel("linear_forward", {
  x: "pointer",
  w: "pointer",
  b: "pointer",
  y: "pointer",
  slope: "pointer",
  rows: "int",
  in: "int",
  out: "int",
  xType: "int",
  wType: "int",
  yType: "int",
  activation: "int",
})
const backwardInputKernel = nativeKernel("linear_backward_input", {
  dy: "pointer",
  w: "pointer",
  slope: "pointer",
  dx: "pointer",
  rows: "int",
  in: "int",
  out: "int",
  dyType: "int",
  wType: "int",
  dxType: "int",
})
const backwardWeightKernel = nativeKernel("linear_backward_weight", {
  x: "pointer",
  dy: "pointer",
  dw: "pointer",
  db: "pointer",
  betaW: "pointer",
  betaB: "pointer",
  rows: "int",
  in: "int",
  out: "int",
  xType: "int",
  dyType: "int",
})

export const linear = defineOp({
  name: "linear",
  doc: "y = act(x·wᵀ + b): x (…, K), w (N, K), b (N), y (…, N); slope = act'(x·wᵀ + b) is kept for backward when there is an activation. 2·R·N·K FLOPs.",
  inputs: { x: "grad", w: "grad", b: "grad?" },
  outputs: ["y", "slope"],
  /**
   * order: where that is faster, bits of a row may depend on how many there are ("any"), or a token's way through all layers may be one launch whose
   * attention has other bits ("layers", and under "any" too).
   */
  attrs: {} as { activation: Activation; out: Dtype; order?: "any" | "layers" | undefined },
  act: ["x", "w"],
  shape({ x, w, b }, { activation, out }) {
    if (w.shape.length !== 2 || lastDim(w) !== lastDim(x)) {
      throw new ShapeError(`linear: x ${shapeText(x.shape)} · w ${shapeText(w.shape)}ᵀ: the last axes differ`)
    }
    const N = w.shape[0] as number
    if (b !== undefined) expectShape("linear", "b", b, [N], `w ${shapeText(w.shape)}`)
    const y = { shape: [...x.shape.slice(0, -1), N], dtype: out }
    return activation === "none" ? { y } : { y, slope: y }
  },
  reference({ x, w, b }, { y, slope }, { activation }) {
    const [K, N, R] = [lastDim(x), w.shape[0] as number, rows(x)]
    for (let r = 0; r < R; r++) {
      for (let n = 0; n < N; n++) {
        let z = b === undefined ? 0 : at(b, n)
        for (let k = 0; k < K; k++) z += at(x, r * K + k) * at(w, n * K + k)
        if (slope !== undefined) slope.data[r * N + n] = activateDerivative(activation, z)
        if (y !== undefined) y.data[r * N + n] = activate(activation, z)
      }
    }
  },
  flops: ({ x, w }) => 2 * rows(x) * lastDim(x) * (w.shape[0] as number),
  cpu: ({ x, w, b }, { y, slope }, { activation, out }) =>
    forwardKernel({
      x,
      w,
      b,
      y,
      slope,
      rows: rows(x),
      in: lastDim(x),
      out: w.shape[0] as number,
      xType: typeOf(x),
      wType: typeOf(w),
      yType: out === "bf16" ? 1 : 0,
      activation: activationIndex(activation),
    }),
  gpu({ x, w, b }, { y, slope }, { activation, order, out }, _, target) {
    const sizes = { M: rows(x), N: w.shape[0] as number, K: lastDim(x) }
    const product = { layout: "nt", a: x, b: w, bias: b, ...sizes, order: order === "any" ? order : "forward" } as const
    return gemm({ ...product, c: y ?? scratch(out, sizes.M * sizes.N), activation, slope }, target)
  },
  backward({ x, w, b }, { slope }, { y }, { activation }) {
    const dy = y as Tensor
    const dz = activation === "none" ? dy : throughActivation(dy, slope)
    const { dw, db } = linearBackwardWeight({ x, dy: dz }, { bias: b !== undefined })
    return { x: linearBackwardInput({ dy: dz, w }, { out: x.dtype }).dx, w: dw, b: b === undefined ? undefined : db }
  },
  cases: [
    { inputs: { x: [1, 1], w: [1, 1] }, attrs: { activation: "none", out: "f32" } },
    { inputs: { x: [3, 5], w: [7, 5], b: [7] }, attrs: { activation: "gelu", out: "f32" } },
    { inputs: { x: [2, 17, 33], w: [50, 33], b: [50] }, attrs: { activation: "gelu_tanh", out: "f32" }, about: "three axes" },
    { inputs: { x: [70, 40], w: [19, 40] }, attrs: { activation: "silu", out: "f32" }, about: "no bias" },
    { inputs: { x: [5, 64], w: [96, 64], b: [96] }, attrs: { activation: "relu2", out: "bf16" }, about: "bf16 result" },
    { inputs: { x: [129, 300], w: [65, 300], b: [65] }, attrs: { activation: "none", out: "f32" }, about: "more than one block" },
    { inputs: { x: [40, 96], w: [136, 96], b: [136] }, attrs: { activation: "gelu", out: "bf16" }, about: "whole packs" },
    { inputs: { x: [5, 192], w: [33, 192], b: [33] }, attrs: { activation: "gelu_tanh", out: "f32" }, about: "few rows, several chunks" },
    { inputs: { x: [70, 1024], w: [48, 1024], b: [48] }, attrs: { activation: "gelu", out: "f32", order: "any" }, about: "any order" },
  ],
})

/** slope ⊙ dy: inside the product that makes dy where there is one, else by a node of its own. */
function throughActivation(dy: Tensor, slope: Tensor): Tensor {
  const producer = tracer().program.nodes.findLast((node) => node.outputs.dx?.id === dy.id)
  if (producer?.op === (linearBackwardInput as Op) && producer.inputs.slope === undefined) {
    producer.inputs.slope = slope
    return dy
  }
  return activationBackward({ dy, slope }).dz
}

/** Both gradients of a linear layer, of which neither waits for the other. */
interface Beside {
  readonly x: Tensor
  readonly dy: Tensor
  readonly w: Tensor
  readonly slope?: Tensor | undefined
  readonly dx: Tensor
  readonly dw: Tensor
}
const inputProduct = ({ dy, w, slope, dx }: Pick<Beside, "dy" | "w" | "slope" | "dx">): Gemm => ({
  ...{ layout: "nn", a: dy, b: w, c: dx, factor: slope },
  ...{ M: rows(dy), N: lastDim(w), K: lastDim(dy), order: "any" },
})
const weightProduct = ({ x, dy, dw }: Pick<Beside, "x" | "dy" | "dw">): Gemm => ({
  ...{ layout: "tn", a: dy, b: x, c: dw },
  ...{ M: lastDim(dy), N: lastDim(x), K: rows(x), order: "any" },
})

export const linearBackwardInput = defineOp({
  name: "linear_backward_input",
  doc: "dx = dy·w, times slope of the layer below where given: dy (…, N), w (N, K), slope and dx (…, K).",
  inputs: { dy: "state", w: "state", slope: "state?" },
  outputs: ["dx"],
  /** `beside`: on a GPU the weight's gradient runs at the same time. */
  attrs: {} as { out: Dtype; beside?: Beside },
  act: ["dy", "w", "slope"],
  inPlace: { dx: "slope" },
  shape({ dy, w }, { out }) {
    if (w.shape[0] !== lastDim(dy))
      throw new ShapeError(`linear_backward_input: dy ${shapeText(dy.shape)} · w ${shapeText(w.shape)} do not fit`)
    return { dx: { shape: [...dy.shape.slice(0, -1), lastDim(w)], dtype: out } }
  },
  reference({ dy, w, slope }, { dx }) {
    const [K, N, R] = [lastDim(w), lastDim(dy), rows(dy)]
    for (let r = 0; r < R; r++) {
      for (let k = 0; k < K; k++) {
        let sum = 0
        for (let n = 0; n < N; n++) sum += at(dy, r * N + n) * at(w, n * K + k)
        dx.data[r * K + k] = slope === undefined ? sum : sum * at(slope, r * K + k)
      }
    }
  },
  flops: ({ dy, w }) => 2 * rows(dy) * lastDim(w) * lastDim(dy),
  cpu: ({ dy, w, slope }, { dx }, { out }) =>
    backwardInputKernel({
      dy,
      w,
      slope,
      dx,
      rows: rows(dy),
      in: lastDim(w),
      out: lastDim(dy),
      dyType: typeOf(dy),
      wType: typeOf(w),
      dxType: out === "bf16" ? 1 : 0,
    }),
  gpu({ dy, w, slope }, { dx }, { beside }, __, target) {
    const given = inputProduct({ dy, w, slope, dx: dx as Tensor })
    const paired = beside && pairing({ weight: weightProduct(beside), input: given }, target)
    return paired === undefined ? gemm(given, target) : ptxLaunchesOf(given, paired.input, target)
  },
  cases: [
    { inputs: { dy: [70, 40], w: [40, 33] }, attrs: { out: "f32" } },
    {
      inputs: { dy: [9, 20], w: [20, 50], slope: { shape: [9, 50], dtype: "f32" } },
      attrs: { out: "f32" },
      about: "through an activation",
    },
    { inputs: { dy: [9, 20], w: [20, 50], slope: { shape: [9, 50], dtype: "bf16" } }, attrs: { out: "bf16" }, about: "the same in bf16" },
    { inputs: { dy: [40, 64], w: [64, 136], slope: { shape: [40, 136], dtype: "bf16" } }, attrs: { out: "bf16" }, about: "whole packs" },
    { inputs: { dy: [3, 600], w: [600, 20], slope: { shape: [3, 20], dtype: "f32" } }, attrs: { out: "f32" }, about: "a long sum" },
  ],
})

export const linearBackwardWeight = defineOp({
  name: "linear_backward_weight",
  doc: "dw = dyᵀ·x (N, K), db = Σ rows of dy (N), both f32: x (…, K), dy (…, N).",
  inputs: { x: "state", dy: "state" },
  outputs: ["dw", "db"],
  /** `beside`: on a GPU the input's gradient runs at the same time, and nothing is added to. */
  attrs: {} as { bias: boolean; beside?: Beside },
  act: ["x", "dy"],
  accumulates: ["dw", "db"],
  shape({ x, dy }, { bias }) {
    if (rows(x) !== rows(dy))
      throw new ShapeError(`linear_backward_weight: x ${shapeText(x.shape)} and dy ${shapeText(dy.shape)} differ in rows`)
    const dw = { shape: [lastDim(dy), lastDim(x)], dtype: "f32" } as const
    return bias ? { dw, db: { shape: [lastDim(dy)], dtype: "f32" } } : { dw }
  },
  reference({ x, dy }, { dw, db }, _, beta) {
    const [K, N, R] = [lastDim(x), lastDim(dy), rows(x)]
    const keep = (out: View, i: number, factor: number | undefined) => (factor === undefined || factor === 0 ? 0 : factor * at(out, i))
    for (let n = 0; n < N; n++) {
      for (let k = 0; k < K; k++) {
        let sum = 0
        for (let r = 0; r < R; r++) sum += at(dy, r * N + n) * at(x, r * K + k)
        if (dw !== undefined) dw.data[n * K + k] = sum + keep(dw, n * K + k, beta("dw"))
      }
      if (db === undefined) continue
      let sum = 0
      for (let r = 0; r < R; r++) sum += at(dy, r * N + n)
      db.data[n] = sum + keep(db, n, beta("db"))
    }
  },
  flops: ({ x, dy }) => 2 * rows(x) * lastDim(x) * lastDim(dy),
  cpu: ({ x, dy }, { dw, db }, _, beta) =>
    backwardWeightKernel({
      x,
      dy,
      dw,
      db,
      betaW: beta("dw"),
      betaB: beta("db"),
      rows: rows(x),
      in: lastDim(x),
      out: lastDim(dy),
      xType: typeOf(x),
      dyType: typeOf(dy),
    }),
  gpu({ x, dy }, { dw, db }, { beside }, beta, target) {
    const product = dw && { ...weightProduct({ x, dy, dw }), beta: beta("dw") }
    const paired = beside && product && pairing({ weight: product, input: inputProduct(beside) }, target)
    if (product !== undefined && paired !== undefined)
      return ptxLaunchesOf(product, paired.weight, target, { rowSums: db && { into: db, beta: 0 } })
    // The product reads dy anyway: where it can, it sums its columns by the way.
    if (product !== undefined && db !== undefined && target.ptx) {
      const both = ptxGemmLaunches(product, target, { into: db, beta: beta("db") ?? 0 })
      if (both !== undefined) return both
    }
    const weight = product === undefined ? [] : gemm(product, target)
    const bias = db === undefined ? [] : biasGradient(dy, db, rows(dy), lastDim(dy), beta("db") ?? 0, target)
    return sideBySide(weight, bias)
  },
  cases: [
    { inputs: { x: [1, 1], dy: [1, 1] }, attrs: { bias: true } },
    { inputs: { x: [70, 33], dy: [70, 19] }, attrs: { bias: true }, about: "odd sizes" },
    { inputs: { x: [3, 50, 40], dy: [3, 50, 65] }, attrs: { bias: false }, about: "no bias" },
    { inputs: { x: [130, 72], dy: [130, 136] }, attrs: { bias: true }, about: "whole packs" },
    { inputs: { x: [600, 8], dy: [600, 24] }, attrs: { bias: true }, about: "a long sum" },
  ],
})

const at = (view: View, i: number): number => view.data[i] as number

export const matmulOps = [linear, linearBackwardInput, linearBackwardWeight]
