/** What the gradients of Hopper's attention read beside their operands: −lse and −δ of every position and head, side by side. */
import { bf16, f32, kernel, read, u32, write } from "../src/spirv.ts"

/** Lanes that sum one row and head. */
const SUMMING = 4
/** Loads of y and of dy in flight for each: all of a head of 64. */
const AHEAD = 2
/** Positions of a unit; a head's last unit is filled up with zeros. */
export const STATISTICS_UNIT = 64

/**
 * statistics[b, h, t] = (−lse·log₂e, −δ) with δ = Σ dy·y; zeros for T ≤ t < P, P = ⌈T/64⌉·64. y, dy (B·T, H·D) bf16, lse (B·T, H); rows = B·P·H. 8 | D.
 * Grid: any; ⌈rows / 64⌉ gives each four lanes one. Moves rows·(4·D + 12) bytes.
 */
export const attentionStatistics = kernel({
  name: "attention_statistics",
  workgroup: 256,
  buffers: { y: read(bf16), dy: read(bf16), lse: read(f32), statistics: write(f32) },
  push: { T: u32, H: u32, D: u32, rows: u32 },
  body(k, { y, dy, lse, statistics, T, H, D, rows }) {
    const part = k.lane.and(SUMMING - 1)
    const perGroup = 256 / SUMMING
    const P = T.add(STATISTICS_UNIT - 1)
      .div(STATISTICS_UNIT)
      .mul(STATISTICS_UNIT)
    k.for(k.group.mul(perGroup), rows, k.groups.mul(perGroup), (first) => {
      const row = first.add(k.lane.shr(2)).min(rows.sub(1))
      const [h, position] = [row.mod(H), row.div(H)]
      const [b, t] = [position.div(P), position.mod(P)]
      const source = b
        .mul(T)
        .add(t.min(T.sub(1)))
        .mul(H)
        .add(h)
      const sum = k.var(f32, 0)
      const packs = D.shr(3)
      const exponent = lse.at(source)
      k.for(part, packs, SUMMING * AHEAD, (d) => {
        const loaded = Array.from({ length: AHEAD }, (_, i) => {
          const own = d.add(i * SUMMING)
          const at = source.mul(packs).add(own.min(packs.sub(1)))
          return { isPack: own.lt(packs), left: y.pack(8).at(at), right: dy.pack(8).at(at) }
        })
        for (const { isPack, left, right } of loaded)
          k.if(isPack, () => left.forEach((value, e) => sum.set(value.fma(right[e]!, sum.get()))))
      })
      for (const mask of [1, 2]) sum.add(k.subgroupShuffleXor(sum.get(), mask))
      const isInside = t.lt(T)
      const log = isInside.select(exponent.mul(-Math.LOG2E), 0)
      const delta = isInside.select(sum.get().neg(), 0)
      const place = b.mul(H).add(h).mul(P).add(t)
      k.if(part.eq(0).and(first.add(k.lane.shr(2)).lt(rows)), () => statistics.pack(2).set(place, [log, delta]))
    })
  },
})
