/** A stable radix sort of row numbers by key, and where each key's rows begin and end. */
import { constant, i32, kernel, read, readWrite, u32, write } from "../src/spirv.ts"

/** Values of a digit, and lanes of a workgroup: one lane per value. */
export const DIGITS = 256
/** Keys that a workgroup sorts. */
export const SORT_BLOCK = 1024
/** Lanes of the scan. */
const SCAN = 1024

/**
 * counts[d, b] = keys of block b whose digit (key >> shift) mod 256 is d. keys (R) i32, counts (256, ⌈R / 1024⌉).
 * Grid: a workgroup per block. Moves 4·R bytes.
 */
export const sortCount = kernel({
  name: "sort_count",
  workgroup: DIGITS,
  buffers: { keys: read(i32), counts: write(u32) },
  push: { R: u32, shift: u32 },
  body(k, { keys, counts, R, shift }) {
    const found = k.shared("found", u32, DIGITS)
    found.set(k.lane, 0)
    k.barrier()
    const start = k.group.mul(SORT_BLOCK)
    k.for(start.add(k.lane), R.min(start.add(SORT_BLOCK)), DIGITS, (i) => {
      found.atomicAdd(
        keys
          .at(i)
          .toU32()
          .shr(shift)
          .and(DIGITS - 1),
        1,
      )
    })
    k.barrier()
    counts.set(k.lane.mul(k.groups).add(k.group), found.at(k.lane))
  },
})

/** Each of n counts becomes the sum of those before it. Grid: 1 workgroup. Moves 12·n bytes. */
export const sortScan = kernel({
  name: "sort_scan",
  workgroup: SCAN,
  buffers: { counts: readWrite(u32) },
  push: { n: u32 },
  body(k, { counts, n }) {
    const sums = k.shared("sums", u32, SCAN)
    const each = n.add(SCAN - 1).div(SCAN)
    const [from, to] = [k.lane.mul(each), n.min(k.lane.add(1).mul(each))]
    const own = k.var(u32, 0)
    k.for(from, to, 1, (i) => own.add(counts.at(i)))
    const upTo = k.var(u32, own.get())
    for (let distance = 1; distance < SCAN; distance *= 2) {
      sums.set(k.lane, upTo.get())
      k.barrier()
      k.if(k.lane.ge(distance), () => upTo.add(sums.at(k.lane.sub(distance))))
      k.barrier()
    }
    const before = k.var(u32, upTo.get().sub(own.get()))
    k.for(from, to, 1, (i) => {
      const count = counts.at(i)
      counts.set(i, before.get())
      before.add(count)
    })
  },
})

/**
 * Moves keys and their row numbers to where `starts`, the scanned counts, say; keys with one digit keep their order. `first`: row i is number i.
 * keys, rows, toKeys, toRows (R). Grid: a workgroup per block. Moves 16·R bytes.
 */
export const sortScatter = kernel({
  name: "sort_scatter",
  workgroup: DIGITS,
  buffers: { keys: read(i32), rows: read(u32), starts: read(u32), toKeys: write(i32), toRows: write(u32) },
  push: { R: u32, shift: u32 },
  constants: { first: constant(u32, 1) },
  body(k, { keys, rows, starts, toKeys, toRows, R, shift, first }) {
    const [next, digits] = [k.shared("next", u32, DIGITS), k.shared("digits", u32, DIGITS)]
    next.set(k.lane, starts.at(k.lane.mul(k.groups).add(k.group)))
    const start = k.group.mul(SORT_BLOCK)
    const end = R.min(start.add(SORT_BLOCK))
    k.for(start, end, DIGITS, (from) => {
      const i = from.add(k.lane)
      const [digit, key] = [k.var(u32, DIGITS), k.var(i32, 0)]
      k.if(i.lt(end), () => {
        key.set(keys.at(i))
        digit.set(
          key
            .get()
            .toU32()
            .shr(shift)
            .and(DIGITS - 1),
        )
      })
      digits.set(k.lane, digit.get())
      k.barrier()
      const [before, after] = [k.var(u32, 0), k.var(u32, 0)]
      k.for(0, DIGITS, 1, (j) => {
        const isSame = digits.at(j).eq(digit.get())
        before.add(isSame.and(j.lt(k.lane)).select(k.u32(1), 0))
        after.add(isSame.and(j.gt(k.lane)).select(k.u32(1), 0))
      })
      const place = k.var(u32, 0)
      k.if(i.lt(end), () => {
        place.set(next.at(digit.get()).add(before.get()))
        toKeys.set(place.get(), key.get())
        const row = k.var(u32, i)
        k.if(first.eq(0), () => row.set(rows.at(i)))
        toRows.set(place.get(), row.get())
      })
      k.barrier()
      k.if(i.lt(end).and(after.get().eq(0)), () => next.set(digit.get(), place.get().add(1)))
      k.barrier()
    })
  },
})

/** y[i] = 0 for i < n. Grid: any. Moves 4·n bytes. */
export const clear = kernel({
  name: "clear",
  workgroup: 256,
  buffers: { y: write(u32) },
  push: { n: u32 },
  body: (k, { y, n }) => k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) => y.set(i, 0)),
})

/**
 * bounds[2·key] and bounds[2·key + 1]: where the rows of a key begin and end among the sorted; keys that do not occur are left alone.
 * keys (R) sorted, bounds (keys, 2). Grid: any. Moves 4·R bytes.
 */
export const sortBounds = kernel({
  name: "sort_bounds",
  workgroup: 256,
  buffers: { keys: read(i32), bounds: write(u32) },
  push: { R: u32 },
  body(k, { keys, bounds, R }) {
    k.for(k.group.mul(k.workgroup).add(k.lane), R, k.groups.mul(k.workgroup), (i) => {
      const key = keys.at(i)
      const place = key.toU32().mul(2)
      const [isFirst, isLast] = [i.eq(0), i.add(1).eq(R)]
      // the neighbour of the first or last is the key itself, so that nothing outside is read
      k.if(isFirst.or(keys.at(isFirst.select(i, i.sub(1))).ne(key)), () => bounds.set(place, i))
      k.if(isLast.or(keys.at(isLast.select(i, i.add(1))).ne(key)), () => bounds.set(place.add(1), i.add(1)))
    })
  },
})
