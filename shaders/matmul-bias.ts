/** Gradients of biases: sums over the rows of a matrix. */
import { act, type F32, f32, kernel, read, readWrite, u32 } from "../src/spirv.ts"

/** Lanes side by side along a row, and rows of lanes in a workgroup. */
const WIDTH = 32
const STRIPS = 8
/** Loads of a lane in flight. */
const AHEAD = 4

function sums(name: string, per: 1 | 8) {
  return kernel({
    name,
    workgroup: WIDTH * STRIPS,
    buffers: { x: read(act), y: readWrite(f32) },
    push: { R: u32, N: u32, rows: u32 },
    params: { beta: f32 },
    body(k, { x, y, R, N, rows, beta }) {
      const strips = k.shared("strips", f32, WIDTH * STRIPS * per)
      const column = k.group
        .mul(WIDTH)
        .add(k.lane.and(WIDTH - 1))
        .mul(per)
      const first = k.groupY.mul(rows)
      const totals = Array.from({ length: per }, () => k.var(f32, 0))
      k.if(column.lt(N), () => {
        const end = first.add(rows).min(R)
        k.for(first.add(k.lane.div(WIDTH)), end, STRIPS * AHEAD, (start) => {
          const loaded = Array.from({ length: AHEAD }, (_, i) => {
            const r = start.add(i * STRIPS)
            const at = r.min(end.sub(1)).mul(N).add(column)
            const values: readonly F32[] = per === 1 ? [x.at(at)] : x.pack(per).at(at.div(per))
            return { isInside: r.lt(end), values }
          })
          for (const { isInside, values } of loaded) totals.forEach((total, j) => total.add(isInside.select(values[j]!, 0)))
        })
      })
      const slot = (strip: number, j: number) => k.lane.and(WIDTH - 1).add((j * STRIPS + strip) * WIDTH)
      totals.forEach((total, j) => strips.set(k.lane.add(j * STRIPS * WIDTH), total.get()))
      k.barrier()
      k.if(k.lane.lt(WIDTH).and(column.lt(N)), () => {
        for (let j = 0; j < per; j++) {
          const total = k.var(f32, 0)
          for (let strip = 0; strip < STRIPS; strip++) total.add(strips.at(slot(strip, j)))
          const at = k.groupY.mul(N).add(column.add(j))
          k.if(beta.ne(0), () => total.update((now) => y.at(at).fma(beta, now)))
          y.set(at, total.get())
        }
      })
    },
  })
}

/**
 * y[p, n] = beta·y[p, n] + Σ x[r, n] over the rows r of part p, [p·rows, (p + 1)·rows), in a fixed order; beta 0 does not read y.
 * x (R, N), y (⌈R / rows⌉, N). Grid: (⌈N / 256⌉, parts) by packs of 8 (N a multiple of 8), else (⌈N / 32⌉, parts). Moves R·N·s bytes.
 */
export const biasSums = { packed: sums("bias_sums", 8), any: sums("bias_sums_any", 1) } as const
