/** Muon: momentum orthogonalised by Newton–Schulz, for the hidden matrices. */
import { nativeKernel } from "./native.ts"
import { defineOp } from "./op-define.ts"
import { CONTROL } from "./op-optimizer.ts"
import { muonLaunches } from "./op-optimizer-muon-gpu.ts"
import type { View } from "./program.ts"
import { expectShape } from "./tensor.ts"

/** Coefficients of the quintic iteration x ← a·x + b·x³ + c·x⁵ and its number of steps. Jordan et al. 2024, "Muon". */
const [A, B, C] = [3.4445, -4.775, 2.0315]
const STEPS = 5

const muonKernel = nativeKernel("muon", {
  matrices: { p: "pointer", g: "pointer", m: "pointer", copy: "pointer", offset: "int", rows: "int", cols: "int", decay: "float" },
  count: "int",
  lr: "pointer",
  control: "pointer",
  momentum: "float",
})

export interface MuonAttrs {
  readonly momentum: number
  readonly decay: readonly number[]
  readonly copies: readonly (number | undefined)[]
  /** Rows of each block that is orthogonalised by itself: q, k, v of a packed weight. */
  readonly blocks: readonly (readonly number[])[]
}

const at = (view: View, i: number): number => view.data[i] as number

export const muon = defineOp({
  name: "muon",
  doc: `Muon with Nesterov momentum β: m ← β·m + (1−β)·g, u = (1−β)·g + β·m, o = NewtonSchulz${STEPS}(u/‖u‖), p ← p·(1 − lr·decay) − lr·0.2·√max(rows, cols)·o,
so that one learning rate serves AdamW and Muon (arXiv:2502.16982). Per row block; g = gradient·scale. About 5·2·(2·r²·c + r³) FLOPs, r ≤ c.`,
  inputs: { params: "list", grads: "list", m: "list", copies: "list", lr: "scalar", control: "state" },
  outputs: [],
  writes: ["params", "m", "copies"],
  attrs: {} as MuonAttrs,
  shape({ params, grads, m }) {
    params.forEach((p, i) => {
      for (const other of [grads[i], m[i]]) if (other !== undefined) expectShape("muon", other.name, other, p.shape, p.name)
    })
    return {}
  },
  reference({ params, grads, m, copies, lr, control }, _, attrs) {
    const scale = at(control, CONTROL.scale)
    if (scale === 0) return
    params.forEach((p, k) => {
      const cols = p.shape[1] as number
      const decay = attrs.decay[k] ?? 0
      let offset = 0
      for (const rows of attrs.blocks[k] ?? []) {
        const size = rows * cols
        const u = new Float64Array(size)
        const [g, momentum] = [grads[k] as View, (m[k] as View).data]
        for (let i = 0; i < size; i++) {
          const gi = at(g, offset + i) * scale
          const mi = attrs.momentum * (momentum[offset + i] as number) + (1 - attrs.momentum) * gi
          momentum[offset + i] = mi
          u[i] = (1 - attrs.momentum) * gi + attrs.momentum * mi
        }
        const o = orthogonalise(u, rows, cols)
        const step = at(lr, 0) * 0.2 * Math.sqrt(Math.max(rows, cols))
        for (let i = 0; i < size; i++) p.data[offset + i] = at(p, offset + i) * (1 - at(lr, 0) * decay) - step * (o[i] as number)
        offset += size
      }
      const copy = attrs.copies[k]
      if (copy !== undefined) (copies[copy] as View).data.set(p.data)
    })
  },
  cpu: ({ params, grads, m, copies, lr, control }, _, attrs) =>
    muonKernel({
      matrices: params.flatMap((p, k) => {
        const cols = p.shape[1] as number
        const copy = attrs.copies[k]
        let offset = 0
        return (attrs.blocks[k] ?? []).map((rows) => {
          const row = {
            p,
            g: grads[k],
            m: m[k],
            copy: copy === undefined ? undefined : copies[copy],
            offset,
            rows,
            cols,
            decay: attrs.decay[k] ?? 0,
          }
          offset += rows * cols
          return row
        })
      }),
      count: attrs.blocks.reduce((n, b) => n + b.length, 0),
      lr,
      control,
      momentum: attrs.momentum,
    }),
  gpu: (operands, _, attrs, __, target) =>
    muonLaunches(operands, { ...attrs, copyOf: attrs.copies, steps: STEPS, coefficients: [A, B, C] }, target),
  cases: [
    {
      inputs: {
        params: [
          [12, 20],
          [33, 8],
        ],
        grads: [
          [12, 20],
          [33, 8],
        ],
        m: [
          [12, 20],
          [33, 8],
        ],
        copies: [],
        lr: 0.01,
        control: { shape: [8], values: [3, 0, 1, 0.5, 1, 0, 0, 0] },
      },
      attrs: { momentum: 0.95, decay: [0.1, 0], copies: [undefined, undefined], blocks: [[4, 4, 4], [33]] },
      about: "three blocks, and more rows than columns",
    },
    {
      inputs: {
        params: [[9, 5]],
        grads: [[9, 5]],
        m: [[9, 5]],
        copies: [{ shape: [9, 5], dtype: "bf16" }],
        lr: 0.01,
        control: { shape: [8], values: [3, 0, 1, 0.5, 1, 0, 0, 0] },
      },
      attrs: { momentum: 0.95, decay: [0.1], copies: [0], blocks: [[3, 6]] },
      about: "a block that begins between packs, and a copy",
    },
  ],
  tolerance: { f32: 1e-4 },
})

/** Newton–Schulz iteration on u (rows, cols) after division by its norm: singular values move towards 1. */
function orthogonalise(u: Float64Array, rows: number, cols: number): Float64Array {
  const norm = Math.max(1e-7, Math.sqrt(u.reduce((s, x) => s + x * x, 0)))
  const tall = rows > cols
  const [r, c] = tall ? [cols, rows] : [rows, cols]
  let x = Float64Array.from(
    { length: r * c },
    (_, i) => (tall ? (u[(i % c) * cols + Math.floor(i / c)] as number) : (u[i] as number)) / norm,
  )
  for (let step = 0; step < STEPS; step++) {
    const gram = product(x, x, r, r, c, true)
    const square = product(gram, gram, r, r, r, true)
    const mix = gram.map((value, i) => B * value + C * (square[i] as number))
    const next = product(mix, x, r, c, r, false)
    x = x.map((value, i) => A * value + (next[i] as number))
  }
  return tall ? Float64Array.from({ length: r * c }, (_, i) => x[(i % cols) * c + Math.floor(i / cols)] as number) : x
}

/** a (n, k) · b (k, m), or · bᵀ with b (m, k). */
function product(a: Float64Array, b: Float64Array, n: number, m: number, k: number, transposed: boolean): Float64Array {
  return Float64Array.from({ length: n * m }, (_, i) => {
    const [row, col] = [Math.floor(i / m), i % m]
    let sum = 0
    for (let j = 0; j < k; j++) sum += (a[row * k + j] as number) * (transposed ? (b[col * k + j] as number) : (b[j * m + col] as number))
    return sum
  })
}
