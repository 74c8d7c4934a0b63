/** What the matrix kernels of attention read beside its operands: the bits of dropout, and lse with δ as factors of a product. */
import { bf16, type F32, f32, kernel, read, u32, write } from "../src/spirv.ts"
import { attentionLive } from "./attention.ts"
import { push, STATISTICS } from "./attention-tensor-tile.ts"
import { randomBlockAfter } from "./random.ts"

/** Rows of the two constant tables that pick the parts of −lse/scale, or of −δ, out of the statistics. */
export const PICK_ROWS = 128
/** The tables as pairs of bf16: row r of table p holds ones in columns 3p, 3p + 1, 3p + 2. */
export function pickTables(): number[] {
  const one = 0x3f80
  const row = (p: number) =>
    Array.from({ length: STATISTICS / 2 }, (_, pair) => [0, 1].map((i) => (Math.floor((2 * pair + i) / 3) === p ? one : 0)))
  const words = (p: number) => row(p).map(([low, high]) => ((low as number) | ((high as number) << 16)) >>> 0)
  return [0, 1].flatMap((p) => Array.from({ length: PICK_ROWS }, () => words(p)).flat())
}

/** Lanes that sum one row and head. */
const SUMMING = 4

/** x in three parts whose bf16 are exact, the last rounded. */
function parts(x: F32): readonly [F32, F32, F32] {
  const cut = (v: F32) => v.bits().and(0xffff0000).asF32()
  const high = cut(x)
  const rest = x.sub(high)
  const middle = cut(rest)
  return [high, middle, rest.sub(middle)]
}

/**
 * statistics[b, h, t] = −lse/scale and −δ = −Σ dy·y in three bf16 each, and zeros to 16. y, dy (B·T, H·D), lse (B·T, H); rows = B·T·H. 8 | D.
 * Grid: any; ⌈rows / 64⌉ gives each four lanes one. Moves rows·(4·D + 36) bytes.
 */
export const tensorStatistics = kernel({
  name: "attention_tensor_statistics",
  workgroup: 256,
  buffers: { y: read(bf16), dy: read(bf16), lse: read(f32), statistics: write(bf16) },
  push: { ...push, D: u32, rows: u32 },
  body(k, { y, dy, lse, statistics, T, H, scale, D, rows }) {
    const part = k.lane.and(SUMMING - 1)
    const perGroup = 256 / SUMMING
    k.for(k.group.mul(perGroup), rows, k.groups.mul(perGroup), (first) => {
      const row = first.add(k.lane.shr(2)).min(rows.sub(1))
      const sum = k.var(f32, 0)
      k.for(part, D.shr(3), SUMMING, (d) => {
        const at = row.mul(D.shr(3)).add(d)
        const [left, right] = [y.pack(8).at(at), dy.pack(8).at(at)]
        left.forEach((value, e) => sum.set(value.fma(right[e]!, sum.get())))
      })
      for (const mask of [1, 2]) sum.add(k.subgroupShuffleXor(sum.get(), mask))
      const [l, d] = [parts(lse.at(row).div(scale).neg()), parts(sum.get().neg())]
      const [h, position] = [row.mod(H), row.div(H)]
      const place = position.div(T).mul(H).add(h).mul(T).add(position.mod(T))
      const zero = k.f32(0)
      const own = (a: F32, b: F32) => part.eq(0).select(a, part.eq(1).select(b, zero))
      k.if(first.add(k.lane.shr(2)).lt(rows), () =>
        statistics.pack(4).set(place.mul(SUMMING).add(part), [own(l[0], d[1]), own(l[1], d[2]), own(l[2], zero), own(d[0], zero)]),
      )
    })
  },
})

/**
 * Bit j mod 32 of mask[b, h, i, ⌊j/32⌋]: whether dropout keeps the weight of query i and key j ≤ i; the bits are those of attention's doc. Words
 * that no query sees are not written. queries = B·H·T. Grid: any; ⌈queries / 32⌉·⌈T/32⌉ / 8 gives each lane a word. About 600 instructions a word;
 * 32 neighbours do the same keys of 32 queries, so that they are mostly seen by all of them or by none.
 */
export const tensorMask = kernel({
  name: "attention_tensor_mask",
  workgroup: 256,
  buffers: { mask: write(u32) },
  push: { T: u32, H: u32, site: u32, threshold: u32, queries: u32 },
  params: attentionLive,
  body(k, { mask, T, H, site, threshold, queries, seed, step, row }) {
    const perRow = T.add(31).shr(5)
    const firstRow = row.toU32().div(T).mul(H).mul(T)
    const tasks = queries.add(31).shr(5).mul(perRow).shl(5)
    k.for(k.group.mul(256).add(k.lane), tasks, k.groups.mul(256), (task) => {
      const bundle = task.shr(5)
      const [query, word] = [bundle.div(perRow).shl(5).add(task.and(31)), bundle.mod(perRow)]
      const key = word.shl(5)
      k.if(query.lt(queries).and(key.le(query.mod(T))), () => {
        const first = firstRow.add(query).toU64().mul(T.toU64()).add(key.toU64())
        const source = { seed: seed.toU32(), stream: site, step: step.toU32() }
        const [low, high] = [k.var(u32, 0), k.var(u32, 0)]
        const draw = (block: number) => {
          const bits = randomBlockAfter(k, source, first.shr(2), k.u32(block)).map((random, i) =>
            random
              .shr(8)
              .ge(threshold)
              .select(k.u32(1), 0)
              .shl(((4 * block) & 31) + i),
          )
          const into = block < 8 ? low : high
          into.update((before) => bits.reduce((a, c) => a.or(c), before))
        }
        for (let block = 0; block < 8; block++) draw(block)
        k.if(T.and(3).ne(0), () => draw(8)) // rows begin within a block of four
        const shift = first.toU32().and(3)
        const rest = shift.eq(0).select(k.u32(0), high.get().shl(k.u32(32).sub(shift).and(31)))
        mask.set(query.mul(perRow).add(word), low.get().shr(shift).or(rest))
      })
    })
  },
})
