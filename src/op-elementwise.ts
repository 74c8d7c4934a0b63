/** Element by element: sums, copies, casts, the soft cap. */
import * as shaders from "../shaders/elementwise.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { groupsFor, launch } from "./op-gpu.ts"
import type { View } from "./program.ts"
import { type Dtype, elements, expectShape, type Tensor } from "./tensor.ts"

const addKernel = nativeKernel("add", {
  a: "pointer",
  b: "pointer",
  y: "pointer",
  size: "int",
  aType: "int",
  bType: "int",
  yType: "int",
})
const assignKernel = nativeKernel("assign", { x: "pointer", y: "pointer", beta: "pointer", size: "int", xType: "int" })

const at = (view: View, i: number): number => view.data[i] as number

/** The dtype of a sum: f32 unless both terms are bf16. */
const wider = (a: Tensor, b: Tensor): Dtype => (a.dtype === "bf16" && b.dtype === "bf16" ? "bf16" : "f32")

export const add = defineOp({
  name: "add",
  doc: "y = a + b; all of one shape, f32 or bf16; y is f32 unless both are bf16.",
  inputs: { a: "grad", b: "grad" },
  outputs: ["y"],
  act: ["a", "b"],
  inPlace: { y: "a" },
  shape({ a, b }) {
    expectShape("add", "b", b, a.shape, "a")
    return { y: { shape: a.shape, dtype: wider(a, b) } }
  },
  reference({ a, b }, { y }) {
    for (let i = 0; i < y.data.length; i++) y.data[i] = at(a, i) + at(b, i)
  },
  cpu: ({ a, b }, { y }) =>
    addKernel({ a, b, y, size: elements(a), aType: typeOf(a), bType: typeOf(b), yType: wider(a, b) === "bf16" ? 1 : 0 }),
  gpu: ({ a, b }, { y }, _, __, target) => [launch(shaders.add, { a, b, y, n: elements(a) }, groupsFor(elements(a), shaders.PACK, target))],
  backward: ({ a, b }, _, { y }) => ({ a: asType(y as Tensor, a.dtype), b: asType(y as Tensor, b.dtype) }),
  cases: [
    { inputs: { a: [], b: [] }, about: "scalars" },
    { inputs: { a: [3, 37], b: [3, 37] }, about: "odd sizes" },
    { inputs: { a: { shape: [2, 17], dtype: "f32" }, b: [2, 17] }, about: "f32 + act" },
    { inputs: { a: [5, 70], b: { shape: [5, 70], dtype: "f32" } }, about: "act + f32" },
    { inputs: { a: [3, 11003], b: [3, 11003] }, about: "several tasks" },
  ],
})

/** `x` itself where it has this dtype already. */
const asType = (x: Tensor, to: Dtype): Tensor => (x.dtype === to ? x : cast({ x }, { to }).y)

const castKernel = nativeKernel("cast", { x: "pointer", y: "pointer", size: "int", xType: "int", yType: "int" })

export const cast = defineOp({
  name: "cast",
  doc: "y = x in another dtype, f32 or bf16 (nearest even); the gradient stays in the dtype it arrives in when that is x's.",
  inputs: { x: "grad" },
  outputs: ["y"],
  attrs: {} as { to: Dtype },
  act: ["x"],
  shape: ({ x }, { to }) => ({ y: { shape: x.shape, dtype: to } }),
  reference({ x }, { y }) {
    for (let i = 0; i < y.data.length; i++) y.data[i] = at(x, i)
  },
  cpu: ({ x }, { y }, { to }) => castKernel({ x, y, size: elements(x), xType: typeOf(x), yType: to === "bf16" ? 1 : 0 }),
  gpu: ({ x }, { y }, _, __, target) => [launch(shaders.cast, { x, y, n: elements(x) }, groupsFor(elements(x), shaders.PACK, target))],
  backward: ({ x }, _, { y }) => ({ x: asType(y as Tensor, x.dtype) }),
  cases: [
    { inputs: { x: [1] }, attrs: { to: "bf16" } },
    { inputs: { x: [3, 37] }, attrs: { to: "f32" }, about: "to f32" },
    { inputs: { x: [2, 9001] }, attrs: { to: "bf16" }, about: "to bf16" },
  ],
})

