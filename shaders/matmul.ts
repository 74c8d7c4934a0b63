/** Matrix products for every device: tiles in shared memory, 4 × 4 or 8 × 8 outputs per lane. */
import { act, type Body, type Choice, f32, kernel, type ReadBuffer, read, type U32, u32 } from "../src/spirv.ts"
import { epilogue, finish } from "./matmul-epilogue.ts"
import { CHUNK } from "./matmul-order.ts"

/** "n": the operand is stored as it is multiplied, (M, K) or (K, N); "t": transposed. */
type Layout = "nn" | "nt" | "tn"
const LANES = 256
/** How much of K is in shared memory at a time. */
const DEPTH = 16
/** Outputs of a lane that lie side by side along each axis. */
const SIDE = 4
const range = (n: number) => Array.from({ length: n }, (_, i) => i)

/** An operand of a workgroup. */
interface Operand {
  readonly memory: ReadBuffer<Choice>
  /** K runs along its stored rows. */
  readonly isAlongRows: boolean
  /** Elements from one stored row to the next. */
  readonly pitch: U32
  /** Length of its side that is not K, and where the workgroup's tile begins on it. */
  readonly extent: U32
  readonly start: U32
}

/**
 * The elements that this lane brings of an operand's tile from `depth` on, 0 from `end` on, and where they go: [k, place along the other side].
 * In packs the tile may reach beyond the other side's end: those rows are copies of others, for outputs that nobody stores.
 */
function fetch(k: Body, tile: number, { memory, isAlongRows, pitch, extent, start }: Operand, isPacked: boolean) {
  const per = (tile * DEPTH) / LANES
  const along = (isAlongRows ? DEPTH : tile) / per
  const [run, place] = [k.lane.and(along - 1).mul(per), k.lane.shr(Math.log2(along))]
  const places = range(per).map((j) => (isAlongRows ? ([run.add(j), place] as const) : ([place, run.add(j)] as const)))
  const load = (depth: U32, end: U32) => {
    if (!isPacked) {
      return places.map(([inner, outer]) => {
        const [row, column] = isAlongRows ? [start.add(outer), depth.add(inner)] : [depth.add(inner), start.add(outer)]
        const isInside = depth.add(inner).lt(end).and(start.add(outer).lt(extent))
        return isInside.select(memory.at(isInside.select(row.mul(pitch).add(column), 0)), 0)
      })
    }
    const inner = depth.add(isAlongRows ? run : place)
    const isInside = inner.lt(end)
    const safe = isInside.select(inner, 0)
    const outer = start.add(isAlongRows ? place : run)
    const index = isAlongRows ? outer.min(extent.sub(1)).mul(pitch).add(safe) : safe.mul(pitch).add(outer.lt(extent).select(outer, 0))
    return memory
      .pack(per as 4 | 8)
      .at(index.div(per))
      .map((value) => isInside.select(value, 0))
  }
  return { places, load }
}

