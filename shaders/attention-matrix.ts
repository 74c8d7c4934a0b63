/** Causal attention by KHR matrices of 16 × 16 per subgroup: weights stay in registers but for their way from sum to factor. bf16. */
import { bf16, type F32, f32, kernel, read, type U32, write } from "../src/spirv.ts"
import { keepOfQueries, keptKey } from "./attention-matrix-keep.ts"
import {
  apart,
  Fragments,
  headPlaces,
  LANES,
  LOWEST,
  lanesOf,
  masks,
  ownRows,
  pitchOf,
  push,
  range,
  type Shape,
  SIDE,
  type Sum,
} from "./attention-matrix-tile.ts"

/** Sums of weights below are taken as they are; above, weights are taken relative to the largest score instead. */
const MOST = 2 ** 64

const exp = (x: F32, reference: F32, scale2: F32): F32 => x.fma(scale2, reference).exp2()
const hide = (x: F32, distance: F32, least: F32): F32 => distance.ge(least).select(x, 0)
const lower = (x: F32, distance: F32, least: F32): F32 => distance.ge(least).select(x, LOWEST)
const larger = (a: F32, b: F32): F32 => a.max(b)

function forward(shape: Shape, drops: boolean) {
  const { size, blocks, others, subgroups } = shape
  const [depth, high] = [range(size / SIDE), range(blocks)]
  const values = others * pitchOf(shape)
  return kernel({
    name: `attention_matrix_${size}_${subgroups}x${blocks}x${others}${drops ? "_dropout" : ""}`,
    workgroup: lanesOf(shape),
    sharedKiB: 48,
    buffers: { qkv: read(bf16), ...masks, y: write(bf16), lse: write(f32) },
    push,
    body(k, { qkv, mask, y, lse, T, H, K, scale, factor }) {
      const halves = range(others / 32)
      const tile = new Fragments(k, shape, blocks * halves.length)
      const [references, factors] = [k.shared("references", f32, ownRows(shape)), k.shared("factors", f32, ownRows(shape))]
      const [h, b] = [k.group, k.groupZ]
      const q0 = k.groupsY.sub(k.groupY).sub(1).mul(ownRows(shape)) // late positions, which cost most, first
      const mine = k.subgroup.mul(blocks * SIDE)
      const own = q0.add(mine)
      const at = headPlaces(size, { T, H, K }, b, h)
      const scale2 = scale.mul(Math.LOG2E)
      const rows = { memory: qkv, width: at.width, count: T }
      const place = (i: number) => mine.add(i * SIDE)
      const keep = drops ? keepOfQueries(tile, mask, T, at.number, q0) : undefined

      tile.stage({ ...rows, first: at.query }, q0)
      const queries = high.map((i) => tile.staged(i))
      // The reference of a row is the largest of its scores on the diagonal, of which it sees one at least.
      tile.stage({ ...rows, first: at.key }, q0)
      const diagonals = high.map((i) => tile.scores([queries[i]!], 0, place(i), 1, [k.fill(tile.S, 0)])[0]!)
      const refer = (row: U32, most: F32) => references.set(row, most.mul(scale2).neg())
      tile.overRows(diagonals, larger, refer, (r, c, x) => r.ge(c).select(x, LOWEST))

      const outputs = high.map(() => depth.map(() => k.var(tile.S, 0)))
      const sums = high.map(() => k.var(tile.S, 0))
      const [keyRows, valueRows] = [tile.ahead(rows, 0, "split"), tile.ahead(rows, values, "plain")]
      const bring = (block: U32) => {
        keyRows.load(block, { ...rows, first: at.key })
        valueRows.load(block, { ...rows, first: at.value })
        keep?.load(block)
      }
      const end = q0.add(ownRows(shape)).min(T)

      /** Calls `use` with the scores of the subgroup's rows and 32 keys, of even and of odd ones, and whether some of them are hidden. */
      const sweep = (use: (block: U32, half: number, scores: readonly [Sum, Sum][]) => void) => {
        bring(k.u32(0))
        k.for(0, end, others, (block) => {
          k.barrier()
          keyRows.store()
          valueRows.store()
          keep?.store()
          k.barrier()
          k.if(block.add(others).lt(end), () => bring(block.add(others)))
          for (const half of halves)
            k.if(block.add(32 * half).lt(own.add(blocks * SIDE)), () => {
              const none = high.map(() => k.fill(tile.S, 0))
              const [even, odd] = [0, 1].map((p) => tile.scores(queries, 0, 32 * half + p * SIDE, 1, none))
              use(
                block.add(32 * half),
                half,
                high.map((i) => [even![i]!, odd![i]!] as [Sum, Sum]),
              )
            })
        })
      }
      /** The row less twice the column from which on key 2·column + p of the 32 is seen by block i. */
      const least = (first: U32, i: number, p: number): F32 => apart(first.add(p), own.add(i * SIDE))
      const isCut = (first: U32) => first.add(32).gt(own)

      k.for(0, 2, 1, (attempt) => {
        k.if(attempt.ne(0), () => {
          const tops = high.map(() => k.var(tile.S, LOWEST))
          sweep((first, _half, scores) =>
            scores.forEach((pair, i) => {
              pair.forEach((score, p) => {
                const seen = score.each(lower, tile.distances, least(first, i, p))
                tops[i]!.update((top) => top.each(larger, seen))
              })
            }),
          )
          tile.overRows(
            tops.map((top) => top.get()),
            larger,
            refer,
          )
          for (const i of high) {
            sums[i]!.set(k.fill(tile.S, 0))
            for (const d of depth) outputs[i]![d]!.set(k.fill(tile.S, 0))
          }
        })
        const known = high.map((i) => tile.along("columns", references, place(i)))
        sweep((first, half, scores) => {
          scores.forEach((pair, i) => {
            const weights = pair.map((score) => k.var(tile.S, score.each(exp, known[i]!, scale2)))
            k.if(isCut(first), () => {
              weights.forEach((weight, p) => {
                weight.update((all) => all.each(hide, tile.distances, least(first, i, p)))
              })
            })
            const all = weights.map((weight) => weight.get()) as [Sum, Sum]
            sums[i]!.update((sum) => sum.add(all[0]).add(all[1]))
            const bits = keep?.of(half, place(i))
            const [even, odd] =
              bits === undefined ? all : all.map((weight, p) => weight.each(keptKey(p), ...bits, tile.columnNumbers, factor))
            tile.putWeights(i * halves.length + half, even as Sum, odd as Sum)
          })
          k.subgroupBarrier()
          const ready = high.map((i) => tile.weights(i * halves.length + half))
          tile.weigh(ready, values, 32 * half, outputs)
        })
        tile.overRows(
          sums.map((sum) => sum.get()),
          (a, c) => a.add(c),
          (row, total) => factors.set(row, total),
        )
        const isFine = factors.at(k.lane.mod(ownRows(shape))).lt(MOST)
        k.breakIf(k.workgroupMax(isFine.select(k.u32(0), 1)).eq(0))
      })
      k.if(k.lane.mod(LANES).lt(blocks * SIDE), () => {
        const row = mine.add(k.lane.mod(LANES))
        const total = factors.at(row)
        k.if(q0.add(row).lt(T), () => lse.set(at.row(q0.add(row)), total.log2().sub(references.at(row)).mul(Math.LN2)))
        factors.set(row, k.f32(1).div(total))
      })
      k.barrier()
      for (const i of high) {
        const factor = tile.along("columns", factors, place(i))
        const position = own.add(i * SIDE)
        tile.leave(
          outputs[i]!.map((sum) => sum.get().mul(factor)),
          (r, pack, out) => {
            const row = position.add(r)
            k.if(row.lt(T), () =>
              y.pack(8).set(
                at
                  .row(row)
                  .mul(size / 8)
                  .add(pack),
                out,
              ),
            )
          },
        )
      }
    },
  })
}
const shaped = (size: number, subgroups: number, blocks: number, others: number): Shape => ({ size, subgroups, blocks, others })

