/** SwiGLU: the gated activation of Llama's feed-forward layer. */
import { PACK } from "../shaders/elementwise.ts"
import * as shaders from "../shaders/swiglu.ts"
import { nativeKernel } from "./native.ts"
import { activate, activateDerivative } from "./op-activation.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { groupsFor, launch } from "./op-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, lastDim, rows, ShapeError, shapeText, type Tensor } from "./tensor.ts"

const swigluKernel = nativeKernel("swiglu", { x: "pointer", y: "pointer", rows: "int", columns: "int", type: "int" })
const swigluBackwardKernel = nativeKernel("swiglu_backward", {
  x: "pointer",
  dy: "pointer",
  dx: "pointer",
  rows: "int",
  columns: "int",
  type: "int",
})

const at = (view: View, i: number): number => view.data[i] as number

/** Shape of y: half of x's columns. */
function halfShape(op: string, x: Tensor): number[] {
  if (lastDim(x) % 2 !== 0)
    throw new ShapeError(`${op}: x ${shapeText(x.shape)} has an odd number of columns, so it cannot hold gate and up`)
  return [...x.shape.slice(0, -1), lastDim(x) / 2]
}

export const swiglu = defineOp({
  name: "swiglu",
  doc: "y[r,f] = silu(x[r,f])·x[r,F+f]: x (…, 2F) holds gate, then up; y (…, F). arXiv:2002.05202",
  inputs: { x: "grad" },
  outputs: ["y"],
  act: ["x"],
  shape: ({ x }) => ({ y: { shape: halfShape("swiglu", x), dtype: x.dtype } }),
  reference({ x }, { y }) {
    const F = lastDim(y)
    for (let i = 0; i < y.data.length; i++) {
      const gate = 2 * i - (i % F) // row·2F + f
      y.data[i] = activate("silu", at(x, gate)) * at(x, gate + F)
    }
  },
  cpu: ({ x }, { y }) => swigluKernel({ x, y, rows: rows(x), columns: lastDim(x) / 2, type: typeOf(x) }),
  gpu({ x }, { y }, _, __, target) {
    const [R, F] = [rows(x), lastDim(x) / 2]
    return [launch(shaders.swiglu[F % PACK === 0 ? "packed" : "any"], { x, y, R, F }, groupsFor(R * F, PACK, target))]
  },
  backward: ({ x }, _, { y: dy }) => ({ x: swigluBackward({ x, dy: dy as Tensor }).dx }),
  cases: [
    { inputs: { x: [1, 2] } },
    { inputs: { x: [3, 7, 74] }, about: "odd sizes" },
    { inputs: { x: [101, 400] }, about: "several tasks" },
  ],
})

export const swigluBackward = defineOp({
  name: "swiglu_backward",
  doc: "dx[r,f] = dy[r,f]·x[r,F+f]·silu'(x[r,f]), dx[r,F+f] = dy[r,f]·silu(x[r,f]).",
  inputs: { x: "state", dy: "state" },
  outputs: ["dx"],
  act: ["x", "dy"],
  inPlace: { dx: "x" },
  shape({ x, dy }) {
    expectShape("swiglu_backward", "dy", dy, halfShape("swiglu_backward", x), `x ${shapeText(x.shape)}`)
    return { dx: x }
  },
  reference({ x, dy }, { dx }) {
    const F = lastDim(dy)
    for (let i = 0; i < dy.data.length; i++) {
      const gate = 2 * i - (i % F)
      dx.data[gate] = at(dy, i) * at(x, gate + F) * activateDerivative("silu", at(x, gate))
      dx.data[gate + F] = at(dy, i) * activate("silu", at(x, gate))
    }
  },
  cpu: ({ x, dy }, { dx }) => swigluBackwardKernel({ x, dy, dx, rows: rows(x), columns: lastDim(dy), type: typeOf(x) }),
  gpu({ x, dy }, { dx }, _, __, target) {
    const [R, F] = [rows(x), lastDim(dy)]
    return [launch(shaders.swigluBackward[F % PACK === 0 ? "packed" : "any"], { x, dy, dx, R, F }, groupsFor(R * F, PACK, target))]
  },
  cases: [
    { inputs: { x: [1, 2], dy: [1, 1] } },
    { inputs: { x: [3, 7, 74], dy: [3, 7, 37] }, about: "odd sizes" },
    { inputs: { x: [101, 400], dy: [101, 200] }, about: "several tasks" },
  ],
})

export const swigluOps = [swiglu, swigluBackward]
