/** Known answers of the classifier from PyTorch 2.13 (cross_entropy with ignore_index, f64), and its limits. */
import { expect, test } from "bun:test"
import { fillNormal } from "../src/base-random.ts"
import { openCpu } from "../src/cpu.ts"
import { gradients } from "../src/grad.ts"
import { add, classifier } from "../src/op.ts"
import { plan, trace } from "../src/program.ts"
import { evaluate, expectValues } from "./op-evaluate.ts"
import { relativeL2 } from "./support.ts"

const matrix = (rows: number, columns: number, f: (i: number) => number) =>
  Array.from({ length: rows }, (_, r) => Array.from({ length: columns }, (_, c) => f(r * columns + c)))

const given = {
  x: matrix(4, 3, (i) => Math.sin(1 + 3 * i)),
  w: matrix(5, 3, (i) => 2 * Math.cos(2 * i)),
  targets: { ints: [2, -1, 0, 4] },
}

test("loss and gradients, one row not counted", () => {
  const got = evaluate(given, ({ x, w, targets }) => classifier({ x, w, targets }, {}))
  expectValues(got.loss, [6.1670609815863955])
  expectValues(got.count, [3])
  expectValues(got.dx, [0.1852921, -0.6831647, 0.3833016, 0, 0, 0, -0.4254478, 1.056066, -0.4535092, 0.9034751, -1.437638, 0.2930619])
  expectValues(got.dw, [
    ...[0.4366215, -0.5549543, 0.6621797, 0.3186874, -0.3002163, 0.2757364, -0.6649443, 0.5978441, -0.5187781],
    ...[0.1070808, -0.08970785, 0.07053937, -0.1974454, 0.3470343, -0.4896774],
  ])
})

test("with a soft cap", () => {
  const got = evaluate(given, ({ x, w, targets }) => classifier({ x, w, targets }, { softCap: 1.5 }))
  expectValues(got.loss, [5.79878788639341])
  expectValues(got.dx, [-0.5221148, -0.400378, 0.8553468, 0, 0, 0, -0.3860155, 0.9673938, -0.4191402, 1.119609, -0.8499306, -0.4122169])
  expectValues(got.dw, [
    ...[0.1574522, -0.2904292, 0.4175932, 0.2849818, -0.2700351, 0.2496837, -0.6580844, 0.5935985, -0.5172316],
    ...[0.09306578, -0.07381903, 0.05309479, -0.08051911, 0.1665278, -0.2492035],
  ])
})

test("a target that is no class makes the loss NaN", () => {
  const got = evaluate({ ...given, targets: { ints: [2, 5, 0, 4] } }, ({ x, w, targets }) => {
    const { loss } = classifier({ x, w, targets }, {})
    return { loss }
  })
  expect(got.loss?.cpu[0]).toBeNaN()
})

test("logits far apart do not overflow", () => {
  const wide = { x: [[100, -100]], w: matrix(3, 2, (i) => [9, -9, 0, 0, -9, 9][i] as number), targets: { ints: [1] } }
  const got = evaluate(wide, ({ x, w, targets }) => classifier({ x, w, targets }, {}))
  expectValues(got.loss, [1800])
  expectValues(got.dx, [9, -9])
})

test("only the loss itself can be differentiated", () => {
  const build = () =>
    trace("half", (t) => {
      const [x, w] = [t.state("x", "f32", [2, 3]), t.state("w", "f32", [5, 3])]
      const { loss } = classifier({ x, w, targets: t.input("targets", "i32", [2]) }, {})
      const { y } = add({ a: loss, b: loss }) // contributes twice, so its gradient is no constant
      gradients(y, new Map([[w, { into: t.state("dw", "f32", [5, 3]), beta: t.constant(0) }]]))
    })
  expect(build).toThrow("classifier: its loss must be the loss that is differentiated")
})

/** Sums and gradients of the first `rows` rows from `from` on, with more classes than a chunk of all rows has room for. */
function sums(from: number, rows: number, gradient: boolean) {
  const [R, C, V] = [90, 3, 200_003]
  const [x, w] = [new Float32Array(R * C), new Float32Array(V * C)]
  fillNormal(x, 1, 1, 1)
  fillNormal(w, 1, 2, 1)
  const device = openCpu(2)
  const state = device.state()
  const made = plan(
    trace("sums", (t) => {
      const inputs = { x: t.state("x", "f32", [rows, C]), w: t.state("w", "f32", [V, C]), targets: t.input("targets", "i32", [rows]) }
      const { loss, dx, dw } = classifier(inputs, {})
      t.output("loss", loss)
      if (!gradient) return
      t.output("dx", dx)
      t.output("dw", dw)
    }),
  )
  const run = device.compile(made, state)
  state.write("x", x.slice(from * C, (from + rows) * C))
  state.write("w", w)
  const out = run.submit({ targets: Int32Array.from({ length: rows }, (_, r) => ((from + r) * 7919) % V) })
  const read = (name: string) => Float64Array.from(gradient || name === "loss" ? out.read(name) : [])
  const result = { loss: read("loss")[0] as number, dx: read("dx"), dw: read("dw") }
  run.free()
  state.free()
  return result
}

test("rows in several chunks: the sum of parts; the same loss when no gradient is wanted", () => {
  const [whole, head, tail] = [sums(0, 90, true), sums(0, 50, true), sums(50, 40, true)]
  expect(whole.loss / (head.loss + tail.loss)).toBeCloseTo(1, 6)
  expect(relativeL2(whole.dx, [...head.dx, ...tail.dx])).toBeLessThan(2e-6)
  expect(
    relativeL2(
      whole.dw,
      head.dw.map((v, i) => v + (tail.dw[i] as number)),
    ),
  ).toBeLessThan(2e-6)
  expect(sums(0, 90, false).loss).toBe(whole.loss)
})
