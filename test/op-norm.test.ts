/** Known answers of the norms, from PyTorch 2.13 in f64, LlamaRMSNorm and Qwen3RMSNorm of transformers 5.17. */
import { expect, test } from "bun:test"
import { openCpu } from "../src/cpu.ts"
import {
  add,
  addLayerNorm,
  addRmsNorm,
  dropout,
  layerNorm,
  layerNormBackward,
  qkNorm,
  relativeL2,
  rmsNorm,
  rmsNormBackward,
  rope,
  runReference,
  softCap,
} from "../src/op.ts"
import { plan, trace } from "../src/program.ts"
import { elements } from "../src/tensor.ts"
import { evaluate, expectValues } from "./op-evaluate.ts"

const x = [
  [0.5, -1.25, 2, 0.75, -0.1],
  [3, 3.5, 2.5, -4, 0],
]
const r = [
  [0.25, 0.5, -1, 0.1, 0.3],
  [-1, 0, 1.5, 2, -0.5],
]
const w = [1, 0.5, -2, 1.5, 0.25]
const b = [0.1, -0.2, 0.3, 0, 1]
/** Gradients of y and of the sum. */
const dy = [
  [1, -0.5, 0.25, 2, 0],
  [0.5, 0.5, -1, 1, -2],
]
const dsum = [
  [0.1, 0.2, -0.3, 0.4, 0.5],
  [-0.5, 1, 0, 0.25, 0.75],
]

test("layer norm of a residual sum, and its gradients", () => {
  const got = evaluate({ x, r, w, b, dy, dsum }, ({ x, r, w, b, dy, dsum }) => {
    const { y, sum, mean, rstd } = addLayerNorm({ x, r, w, b }, { eps: 1e-5, out: "f32" })
    const alone = layerNorm({ x: sum, w, b }, { eps: 1e-5, out: "f32" }).y
    return { y, alone, ...layerNormBackward({ x: sum, w, mean, rstd, dy, dsum }, {}) }
  })
  const y = [0.631373258, -1.10646026, -1.54417778, 1.03148926, 0.917949718, 0.35964515, 0.254379013, -1.95025797, -2.20698378, 0.794447589]
  expectValues(got.y, y)
  expectValues(got.alone, y)
  expectValues(got.dx, [
    ...[0.217396968, 0.259134616, -2.84278278, 3.51676763, -0.250516427],
    ...[-0.626418953, 0.719811884, 0.461915678, 0.677879455, 0.266811937],
  ])
  expectValues(got.dw, [0.661195833, 1.36083928, -0.894606763, -0.0960034989, 1.64441929])
  expectValues(got.db, [1.5, 0, -0.75, 3, -2])
})

test("RMS norm of a residual sum, and its gradients", () => {
  const got = evaluate({ x, r, w, dy, dsum }, ({ x, r, w, dy, dsum }) => {
    const { y, sum, rstd } = addRmsNorm({ x, r, w }, { eps: 1e-6, out: "f32" })
    const alone = rmsNorm({ x: sum, w }, { eps: 1e-6, out: "f32" }).y
    return { y, alone, sum, ...rmsNormBackward({ x: sum, w, rstd, dy, dsum }, {}) }
  })
  const y = [
    0.986926688, -0.493463344, -2.6318045, 1.67777537, 0.0657951125, 0.740233159, 0.647704015, -2.96093264, -1.11034974, -0.0462645725,
  ]
  expectValues(got.y, y)
  expectValues(got.alone, y)
  expectValues(got.sum, [0.75, -0.75, 1, 0.85, 0.2, 2, 3.5, 4, -2, -0.5])
  expectValues(got.dx, [
    ...[0.394798052, 0.892128636, -2.31942339, 3.19045533, 0.227705547],
    ...[-0.459439259, 0.839658434, 0.451238061, 0.949672419, 0.601066097],
  ])
  expectValues(got.dw, [1.35704327, 1.14116736, -1.15149076, 1.49680067, 0.37011658])
})

