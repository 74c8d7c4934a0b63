/** Dropout by counter: the same mask for any batching, thread count or recomputation. */

import { dropoutEdge, dropout as dropoutShader } from "../shaders/dropout.ts"
import { PACK } from "../shaders/elementwise.ts"
import { uniform } from "./base-random.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { groupsFor, launch } from "./op-gpu.ts"
import { elements, lastDim, ShapeError, type Tensor } from "./tensor.ts"

const dropoutKernel = nativeKernel("dropout", {
  x: "pointer",
  y: "pointer",
  seed: "pointer",
  step: "pointer",
  row: "pointer",
  size: "int",
  columns: "int",
  type: "int",
  site: "int",
  threshold: "int",
  scale: "float",
})

const integer = (value: number) => ({ shape: [], dtype: "i32", values: [value] }) as const
const counters = { seed: integer(1234), step: integer(7), row: integer(5) }

export const dropout = defineOp({
  name: "dropout",
  doc: "y[r,c] = u < p ? 0 : x[r,c]/(1 − p), u = uniform(seed, site, step, (row + r)·C + c): x, y (…, C); seed, step, row () i32. Its own backward.",
  inputs: { x: "grad", seed: "scalar", step: "scalar", row: "scalar" },
  outputs: ["y"],
  /** p in [0, 1); site tells apart the dropouts of a model. */
  attrs: {} as { p: number; site: number },
  act: ["x"],
  inPlace: { y: "x" },
  shape({ x, seed, step, row }) {
    for (const [name, t] of Object.entries({ seed, step, row }))
      if (t.dtype !== "i32") throw new ShapeError(`dropout: ${name} is ${t.dtype}, not i32`)
    return { y: x }
  },
  reference({ x, seed, step, row }, { y }, { p, site }) {
    const first = (row.data[0] as number) * lastDim(x)
    for (let i = 0; i < y.data.length; i++) {
      const u = uniform(seed.data[0] as number, site, step.data[0] as number, first + i)
      y.data[i] = u < p ? 0 : (x.data[i] as number) / (1 - p)
    }
  },
  cpu: ({ x, seed, step, row }, { y }, { p, site }) =>
    dropoutKernel({
      x,
      y,
      seed,
      step,
      row,
      size: elements(x),
      columns: lastDim(x),
      type: typeOf(x),
      site,
      threshold: Math.ceil(p * 2 ** 24),
      scale: 1 / (1 - p),
    }),
  gpu({ x, seed, step, row }, { y }, { p, site }, _, target) {
    const [n, C] = [elements(x), lastDim(x)]
    const values = { x, y, n, C, site, threshold: Math.ceil(p * 2 ** 24), scale: 1 / (1 - p), seed, step, row }
    return [launch(C % 4 === 0 ? dropoutShader : dropoutEdge, values, groupsFor(n, PACK, target))]
  },
  backward: (counters, _, { y: dy }, attrs) => ({ x: masked({ ...counters, x: dy as Tensor }, attrs) }),
  cases: [
    { inputs: { x: [1, 1], ...counters }, attrs: { p: 0.5, site: 1 } },
    { inputs: { x: [3, 37], ...counters }, attrs: { p: 0.2, site: 9 }, about: "rows that do not begin a random block" },
    { inputs: { x: [2, 5, 3001], ...counters, seed: integer(-5) }, attrs: { p: 0.9, site: 2 }, about: "several tasks" },
    { inputs: { x: [37, 84], ...counters }, attrs: { p: 0.4, site: 5 }, about: "rows that begin a random block, half a pack at the end" },
    { inputs: { x: [4, 8], ...counters, row: integer(2 ** 31 - 5) }, attrs: { p: 0.3, site: 3 }, about: "an index beyond 32 bits" },
  ],
})

/** Dropout of `x`; its type stated, because the op's own is being inferred where backward applies it again. */
function masked(inputs: { x: Tensor; seed: Tensor; step: Tensor; row: Tensor }, attrs: { p: number; site: number }): Tensor {
  return dropout(inputs, attrs).y
}

export const dropoutOps = [dropout]