function matmul(layout: Layout, tile: 64 | 128, isPacked: boolean) {
  const isForward = layout === "nt"
  const blocks = range(tile / 64) // blocks of 4 × 4 outputs per axis and lane, 64 apart
  const pitch = tile + 4 // a little more than the tile, so that columns lie in different banks
  return kernel({
    name: `matmul_${layout}_${isPacked ? tile : "any"}`,
    workgroup: LANES,
    buffers: { a: read(act), b: read(act), ...epilogue.buffers },
    push: { M: u32, N: u32, K: u32, lda: u32, ldb: u32, ...epilogue.push, splitK: u32 },
    params: epilogue.params,
    constants: epilogue.constants,
    variants: [
      { act: "f32", out: "f32" },
      { act: "bf16", out: "f32" },
      { act: "bf16", out: "bf16" },
      ...(layout !== "tn" && tile === 64 ? ([{ act: "f32", out: "bf16" }] as const) : []),
    ],
    body(k, { a, b, M, N, K, lda, ldb, splitK, ...e }) {
      const shared = k.shared("tiles", f32, Math.max(2 * DEPTH * pitch, SIDE * SIDE * LANES))
      const right = { memory: b, isAlongRows: layout[1] === "t", pitch: ldb, extent: N, start: k.group.mul(tile) }
      const left = { memory: a, isAlongRows: layout[0] === "n", pitch: lda, extent: M, start: k.groupY.mul(tile) }
      const operands = [left, right].map((operand, i) => {
        const { places, load } = fetch(k, tile, operand, isPacked)
        return { places, load, next: places.map(() => k.var(f32, 0)), base: i * DEPTH * pitch }
      })
      const [y, x] = [k.lane.shr(4).mul(SIDE), k.lane.and(15).mul(SIDE)]
      const offsets = blocks.flatMap((block) => range(SIDE).map((i) => block * 64 + i))
      const sums = offsets.map(() => offsets.map(() => k.var(f32, 0)))
      const totals = isForward ? offsets.map(() => offsets.map(() => k.var(f32, 0))) : []

      const start = k.groupZ.mul(splitK)
      const end = start.add(splitK).min(K)
      // One tile is on its way to registers while the one before is multiplied: a turn more than there are tiles.
      k.for(start, end.add(DEPTH), DEPTH, (depth) => {
        k.if(depth.lt(end), () => {
          for (const { load, next } of operands) load(depth, end).forEach((value, j) => next[j]!.set(value))
        })
        k.if(depth.gt(start), () => {
          k.for(0, DEPTH, 1, (d) => {
            const row = d.mul(pitch) // no unroll hint: lavapipe then compiles ten times as long, other drivers unroll it anyway
            const column = offsets.map((i) => shared.at(row.add(y.add(i))))
            const line = offsets.map((j) => shared.at(row.add(x.add(j + DEPTH * pitch))))
            sums.forEach((of, i) => of.forEach((sum, j) => sum.update((now) => column[i]!.fma(line[j]!, now))))
          })
          if (!isForward) return
          k.if(
            depth
              .and(CHUNK - 1)
              .eq(0)
              .or(depth.ge(end)),
            () => {
              totals.forEach((of, i) =>
                of.forEach((total, j) => {
                  total.add(sums[i]![j]!.get())
                  sums[i]![j]!.set(0)
                }),
              )
            },
          )
        })
        k.barrier()
        k.if(depth.lt(end), () => {
          for (const { places, next, base } of operands)
            places.forEach(([inner, outer], j) => shared.set(inner.mul(pitch).add(outer.add(base)), next[j]!.get()))
        })
        k.barrier()
      })

      const results = isForward ? totals : sums
      const quarter = (p: number, q: number) => results.slice(p * SIDE, (p + 1) * SIDE).map((row) => row.slice(q * SIDE, (q + 1) * SIDE))
      // Through shared memory, each lane by itself, so that the epilogue stands in a loop and not once per output.
      const slot = (i: U32 | number, j: U32 | number) => k.u32(0).add(i).mul(SIDE).add(j).mul(LANES).add(k.lane)
      k.for(0, blocks.length ** 2, 1, (block) => {
        for (const p of blocks) {
          for (const q of blocks)
            k.if(block.eq(p * blocks.length + q), () =>
              quarter(p, q).forEach((row, i) => row.forEach((result, j) => shared.set(slot(i, j), result.get()))),
            )
        }
        k.for(0, SIDE, 1, (i) => {
          const [down, across] = [block.div(blocks.length).mul(64), block.mod(blocks.length).mul(64)]
          const [m, n] = [left.start.add(y.add(i).add(down)), right.start.add(x.add(across))]
          const row = k.groupZ.mul(M).add(m) // the parts of a split sum follow each other
          const single = () => k.for(0, SIDE, 1, (j) => k.if(n.add(j).lt(N), () => finish(k, e, row, n.add(j), [shared.at(slot(i, j))])))
          const four = () => finish(k, e, row, n, range(SIDE).map((j) => shared.at(slot(i, j)))) // biome-ignore format: one line
          k.if(m.lt(M), () => (isPacked ? k.if(n.add(SIDE - 1).lt(N), four, single) : single()))
        })
      })
    },
  })
}

/**
 * c = epilogue(a·b) (M, N), summed in f32; lda, ldb, ldc elements from row to row. "nn": a (M, K), b (K, N); "nt": b is stored (N, K), as
 * weights are; "tn": a is stored (K, M). Grid: (⌈N / tile⌉, ⌈M / tile⌉, splits of K), split z sums k from z·splitK on and stores at row z·M.
 * 2·M·N·K FLOP; reads a ⌈N / tile⌉ times, b ⌈M / tile⌉ times, through the cache.
 * matmul_…_64 and _128 (the tile) load packs of 4 and 8: rows begin at multiples of 8 elements, and are multiples of 8 long or followed by
 * zeros; ldc is a multiple of 4. matmul_…_any takes all sizes, by tiles of 64.
 */
export const matmuls = {
  nn: { large: matmul("nn", 128, true), small: matmul("nn", 64, true), any: matmul("nn", 64, false) },
  nt: { large: matmul("nt", 128, true), small: matmul("nt", 64, true), any: matmul("nt", 64, false) },
  tn: { large: matmul("tn", 128, true), small: matmul("tn", 64, true), any: matmul("tn", 64, false) },
} as const
