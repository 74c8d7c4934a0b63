/** The end of a matrix product in PTX whose sum was dealt out to the processors. */
import { constant, f32, kernel, read, readWrite, u32 } from "../src/spirv.ts"
import { finishQuads, sumParts } from "./matmul-combine.ts"
import { epilogue } from "./matmul-epilogue.ts"

/**
 * c = epilogue(Σ_s parts[s]) (M, N), parts (⩾ S, M, ld), in the order of s: S whole splits, then of every tile of `rows` × `columns` as many parts as
 * blocks have a span of its `rest` k steps (ptx-gemm.ts). Where `isSummed`, parts have sums of rows in column ld − 8, and
 * rowSums[m] = sumsBeta·rowSums[m] + their sum; sumsBeta 0 does not read. Grid: any number of workgroups. Moves 4·(parts + 1)·M·N bytes.
 */
export const matmulCombineSpans = kernel({
  name: "matmul_combine_spans",
  workgroup: 256,
  buffers: { parts: read(f32), rowSums: readWrite(f32), ...epilogue.buffers },
  push: { M: u32, N: u32, S: u32, ld: u32, rest: u32, span: u32, group: u32, rows: u32, columns: u32, ...epilogue.push },
  params: { ...epilogue.params, sumsBeta: f32 },
  constants: { ...epilogue.constants, isSummed: constant(u32, 0) },
  body(k, { parts, rowSums, M, N, S, ld, rest, span, group, rows, columns, sumsBeta, isSummed, ...e }) {
    const quads = ld.div(4)
    const finishAt = finishQuads(k, e, N)
    const [down, across] = [M.add(rows).sub(1).div(rows), N.add(columns).sub(1).div(columns)]
    k.for(k.group.mul(k.workgroup).add(k.lane), M.mul(quads), k.groups.mul(k.workgroup), (i) => {
      const [m, n] = [i.div(quads), i.mod(quads).mul(4)]
      const isRowSum = isSummed.ne(0).and(n.eq(ld.sub(8)))
      const count = k.var(u32, S)
      k.if(rest.ne(0), () => {
        const row = m.div(rows)
        const first = row.div(group).mul(group)
        const column = isRowSum.select(k.u32(0), n.div(columns).min(across.sub(1)))
        const tile = first
          .mul(across)
          .add(column.mul(down.sub(first).min(group)))
          .add(row.sub(first))
        const begin = tile.mul(rest)
        count.add(begin.add(rest).sub(1).div(span).sub(begin.div(span)).add(1))
      })
      const sums = sumParts(k, parts, i, M, quads, count.get())
      finishAt(m, n, sums)
      k.if(isRowSum, () => {
        const total = k.var(f32, sums[0]!)
        k.if(sumsBeta.ne(0), () => total.update((now) => rowSums.at(m).fma(sumsBeta, now)))
        rowSums.set(m, total.get())
      })
    })
  },
})