/** Shapes that kernels are built for, by head size, best first. */
export const FORWARD_SHAPES: Readonly<Record<number, readonly Shape[]>> = {
  32: [shaped(32, 4, 2, 64)],
  64: [shaped(64, 4, 2, 64), shaped(64, 4, 1, 64), shaped(64, 8, 1, 64)],
  128: [shaped(128, 4, 1, 32), shaped(128, 8, 1, 32)],
}

/**
 * y and lse as in attention.ts, but not its bits: weights are bf16 where they meet the values, and relative to the largest score that a row sees in
 * its 16 × 16 block on the diagonal; where a sum of weights passes 2^64, all rows of the workgroup start again relative to their largest score. For
 * training only, therefore: evaluation and serving take the kernels whose bits do not depend on a row's place. NaN and inf of a value reach up to 31
 * rows before it too. qkv (B·T, (H + 2K)·D), y (B·T, H·D), lse (B·T, H) f32, mask as in attention-tensor-inputs.ts; B·T·(H + 2K)·D below 2^31.
 * Subgroups of 32. Grid: (H, ⌈T / rows⌉, B). 2·B·T·T·H·D FLOP. Source: Dao 2023, arXiv:2307.08691.
 */
export const matrixAttention = Object.fromEntries(
  Object.entries(FORWARD_SHAPES).map(([size, shapes]) => [
    size,
    shapes.map((shape) => ({ shape, plain: forward(shape, false), dropout: forward(shape, true) })),
  ]),
) as Readonly<Record<number, readonly ({ readonly shape: Shape } & Readonly<Record<"plain" | "dropout", ReturnType<typeof forward>>>)[]>>