test("QK-norm leaves values alone", () => {
  const head = [1, -2, 3, 0.5]
  const { y } = evaluate({ qkv: [[...head, ...head, ...head]], qw: [1, 2, 0.5, -1], kw: [1, 1, 1, 1] }, ({ qkv, qw, kw }) => ({
    y: qkNorm({ qkv, qw, kw }, { nHead: 1, nKvHead: 1, headDim: 4, eps: 1e-6 }).y,
  }))
  const key = [0.529812872, -1.059625744, 1.589438616, 0.264906436]
  expectValues(y, [0.529812872, -2.11925149, 0.794719338, -0.264906436, ...key, ...head])
})

test("a row's norm does not depend on its neighbours", () => {
  const wide = Array.from({ length: 9 }, (_, row) => Array.from({ length: 133 }, (_, c) => Math.sin(row * 133 + c)))
  const weights = Array.from({ length: 133 }, (_, c) => 1 + c / 100)
  const norms = (rows: readonly (readonly number[])[]) =>
    evaluate({ x: rows, w: weights }, ({ x, w }) => ({
      layer: layerNorm({ x, w }, { eps: 1e-5, out: "f32" }).y,
      rms: rmsNorm({ x, w }, { eps: 1e-5, out: "f32" }).y,
    }))
  const all = norms(wide)
  const alone = norms(wide.slice(4, 5))
  for (const name of ["layer", "rms"]) expect([...(all[name]?.cpu ?? [])].slice(4 * 133, 5 * 133)).toEqual([...(alone[name]?.cpu ?? [])])
})

test("a large common offset does not eat the variance", () => {
  const offset = 4096
  const { y } = evaluate({ x: [[offset - 1, offset + 1, offset - 1, offset + 1]], w: [1, 1, 1, 1] }, ({ x, w }) => ({
    y: layerNorm({ x, w }, { eps: 1e-5, out: "f32" }).y,
  }))
  expectValues(y, [-1, 1, -1, 1], 1e-5)
})

test("not a number stays in its row", () => {
  const { y } = evaluate(
    {
      x: [
        [1, Number.NaN, 2],
        [1, 0, 2],
      ],
      w: [1, 1, 1],
    },
    ({ x, w }) => ({ y: rmsNorm({ x, w }, { eps: 1e-5, out: "f32" }).y }),
  )
  expect([...(y?.cpu ?? [])].map(Number.isNaN)).toEqual([true, true, true, false, false, false])
})

test("ops that take over their input's memory compute the same", () => {
  const R = 70
  const made = plan(
    trace("in place", (t) => {
      const given = (name: string) => t.state(name, "f32", [R, 288])
      const twice = (name: string) => add({ a: given(name), b: given(name) }).y // a temporary that may be overwritten
      const { y, sum } = addRmsNorm({ x: twice("x"), r: twice("r"), w: t.state("w", "f32", [288]) }, { eps: 1e-5, out: "f32" })
      const heads = { nHead: 2, nKvHead: 2, headDim: 48 }
      const turned = rope({ qkv: y }, { ...heads, T: 35, theta: 10_000, scaling: "none" }).y
      const normed = qkNorm({ qkv: turned, qw: t.state("qw", "f32", [48]), kw: t.state("kw", "f32", [48]) }, { ...heads, eps: 1e-5 }).y
      const capped = softCap({ x: normed }, { cap: 2 }).y
      t.output(
        "y",
        dropout({ x: capped, seed: t.live("seed", "i32"), step: t.live("step", "i32"), row: t.live("row", "i32") }, { p: 0.2, site: 1 }).y,
      )
      t.output("sum", sum)
    }),
  )
  expect(new Set(made.offsets.values()).size).toBe(2) // x and r: everything else is in place
  const values = new Map(
    [...made.program.states.values()].map((s) => [s.name, Float64Array.from({ length: elements(s) }, (_, i) => Math.fround(Math.sin(i)))]),
  )
  const counters = { seed: 3, step: 4, row: 5 }
  const exact = runReference(made.program, new Map(values), counters)
  const device = openCpu(2)
  const state = device.state()
  const run = device.compile(made, state)
  for (const [name, value] of values) state.write(name, Float32Array.from(value))
  const got = run.submit(counters)
  for (const name of ["y", "sum"]) expect(relativeL2(got.read(name), exact.get(name) as Float64Array)).toBeLessThan(1e-5)
})
