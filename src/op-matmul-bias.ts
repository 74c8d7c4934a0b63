/** The gradient of a bias on a GPU. */
import { biasSums } from "../shaders/matmul-bias.ts"
import { type GpuTarget, type Launch, launch, scratch } from "./op-gpu.ts"
import type { Memory } from "./program.ts"
import type { Tensor } from "./tensor.ts"

/** Rows that a workgroup sums at least. */
const FEWEST_ROWS = 128

/** db = beta·db + Σ rows of dy (R, N), f32, in one step or two. */
export function biasGradient(dy: Memory, db: Tensor, R: number, N: number, beta: Tensor | number, target: GpuTarget): Launch[] {
  const [kernel, width] = N % 8 === 0 ? [biasSums.packed, 256] : [biasSums.any, 32]
  const wide = Math.ceil(N / width)
  const parts = Math.max(1, Math.min(Math.ceil(R / FEWEST_ROWS), Math.floor((target.units * 4) / wide)))
  if (parts === 1) return [launch(kernel, { x: dy, y: db, R, N, rows: R, beta }, wide)]
  const rows = Math.ceil(R / parts)
  const used = Math.ceil(R / rows)
  const partial = scratch("f32", used * N)
  return [
    launch(kernel, { x: dy, y: partial, R, N, rows, beta: 0 }, [wide, used]),
    launch(kernel, { x: partial, y: db, R: used, N, rows: used, beta }, wide),
  ]
}
