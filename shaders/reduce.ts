/** Sums over the rows of a matrix. */
import { f32, kernel, read, readWrite, u32 } from "../src/spirv.ts"

/** Columns and rows of lanes in a workgroup. */
export const COLUMNS = 16
const STRIPS = 32
/** Loads of a lane in flight: the matrix is small, so its latency counts. */
const AHEAD = 8

/**
 * Column sums: y[c] = beta·y[c] + Σ_r x[r,c], in a fixed order; beta 0 does not read y. x (R, C), y (C) f32.
 * Grid: ⌈C / 16⌉ workgroups. Moves 4·(R·C + 2·C) bytes.
 */
export const columnSum = kernel({
  name: "column_sum",
  workgroup: COLUMNS * STRIPS,
  buffers: { x: read(f32), y: readWrite(f32) },
  push: { R: u32, C: u32 },
  params: { beta: f32 },
  body(k, { x, y, R, C, beta }) {
    const partial = k.shared("partial", f32, COLUMNS * STRIPS)
    const column = k.group.mul(COLUMNS).add(k.lane.and(COLUMNS - 1))
    const sum = k.var(f32, 0)
    k.if(column.lt(C), () => {
      k.for(k.lane.div(COLUMNS), R, STRIPS * AHEAD, (first) => {
        const values = Array.from({ length: AHEAD }, (_, j) => {
          const r = first.add(j * STRIPS)
          return r.lt(R).select(x.at(r.min(R.sub(1)).mul(C).add(column)), 0)
        })
        for (const value of values) sum.add(value)
      })
    })
    partial.set(k.lane, sum.get())
    k.barrier()
    k.if(k.lane.lt(COLUMNS).and(column.lt(C)), () => {
      const total = k.var(f32, 0)
      for (let strip = 0; strip < STRIPS; strip++) total.add(partial.at(k.lane.add(strip * COLUMNS)))
      k.if(beta.ne(0), () => total.add(y.at(column).mul(beta)))
      y.set(column, total.get())
    })
  },
})