export const assign = defineOp({
  name: "assign",
  doc: "y = x as f32, or beta·y + x where y is a state: how a gradient gets to its place.",
  inputs: { x: "grad" },
  outputs: ["y"],
  act: ["x"],
  accumulates: ["y"],
  shape: ({ x }) => ({ y: { shape: x.shape, dtype: "f32" } }),
  reference({ x }, { y }, _, beta) {
    const factor = beta("y") ?? 0
    for (let i = 0; i < y.data.length; i++) y.data[i] = at(x, i) + (factor === 0 ? 0 : factor * at(y, i))
  },
  cpu: ({ x }, { y }, _, beta) => assignKernel({ x, y, beta: beta("y"), size: elements(x), xType: typeOf(x) }),
  gpu: ({ x }, { y }, _, beta, target) => [
    launch(shaders.assign, { x, y, n: elements(x), beta: beta("y") ?? 0 }, groupsFor(elements(x), shaders.PACK, target)),
  ],
  backward: ({ x }, _, { y }) => ({ x: asType(y as Tensor, x.dtype) }),
  cases: [{ inputs: { x: [] }, about: "scalar" }, { inputs: { x: [3, 37] } }, { inputs: { x: [2, 9001] }, about: "several tasks" }],
})

const softCapKernel = nativeKernel("soft_cap", { x: "pointer", dy: "pointer", y: "pointer", size: "int", type: "int", cap: "float" })

export const softCap = defineOp({
  name: "soft_cap",
  doc: "y = cap·tanh(x/cap): bounded by ±cap, the identity near 0. arXiv:2408.00118",
  inputs: { x: "grad" },
  outputs: ["y"],
  attrs: {} as { cap: number },
  act: ["x"],
  inPlace: { y: "x" },
  shape: ({ x }) => ({ y: x }),
  reference({ x }, { y }, { cap }) {
    for (let i = 0; i < y.data.length; i++) y.data[i] = cap * Math.tanh(at(x, i) / cap)
  },
  cpu: ({ x }, { y }, { cap }) => softCapKernel({ x, dy: undefined, y, size: elements(x), type: typeOf(x), cap }),
  gpu: ({ x }, { y }, { cap }, _, target) => [
    launch(shaders.softCap, { x, y, n: elements(x), cap, inverse: 1 / cap }, groupsFor(elements(x), shaders.PACK, target)),
  ],
  backward: ({ x }, _, { y: dy }, attrs) => ({ x: softCapBackward({ x, dy: dy as Tensor }, attrs).dx }),
  cases: [
    { inputs: { x: [1] }, attrs: { cap: 30 } },
    { inputs: { x: [3, 37] }, attrs: { cap: 0.7 }, about: "mostly capped" },
    { inputs: { x: [2, 9001] }, attrs: { cap: 30 }, about: "several tasks" },
  ],
})

export const softCapBackward = defineOp({
  name: "soft_cap_backward",
  doc: "dx = dy·(1 − tanh²(x/cap)).",
  inputs: { x: "state", dy: "state" },
  outputs: ["dx"],
  attrs: {} as { cap: number },
  act: ["x", "dy"],
  inPlace: { dx: "dy" },
  shape({ x, dy }) {
    expectShape("soft_cap_backward", "dy", dy, x.shape, "x")
    return { dx: x }
  },
  reference({ x, dy }, { dx }, { cap }) {
    for (let i = 0; i < dx.data.length; i++) dx.data[i] = at(dy, i) * (1 - Math.tanh(at(x, i) / cap) ** 2)
  },
  cpu: ({ x, dy }, { dx }, { cap }) => softCapKernel({ x, dy, y: dx, size: elements(x), type: typeOf(x), cap }),
  gpu: ({ x, dy }, { dx }, { cap }, _, target) => [
    launch(shaders.softCapBackward, { x, dy, dx, n: elements(x), inverse: 1 / cap }, groupsFor(elements(x), shaders.PACK, target)),
  ],
  cases: [
    { inputs: { x: [3, 37], dy: [3, 37] }, attrs: { cap: 0.7 }, about: "mostly capped" },
    { inputs: { x: [2, 9001], dy: [2, 9001] }, attrs: { cap: 30 }, about: "several tasks" },
  ],
})

export const elementwiseOps = [add, cast, assign, softCap, softCapBackward]
