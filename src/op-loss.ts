/** The classifier: logits, cross-entropy and both gradients in one op, so that the logits of all rows never exist at once. */
import { AlphaError } from "./base-error.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { classifierLaunches } from "./op-loss-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, lastDim, rows, ShapeError, shapeText } from "./tensor.ts"

const classifierKernel = nativeKernel("classifier", {
  x: "pointer",
  w: "pointer",
  targets: "pointer",
  loss: "pointer",
  count: "pointer",
  dx: "pointer",
  dw: "pointer",
  beta: "pointer",
  rows: "int",
  channels: "int",
  classes: "int",
  xType: "int",
  wType: "int",
  softCap: "float",
})

const at = (view: View, i: number): number => view.data[i] as number

export const classifier = defineOp({
  name: "classifier",
  doc: `loss = Σ over rows with a target of −ln softmax(z[r])[targets[r]], z = x·wᵀ or cap·tanh(x·wᵀ/cap); count = those rows.
    x (R, C), w (V, C), targets (R) in [0, V) or −1 = not counted; a larger target makes the loss NaN. dx (R, C), dw (V, C) f32: gradients of loss,
    made in the same pass. 6·R·C·V FLOPs; z exists for a chunk of rows.`,
  inputs: { x: "grad", w: "grad", targets: "index" },
  outputs: ["loss", "count", "dx", "dw"],
  attrs: {} as { softCap?: number },
  act: ["x", "w"],
  accumulates: ["dw"],
  shape({ x, w, targets }) {
    if (w.shape.length !== 2 || lastDim(w) !== lastDim(x)) {
      throw new ShapeError(`classifier: x ${shapeText(x.shape)} · w ${shapeText(w.shape)}ᵀ: the last axes differ`)
    }
    expectShape("classifier", "targets", targets, x.shape.slice(0, -1), `x ${shapeText(x.shape)}`)
    const scalar = { shape: [], dtype: "f32" } as const
    return { loss: scalar, count: scalar, dx: x, dw: { shape: w.shape, dtype: "f32" } }
  },
  reference({ x, w, targets }, { loss, count, dx, dw }, { softCap }, beta) {
    const [R, C, V] = [rows(x), lastDim(x), w.shape[0] as number]
    const keep = beta("dw") ?? 0
    if (dw !== undefined) for (let i = 0; i < V * C; i++) dw.data[i] = keep === 0 ? 0 : keep * at(dw, i)
    if (dx !== undefined) dx.data.fill(0)
    let [sum, counted] = [0, 0]
    for (let r = 0; r < R; r++) {
      const target = at(targets, r)
      if (target < 0) continue
      const z = Array.from({ length: V }, (_, v) => {
        let dot = 0
        for (let c = 0; c < C; c++) dot += at(x, r * C + c) * at(w, v * C + c)
        return softCap === undefined ? dot : softCap * Math.tanh(dot / softCap)
      })
      const max = Math.max(...z)
      const lse = max + Math.log(z.reduce((total, value) => total + Math.exp(value - max), 0))
      sum += lse - (z[target] ?? Number.NaN)
      counted++
      z.forEach((value, v) => {
        const slope = softCap === undefined ? 1 : 1 - (value / softCap) ** 2
        const dz = (Math.exp(value - lse) - (v === target ? 1 : 0)) * slope
        for (let c = 0; c < C; c++) {
          if (dx !== undefined) dx.data[r * C + c] = at(dx, r * C + c) + dz * at(w, v * C + c)
          if (dw !== undefined) dw.data[v * C + c] = at(dw, v * C + c) + dz * at(x, r * C + c)
        }
      })
    }
    if (loss !== undefined) loss.data[0] = sum
    if (count !== undefined) count.data[0] = counted
  },
  flops: ({ x, w }) => 6 * rows(x) * lastDim(x) * (w.shape[0] as number),
  cpu: ({ x, w, targets }, { loss, count, dx, dw }, { softCap }, beta) =>
    classifierKernel({
      x,
      w,
      targets,
      loss,
      count,
      dx,
      dw,
      beta: beta("dw"),
      rows: rows(x),
      channels: lastDim(x),
      classes: w.shape[0] as number,
      xType: typeOf(x),
      wType: typeOf(w),
      softCap: softCap ?? 0,
    }),
  gpu: (inputs, outputs, { softCap }, beta, target) => classifierLaunches(inputs, outputs, softCap, beta, target),
  backward(_, { dx, dw }, { loss }) {
    if (loss?.role !== "constant" || loss.value !== 1) {
      throw new AlphaError("classifier: its loss must be the loss that is differentiated, not a part of it", {
        hint: "the gradients are made together with the loss, for an upstream gradient of 1",
      })
    }
    return { x: dx, w: dw }
  },
  cases: [
    { inputs: { x: [1, 1], w: [1, 1], targets: { shape: [1], values: [0] } }, about: "one class" },
    { inputs: { x: [3, 5], w: [7, 5], targets: { shape: [3], values: [6, -1, 0] } }, about: "a row not counted" },
    { inputs: { x: [2, 4], w: [3, 4], targets: { shape: [2], values: [-1, -1] } }, about: "no row counted" },
    { inputs: { x: [2, 9, 33], w: [65, 33], targets: { shape: [2, 9], from: -1, below: 65 } }, about: "three axes" },
    { inputs: { x: [70, 16], w: [40, 16], targets: { shape: [70], from: -1, below: 40 } }, attrs: { softCap: 3 }, about: "soft cap" },
    { inputs: { x: [300, 8], w: [131, 8], targets: { shape: [300], from: -1, below: 131 } }, about: "several tasks" },
  ],
})

export const lossOps = [classifier]
