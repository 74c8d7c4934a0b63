/** A random projection to a scalar: how the gradient check makes a loss of any output. */
import * as shaders from "../shaders/weighted-sum.ts"
import { normal } from "./base-random.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { groupsFor, launch } from "./op-gpu.ts"
import { type Dtype, elements, type Tensor } from "./tensor.ts"

const weightedSumKernel = nativeKernel("weighted_sum", { x: "pointer", y: "pointer", size: "int", xType: "int", stream: "int" })
const weightedSumBackwardKernel = nativeKernel("weighted_sum_backward", {
  dy: "pointer",
  dx: "pointer",
  size: "int",
  dxType: "int",
  stream: "int",
})

/** The stream-th random direction at i; its seed is fixed. */
const direction = (stream: number, i: number): number => normal(1, stream, 0, i)

export const weightedSum = defineOp({
  name: "weighted_sum",
  doc: "y () = Σᵢ x[i]·normal(1, stream, 0, i): a scalar that depends on every element, for the gradient check.",
  inputs: { x: "grad" },
  outputs: ["y"],
  attrs: {} as { stream: number },
  act: ["x"],
  shape: () => ({ y: { shape: [], dtype: "f32" } }),
  reference({ x }, { y }, { stream }) {
    let sum = 0
    for (let i = 0; i < x.data.length; i++) sum += (x.data[i] as number) * direction(stream, i)
    y.data[0] = sum
  },
  cpu: ({ x }, { y }, { stream }) => weightedSumKernel({ x, y, size: elements(x), xType: typeOf(x), stream }),
  gpu: ({ x }, { y }, { stream }) => [launch(shaders.weightedSum, { x, y, n: elements(x), stream }, 1)],
  backward: ({ x }, _, { y: dy }, { stream }) => ({
    x: weightedSumBackward({ dy: dy as Tensor }, { stream, shape: x.shape, dtype: x.dtype }).dx,
  }),
  cases: [
    { inputs: { x: [1] }, attrs: { stream: 3 } },
    { inputs: { x: [7, 13] }, attrs: { stream: 77 } },
  ],
})

export const weightedSumBackward = defineOp({
  name: "weighted_sum_backward",
  doc: "dx[i] = dy·normal(1, stream, 0, i).",
  inputs: { dy: "state" },
  outputs: ["dx"],
  attrs: {} as { stream: number; shape: readonly number[]; dtype: Dtype },
  shape: (_, { shape, dtype }) => ({ dx: { shape, dtype } }),
  reference({ dy }, { dx }, { stream }) {
    for (let i = 0; i < dx.data.length; i++) dx.data[i] = (dy.data[0] as number) * direction(stream, i)
  },
  cpu: ({ dy }, { dx }, { stream, shape, dtype }) =>
    weightedSumBackwardKernel({ dy, dx, size: elements({ shape }), dxType: dtype === "bf16" ? 1 : 0, stream }),
  gpu: ({ dy }, { dx }, { stream, shape }, _, target) => [
    launch(shaders.weightedSumBackward, { dy, dx, n: elements({ shape }), stream }, groupsFor(elements({ shape }), 4, target)),
  ],
  cases: [{ inputs: { dy: [] }, attrs: { stream: 5, shape: [3, 7], dtype: "f32" } }],
})

export const weightedSumOps = [weightedSum, weightedSumBackward]
