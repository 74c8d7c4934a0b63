/** The end of a matrix product whose sum was split. */
import { type Body, type F32, f32, kernel, type ReadBuffer, read, type U32, u32 } from "../src/spirv.ts"
import { type Epilogue, epilogue, finish } from "./matmul-epilogue.ts"

/** Parts that a lane has in flight. */
const AHEAD = 4

/** The sums of four or eight neighbours: pack i of each of `count` parts, which are `apart` packs apart, in their order. */
export function sumParts(k: Body, parts: ReadBuffer<typeof f32>, size: 4 | 8, i: U32, apart: U32, count: U32): readonly F32[] {
  const sums = Array.from({ length: size }, () => k.var(f32, 0))
  k.for(0, count, AHEAD, (first) => {
    const loaded = Array.from({ length: AHEAD }, (_, a) => {
      const s = first.add(a)
      return { isPart: s.lt(count), part: parts.pack(size).at(s.min(count.sub(1)).mul(apart).add(i)) }
    })
    for (const { isPart, part } of loaded) sums.forEach((sum, j) => sum.add(isPart.select(part[j]!, 0)))
  })
  return sums.map((sum) => sum.get())
}

/** Writes (m, n …) from sums by packs: all at once where all rows are made of whole packs, else those of them that are columns. */
export function finishPacks(k: Body, e: Epilogue, size: 4 | 8, N: U32): (m: U32, n: U32, sums: readonly F32[]) => void {
  const isWhole = N.mod(size).eq(0).and(e.ldc.mod(size).eq(0))
  return (m, n, sums) =>
    k.if(
      isWhole.and(n.lt(N)), // rows of parts may be longer
      () => finish(k, e, m, n, sums),
      () => sums.forEach((sum, j) => k.if(n.add(j).lt(N), () => finish(k, e, m, n.add(j), [sum]))),
    )
}

/**
 * c = epilogue(Σ_s parts[s]) (M, N), parts (S, M, ld), in the order of s. Grid: any number of workgroups.
 * Moves 4·(S + 1)·M·N bytes.
 */
export const matmulCombine = kernel({
  name: "matmul_combine",
  workgroup: 256,
  buffers: { parts: read(f32), ...epilogue.buffers },
  push: { M: u32, N: u32, S: u32, ld: u32, ...epilogue.push },
  params: epilogue.params,
  constants: epilogue.constants,
  body(k, { parts, M, N, S, ld, ...e }) {
    const quads = ld.div(4)
    const finishAt = finishPacks(k, e, 4, N)
    k.for(k.group.mul(k.workgroup).add(k.lane), M.mul(quads), k.groups.mul(k.workgroup), (i) => {
      const [m, n] = [i.div(quads), i.mod(quads).mul(4)]
      const sums = sumParts(k, parts, 4, i, M.mul(quads), S)
      finishAt(m, n, sums)
    })
  },
})
