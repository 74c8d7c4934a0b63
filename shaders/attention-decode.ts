/** Attention of one new position per sequence over paged keys and values, for every device. */
import { act, type Bool, type F32, f32, kernel, read, readWrite, type U32, u32, write } from "../src/spirv.ts"
import { headPlaces } from "./attention.ts"
import { cell, indices, push } from "./attention-cached.ts"
import { CHUNK, LANES, merge, merged, RowSums, SIDES, TILE, unitOf } from "./attention-tile.ts"

/** Keys that a decode workgroup takes at a time: 16 lanes for each block of 64. */
const BLOCKS = LANES / 16
const PASS = BLOCKS * TILE
/** Blocks up to which a lane of decode takes one key, then one column: memory's latency counts, not its width. */
const FEW = LANES / TILE
/** Units of keys, and values, that a lane of decode loads before it uses them. */
const TOGETHER = 4
const KEYS_TOGETHER = 16
/** The largest head of decode. */
export const DECODE_SIZE = 256

/** `heads` query heads of a key head are taken at a time. */
function decode(heads: 1 | 2, isEdge: boolean) {
  const each = Array.from({ length: heads }, (_, i) => i)
  return kernel({
    name: `attention_decode_${heads}${isEdge ? "_edge" : ""}`,
    workgroup: LANES,
    buffers: { qkv: read(act), kPages: readWrite(act), vPages: readWrite(act), ...indices, y: write(act) },
    push,
    body(k, { qkv, kPages, vPages, pages, lengths, counts, y, H, K, D, scale, pageSize, maxPages }) {
      const unit = unitOf(isEdge)
      const [keyHead, b] = [k.group, k.groupY]
      const group = H.div(K)
      const { size, width } = headPlaces(k.u32(0), { H, K, D }, unit)
      const length = lengths.at(b).toU32()
      const cellOf = (p: U32): U32 => cell({ pages, maxPages, pageSize, K, size }, b, keyHead, p)
      const query = k.shared("query", f32, heads * DECODE_SIZE) // zeros beyond the head
      const output = k.shared("output", f32, (LANES / CHUNK) * DECODE_SIZE) // of lanes beyond the last head too, and dropped
      const cells = k.shared("cells", u32, PASS)
      const weights = k.shared("weights", f32, PASS * heads)
      const partial = k.shared("partial", f32, BLOCKS * heads * CHUNK)
      const factors = k.shared("factors", f32, BLOCKS * heads * 2)
      const [maxima, sums] = [new RowSums(k, "maxima", "max"), new RowSums(k, "sums", "add")]
      const [block, x] = [k.lane.shr(4), k.lane.and(15)]
      const scale2 = scale.mul(Math.LOG2E)

      const appendOwn = () => {
        const to = cellOf(length)
        k.if(k.lane.lt(size), () => {
          for (const [memory, first] of [[kPages, H] as const, [vPages, H.add(K)] as const]) {
            const from = b.mul(width).add(first.add(keyHead).mul(size)).add(k.lane)
            if (isEdge) memory.set(to.add(k.lane), qkv.at(from))
            else memory.pack(8).set(to.add(k.lane), qkv.pack(8).at(from))
          }
        })
        k.barrier("buffers")
      }

      /** Scores of some keys, per head in the order of d; so many units are loaded together. */
      const scores = (keys: readonly U32[], together: number): F32[][] => {
        const found = each.map(() => keys.map(() => k.var(f32, 0)))
        const starts = keys.map((key) => cells.at(key))
        k.for(0, size, together, (first) => {
          // All loads before the sums, so that they are under way together.
          const units = Array.from({ length: together }, (_, i) => first.add(i))
          const rows = units.map((u) => {
            const place = u.min(size.sub(1))
            return starts.map((start) => (isEdge ? [kPages.at(start.add(place))] : kPages.pack(8).at(start.add(place))))
          })
          units.forEach((u, i) => {
            for (let e = 0; e < unit; e++)
              for (const h of each) {
                const factor = query.at(u.mul(unit).add(h * DECODE_SIZE + e))
                rows[i]!.forEach((row, j) => found[h]![j]!.set(factor.fma(row[e]!, found[h]![j]!.get())))
              }
          })
        })
        return found.map((row) => row.map((one) => one.get()))
      }

      /** partial[block, head, 4x … 4x + 3] = Σ over the block's keys of weight·v, columns from `first` on. */
      const blockOutputs = (first: U32) => {
        const own = each.map(() => SIDES.map(() => k.var(f32, 0)))
        const d = first.add(x.mul(4)).min(D.sub(1)) // of columns beyond the head any one, and dropped
        k.for(0, TILE, KEYS_TOGETHER, (from) => {
          const keys = Array.from({ length: KEYS_TOGETHER }, (_, i) => block.mul(TILE).add(from.add(i)))
          const rows = keys.map((key) => {
            const start = cells.at(key)
            if (!isEdge) return vPages.pack(4).at(start.mul(2).add(d.shr(2)))
            return SIDES.map((e) =>
              d
                .add(e)
                .lt(D)
                .select(vPages.at(start.add(d.add(e).min(D.sub(1)))), 0),
            )
          })
          keys.forEach((key, i) => {
            for (const h of each) {
              const weight = weights.at(key.mul(heads).add(h))
              for (const e of SIDES) own[h]![e]!.set(weight.fma(rows[i]![e]!, own[h]![e]!.get()))
            }
          })
        })
        for (const h of each) for (const e of SIDES) partial.set(block.mul(heads).add(h).mul(CHUNK).add(x.mul(4).add(e)), own[h]![e]!.get())
      }

      const [few, column] = [k.lane.div(TILE), k.lane.mod(TILE)]
      const fewKeys = Array.from({ length: TILE }, (_, i) => few.mul(TILE).add(i))
      /** The values of a column for all keys of a block; up to FEW blocks. */
      const loadFew = (first: U32 | number): F32[] => {
        const d = column.add(first).min(D.sub(1))
        return fewKeys.map((key) => vPages.at(cells.at(key).mul(unit).add(d)))
      }
      /** The same with a column per lane. */
      const fewOutputs = (values: readonly F32[]) => {
        const own = each.map(() => k.var(f32, 0))
        fewKeys.forEach((key, i) => {
          for (const h of each) own[h]!.update((sum) => weights.at(key.mul(heads).add(h)).fma(values[i]!, sum))
        })
        for (const h of each) partial.set(few.mul(heads).add(h).mul(CHUNK).add(column), own[h]!.get())
      }

      const headAt = (firstHead: U32, i: U32 | number): U32 => firstHead.add(i).min(group.sub(1)).add(keyHead.mul(group))
      const setQuery = (firstHead: U32) => {
        for (const h of each) {
          const from = b
            .mul(width)
            .mul(unit)
            .add(headAt(firstHead, h).mul(D))
            .add(k.lane.min(D.sub(1)))
          query.set(k.lane.add(h * DECODE_SIZE), k.lane.lt(D).select(qkv.at(from).mul(scale2), 0))
        }
      }
      /** The lane's keys x, x + 16, x + 32, x + 48 of its block. */
      const own = SIDES.map((j) => block.mul(TILE).add(x.add(16 * j)))
      const setCells = (base: U32) => {
        for (const key of own) cells.set(key, cellOf(base.add(key).min(length)))
      }

      /** Scores of `own` by way of a key per lane. */
      const fewScores = (): F32[][] => {
        scores([k.lane], 2 * TOGETHER).forEach(([one], h) => weights.set(k.lane.mul(heads).add(h), one!))
        k.barrier()
        const near = own.map((key) => key.min(LANES - 1)) // what lies beyond is not seen
        return each.map((h) => near.map((key) => weights.at(key.mul(heads).add(h))))
      }

      /** Query and first cells of the first turn are there. */
      const turn = (firstHead: U32) => {
        const headOf = (i: U32 | number): U32 => headAt(firstHead, i)
        k.if(firstHead.ne(0), () => setQuery(firstHead))
        for (let h = 0; h < LANES / CHUNK; h++) output.set(k.lane.add(h * DECODE_SIZE), 0)
        const max = each.map(() => k.var(f32, Number.NEGATIVE_INFINITY))
        const sum = each.map(() => k.var(f32, 0))
        /** Block sums and outputs of a pass, which begins at key `base`; `isFew` says which lanes take what. */
        const pass = (base: U32, blocks: U32, isFew: boolean) => {
          const sees: Bool[] = own.map((key) => base.add(key).le(length))
          // Lanes beyond the last block work too (on keys that are not seen): Mesa 22.3 loses lanes that ran a loop not all of them run.
          const early = isFew ? loadFew(0).map((value) => k.var(f32, value)) : [] // on their way while the scores are found
          const found = isFew ? fewScores() : scores(own, TOGETHER)
          maxima.put(each.map((h) => SIDES.map((j) => sees[j]!.select(found[h]![j]!, Number.NEGATIVE_INFINITY)).reduce((a, c) => a.max(c))))
          k.barrier()
          const top = maxima.total(block)
          const mine = each.map((h) => SIDES.map((j) => sees[j]!.select(found[h]![j]!.sub(top[h]!).exp2(), 0)))
          sums.put(mine.map((row) => row.reduce((a, c) => a.add(c))))
          for (const h of each) for (const j of SIDES) weights.set(own[j]!.mul(heads).add(h), mine[h]![j]!)
          k.barrier()
          k.for(0, blocks, 1, (n) => {
            const [tops, totals] = [maxima.total(n), sums.total(n)]
            for (const h of each) {
              const next = merge(max[h]!.get(), sum[h]!.get(), tops[h]!, totals[h]!)
              k.if(k.lane.eq(0), () => {
                factors.set(n.mul(heads).add(h).mul(2), next.old)
                factors.set(n.mul(heads).add(h).mul(2).add(1), next.own)
              })
              max[h]!.set(next.max)
              sum[h]!.set(next.sum)
            }
          })
          k.for(0, D, CHUNK, (first) => {
            if (isFew) {
              k.if(first.ne(0), () => loadFew(first).forEach((value, i) => early[i]!.set(value)))
              fewOutputs(early.map((value) => value.get()))
            } else blockOutputs(first)
            k.barrier()
            const [h, d] = [k.lane.div(CHUNK), first.add(k.lane.mod(CHUNK))]
            const head = h.min(heads - 1)
            const value = k.var(f32, output.at(h.mul(DECODE_SIZE).add(d)))
            k.for(0, blocks, 1, (n) => {
              const at = n.mul(heads).add(head)
              const [old, own] = [factors.at(at.mul(2)), factors.at(at.mul(2).add(1))]
              value.update((before) => merged(before, partial.at(at.mul(CHUNK).add(k.lane.mod(CHUNK))), { old, own }))
            })
            output.set(h.mul(DECODE_SIZE).add(d), value.get())
            k.barrier()
          })
        }
        k.for(0, length.add(1), PASS, (base) => {
          const blocks = length.sub(base).div(TILE).add(1).min(BLOCKS)
          k.if(base.add(firstHead).ne(0), () => {
            k.barrier() // the last pass is done with what is written now
            setCells(base)
            k.barrier()
          })
          k.if(
            blocks.le(FEW),
            () => pass(base, blocks, true),
            () => pass(base, blocks, false),
          )
        })
        for (const h of each)
          k.if(firstHead.add(h).lt(group), () => {
            const d = k.lane.lt(D).select(k.lane, D.sub(1))
            const value = output.at(d.add(h * DECODE_SIZE)).div(sum[h]!.get())
            k.if(k.lane.lt(D), () => y.set(b.mul(H).add(headOf(h)).mul(D).add(k.lane), value))
          })
        k.barrier()
      }

      k.if(
        counts.at(b).gt(0),
        () => {
          setQuery(k.u32(0))
          setCells(k.u32(0))
          appendOwn()
          k.for(0, group, heads, turn)
        },
        () => k.for(k.lane, group.mul(D), LANES, (e) => y.set(b.mul(H).add(keyHead.mul(group)).mul(D).add(e), 0)),
      )
    },
  })
}

/**
 * The op for T = 1 and D ≤ 256 in one dispatch: the new key and value into their page, then y (B, H·D), 0 where counts[b] is 0. A pass takes
 * 16 blocks of 64 keys side by side, block sums in shared memory are merged in order: the bits are those of attention. Grid: (K, B).
 * Reads 2·keys·D·s bytes per key head and sequence.
 */
export const attentionDecodes = {
  one: [decode(1, false), decode(1, true)] as const,
  two: [decode(2, false), decode(2, true)] as const,
}
