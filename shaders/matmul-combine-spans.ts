/** The end of a matrix product in PTX whose sum was dealt out to the processors. */
import { constant, f32, kernel, read, readWrite, u32 } from "../src/spirv.ts"
import { finishPacks, sumParts } from "./matmul-combine.ts"
import { epilogue } from "./matmul-epilogue.ts"

/** Columns of a lane. */
const PACK = 8

/**
 * c = epilogue(Σ_s parts[s]) (M, N), parts (⩾ S, M, ld), 8 | ld, in the order of s: S whole splits, then of every tile of `rows` × `columns` as many parts as
 * blocks have a span of its `rest` k steps (ptx-gemm.ts). Where `isSummed` is not 0, parts have sums of rows in so many columns from ld − 8 on, and
 * rowSums[m] = sumsBeta·rowSums[m] + their sum; sumsBeta 0 does not read. Grid: any number of workgroups. Moves 4·(parts + 1)·M·N bytes.
 */
export const matmulCombineSpans = kernel({
  name: "matmul_combine_spans",
  workgroup: 128,
  buffers: { parts: read(f32), rowSums: readWrite(f32), ...epilogue.buffers },
  push: { M: u32, N: u32, S: u32, ld: u32, rest: u32, span: u32, ...epilogue.push },
  params: { ...epilogue.params, sumsBeta: f32 },
  constants: {
    ...epilogue.constants,
    isSummed: constant(u32, 0),
    group: constant(u32, 8),
    rows: constant(u32, 256),
    columns: constant(u32, 192),
  },
  body(k, { parts, rowSums, M, N, S, ld, rest, span, group, rows, columns, sumsBeta, isSummed, ...e }) {
    const packs = ld.div(PACK)
    const finishAt = finishPacks(k, e, PACK, N)
    const [down, across] = [M.add(rows).sub(1).div(rows), N.add(columns).sub(1).div(columns)]
    k.for(k.group.mul(k.workgroup).add(k.lane), M.mul(packs), k.groups.mul(k.workgroup), (i) => {
      const m = i.div(packs)
      const n = i.sub(m.mul(packs)).mul(PACK)
      const isRowSum = isSummed.ne(0).and(n.eq(ld.sub(PACK)))
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
      const sums = sumParts(k, parts, PACK, i, M.mul(packs), count.get())
      finishAt(m, n, sums)
      k.if(isRowSum, () => {
        const total = k.var(f32, sums[0]!)
        sums.slice(1).forEach((sum, i) => k.if(isSummed.gt(i + 1), () => total.update((now) => now.add(sum))))
        k.if(sumsBeta.ne(0), () => total.update((now) => rowSums.at(m).fma(sumsBeta, now)))
        rowSums.set(m, total.get())
      })
    })
  },
})
