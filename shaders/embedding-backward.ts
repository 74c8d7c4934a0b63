/** Gradients of the embedding tables: sums over the rows of each token or position, long ones by way of partial sums. */
import { type Body, constant, type F32, f32, i32, kernel, read, readWrite, type U32, u32, write } from "../src/spirv.ts"

/** Neighbours in the sorted rows that make a partial sum, and partial sums that make one of the next level. */
export const FOLD = 32
/** Loads of a lane in flight. */
const AHEAD = 4

type Pack = 1 | 4
interface Source {
  at(index: U32): F32
  pack(count: 4): { at(index: U32): readonly F32[] }
}
interface Target {
  set(index: U32, value: F32): void
  pack(count: 4): { set(index: U32, values: readonly F32[]): void }
}
const load = (from: Source, pack: Pack, i: U32): readonly F32[] => (pack === 4 ? from.pack(4).at(i) : [from.at(i)])
function store(to: Target, pack: Pack, i: U32, values: readonly F32[]): void {
  if (pack === 4) to.pack(4).set(i, values)
  else to.set(i, values[0]!)
}

/** A sum of packs in the order in which they are added. */
class Sum {
  private readonly values

  constructor(
    private readonly k: Body,
    pack: Pack,
  ) {
    this.values = Array.from({ length: pack }, () => k.var(f32, 0))
  }

  /** Adds item(i) for from ≤ i < to in steps, several loaded at a time. */
  add(from: U32 | number, to: U32, step: U32 | number, item: (i: U32) => readonly F32[]): void {
    const { k, values } = this
    const distance = typeof step === "number" ? k.u32(step) : step
    k.for(from, to, distance.mul(AHEAD), (start) => {
      const items = Array.from({ length: AHEAD }, (_, j) => {
        const i = start.add(distance.mul(j))
        const isInside = i.lt(to)
        return item(isInside.select(i, start)).map((value) => isInside.select(value, 0))
      })
      for (const parts of items) values.forEach((value, j) => value.add(parts[j]!))
    })
  }

  get(): readonly F32[] {
    return this.values.map((value) => value.get())
  }

  /** to[i] = beta·to[i] + the sum; beta 0 does not read. */
  addTo(to: Source & Target, i: U32, beta: F32): void {
    const pack = this.values.length as Pack
    this.k.if(beta.ne(0), () => load(to, pack, i).forEach((old, j) => this.values[j]!.add(old.mul(beta))))
    store(to, pack, i, this.get())
  }
}

function bucketFold(pack: Pack) {
  return kernel({
    name: pack === 4 ? "bucket_fold" : "bucket_fold_uneven",
    workgroup: 256,
    buffers: { keys: read(i32), rows: read(u32), x: read(f32), y: write(f32) },
    push: { n: u32, width: u32, span: u32 },
    constants: { first: constant(u32, 1) },
    body(k, { keys, rows, x, y, n, width, span, first }) {
      k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) => {
        const chunk = i.div(width)
        const c = i.sub(chunk.mul(width))
        const start = chunk.mul(span)
        k.if(keys.at(start).eq(keys.at(start.add(span).sub(1))), () => {
          const sum = new Sum(k, pack)
          const from = chunk.mul(FOLD)
          sum.add(from, from.add(FOLD), 1, (item) => {
            const row = k.var(u32, item)
            k.if(first.ne(0), () => row.set(rows.at(item)))
            return load(x, pack, row.get().mul(width).add(c))
          })
          store(y, pack, i, sum.get())
        })
      })
    },
  })
}
/**
 * y[j] = Σ of the 32 items from 32·j on, for the chunks j whose rows (`span` of the sorted ones) have one key; other y[j] are left alone.
 * Items are rows of x in sorted order when `first`, else rows of x as they lie. keys, rows sorted (R), x (·, C), y (⌊R / span⌋, C) in n packs, `width` to a row.
 * Grid: any. Moves at most 4·R·C bytes the first time, a 32nd of that the second.
 */
export const bucketFolds = { packed: bucketFold(4), uneven: bucketFold(1) }

function bucketSum(pack: Pack) {
  return kernel({
    name: pack === 4 ? "bucket_sum" : "bucket_sum_uneven",
    workgroup: 256,
    buffers: { bounds: read(u32), rows: read(u32), x: read(f32), folds: read(f32), folds2: read(f32), y: readWrite(f32) },
    push: { n: u32, width: u32 },
    params: { beta: f32 },
    body(k, { bounds, rows, x, folds, folds2, y, n, width, beta }) {
      k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) => {
        const key = i.div(width)
        const c = i.sub(key.mul(width))
        const [begin, end] = [bounds.at(key.mul(2)), bounds.at(key.mul(2).add(1))]
        k.if(end.ne(begin).or(beta.ne(1)), () => {
          const sum = new Sum(k, pack)
          const [row, fold, fold2] = [
            (item: U32) => load(x, pack, rows.at(item).mul(width).add(c)),
            (item: U32) => load(folds, pack, item.mul(width).add(c)),
            (item: U32) => load(folds2, pack, item.mul(width).add(c)),
          ]
          // whole chunks [first, last) inside [from, to), or none
          const inner = (from: U32, to: U32) => {
            const [first, last] = [from.add(FOLD - 1).div(FOLD), to.div(FOLD)]
            const isSome = first.lt(last)
            return [first, last, isSome.select(first.mul(FOLD), to), isSome.select(last.mul(FOLD), to)] as const
          }
          const [first, last, headEnd, tailStart] = inner(begin, end)
          sum.add(begin, headEnd, 1, row)
          k.if(first.lt(last), () => {
            const [first2, last2, headEnd2, tailStart2] = inner(first, last)
            sum.add(first, headEnd2, 1, fold)
            sum.add(first2, last2, 1, fold2)
            sum.add(tailStart2, last, 1, fold)
          })
          sum.add(tailStart, end, 1, row)
          sum.addTo(y, i, beta)
        })
      })
    },
  })
}
/**
 * y[key] = beta·y[key] + Σ of the rows of x with that key, in their order; beta 0 does not read y. bounds (keys, 2), rows (R) sorted, x (R, C),
 * folds (⌊R / 32⌋, C) and folds2 (⌊R / 1024⌋, C) sums of whole chunks, y (keys, C) in n packs, `width` to a row. No lane adds more than
 * 4·31 + R / 1024 items. Grid: any. Moves at most 4·(R·C + 2·keys·C) bytes; rows of y that nobody uses are not touched when beta is 1.
 */
export const bucketSums = { packed: bucketSum(4), uneven: bucketSum(1) }

function periodicSum(pack: Pack) {
  return kernel({
    name: pack === 4 ? "periodic_sum" : "periodic_sum_uneven",
    workgroup: 256,
    buffers: { x: read(f32), y: readWrite(f32) },
    push: { R: u32, T: u32, n: u32, width: u32 },
    params: { beta: f32 },
    body(k, { x, y, R, T, n, width, beta }) {
      k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) => {
        const p = i.div(width)
        const c = i.sub(p.mul(width))
        const sum = new Sum(k, pack)
        k.if(p.lt(T), () => sum.add(p, R, T, (r) => load(x, pack, r.mul(width).add(c))))
        sum.addTo(y, i, beta)
      })
    },
  })
}
/**
 * y[p] = beta·y[p] + Σ of the rows r of x with r mod T = p; beta 0 does not read y. x (R, C), y (≥ T, C) in n packs, `width` to a row.
 * Grid: any. Moves 4·(R·C + 2·n) bytes.
 */
export const periodicSums = { packed: periodicSum(4), uneven: periodicSum(1) }
