/** RMS norm of query and key heads, forward and backward. */
import { act, type Body, constant, type F32, f32, kernel, read, type SharedArray, type U32, u32, write } from "../src/spirv.ts"

const LANES = 256
type Pack = 1 | 8

/** Heads of D values side by side in a workgroup, D/pack lanes to each. */
interface Heads {
  readonly D: U32
  /** Heads in a row: those of queries, of keys, and all with the values. */
  readonly queries: U32
  readonly normed: U32
  readonly heads: U32
  /** Heads of all rows. */
  readonly n: U32
}

/** Where a lane is: its head's slot in the workgroup, its pack in the head. */
function placeOf(k: Body, pack: Pack, { D }: Heads) {
  const share = D.div(pack)
  const slot = k.lane.div(share)
  return { share, slot, j: k.lane.sub(slot.mul(share)), slots: k.u32(LANES).div(share) }
}

/** Calls body for the heads that the lanes take, the same number of times for all; isActive: this lane has one; kind 0 query, 1 key, 2 value. */
function eachHead(k: Body, pack: Pack, sizes: Heads, body: (at: U32, isActive: ReturnType<U32["lt"]>, kind: U32) => void): void {
  const { share, slot, j, slots } = placeOf(k, pack, sizes)
  k.for(k.group.mul(slots), sizes.n, k.groups.mul(slots), (first) => {
    const i = first.add(slot)
    const head = i.mod(sizes.heads)
    const kind = head.lt(sizes.queries).select(k.u32(0), head.lt(sizes.normed).select(k.u32(1), 2))
    body(i.mul(share).add(j), slot.lt(slots).and(i.lt(sizes.n)), kind)
  })
}

/** Sum of one value per lane over the lanes of a head, in their order. */
function headSum(k: Body, pack: Pack, sizes: Heads, values: SharedArray<typeof f32>): F32 {
  const { share, slot, slots } = placeOf(k, pack, sizes)
  const first = slot.min(slots.sub(1)).mul(share) // the lanes left over follow the last head
  const sum = k.var(f32, 0)
  k.for(0, share, 1, (i) => sum.add(values.at(first.add(i))))
  return sum.get()
}

const constants = { D: constant(u32, 64), queries: constant(u32, 12), normed: constant(u32, 24), heads: constant(u32, 36) }
const range = (n: number) => Array.from({ length: n }, (_, i) => i)

function forward(pack: Pack) {
  return kernel({
    name: pack === 8 ? "qk_norm" : "qk_norm_uneven",
    workgroup: LANES,
    buffers: { x: read(act), qw: read(f32), kw: read(f32), y: write(act) },
    push: { n: u32, eps: f32 },
    constants,
    body(k, { x, qw, kw, y, eps, ...sizes }) {
      const squares = k.shared("squares", f32, LANES)
      const { j } = placeOf(k, pack, sizes)
      eachHead(k, pack, sizes, (at, isActive, kind) => {
        const values = range(pack).map(() => k.var(f32, 0))
        const sum = k.var(f32, 0)
        k.if(isActive, () => {
          ;(pack === 8 ? x.pack(8).at(at) : [x.at(at)]).forEach((value, i) => {
            values[i]!.set(value)
            sum.add(value.mul(value))
          })
        })
        squares.set(k.lane, sum.get())
        k.barrier()
        const rstd = k.f32(1).div(headSum(k, pack, sizes, squares).div(sizes.D.toF32()).add(eps).sqrt())
        k.if(isActive, () => {
          k.if(kind.lt(2), () => {
            const scaleBy = (w: typeof qw) =>
              (pack === 8 ? w.pack(8).at(j) : [w.at(j)]).forEach((weight, i) => values[i]!.update((value) => value.mul(rstd).mul(weight)))
            k.if(
              kind.eq(0),
              () => scaleBy(qw),
              () => scaleBy(kw),
            )
          })
          const out = values.map((value) => value.get())
          if (pack === 8) y.pack(8).set(at, out)
          else y.set(at, out[0]!)
        })
        k.barrier()
      })
    },
  })
}
/**
 * Each query and key head h of x (R, heads·D): y = h·w/√(mean(h²) + eps), w = qw or kw (D); values are copied. n = R·heads. Packed: D a multiple of 8,
 * at most 2048; uneven: D at most 256. y may lie where x does. Grid: any. Moves 2·n·D·s bytes. Source: arXiv:2302.05442.
 */
export const qkNorms = { packed: forward(8), uneven: forward(1) }

function backward(pack: Pack) {
  return kernel({
    name: pack === 8 ? "qk_norm_backward" : "qk_norm_backward_uneven",
    workgroup: LANES,
    buffers: { x: read(act), dy: read(act), qw: read(f32), kw: read(f32), dx: write(act), dqw: write(f32), dkw: write(f32) },
    push: { n: u32, eps: f32 },
    constants,
    body(k, { x, dy, qw, kw, dx, dqw, dkw, eps, ...sizes }) {
      const { D } = sizes
      const [squares, products] = [k.shared("squares", f32, LANES), k.shared("products", f32, LANES)]
      const zeros = () => range(pack).map(() => k.var(f32, 0))
      const sums = [zeros(), zeros()]
      const { j, slots } = placeOf(k, pack, sizes)
      eachHead(k, pack, sizes, (at, isActive, kind) => {
        const [xs, ds, ws] = [zeros(), zeros(), zeros()]
        const [square, product] = [k.var(f32, 0), k.var(f32, 0)]
        k.if(isActive, () => {
          const load = (from: typeof x | typeof qw, index: U32, to: typeof xs) =>
            (pack === 8 ? from.pack(8).at(index) : [from.at(index)]).forEach((value, i) => to[i]!.set(value))
          load(x, at, xs)
          load(dy, at, ds)
          k.if(
            kind.eq(0),
            () => load(qw, j, ws),
            () => load(kw, j, ws),
          )
          xs.forEach((value, i) => {
            square.add(value.get().mul(value.get()))
            product.add(value.get().mul(ds[i]!.get()).mul(ws[i]!.get()))
          })
        })
        squares.set(k.lane, square.get())
        products.set(k.lane, product.get())
        k.barrier()
        const rstd = k.f32(1).div(headSum(k, pack, sizes, squares).div(D.toF32()).add(eps).sqrt())
        const mean = headSum(k, pack, sizes, products).mul(rstd).div(D.toF32())
        k.if(isActive, () => {
          const out = ds.map((value) => k.var(f32, value.get()))
          k.if(kind.lt(2), () => {
            out.forEach((value, i) => {
              const normed = xs[i]!.get().mul(rstd)
              const term = value.get().mul(normed)
              sums.forEach((sum, which) => sum[i]!.add(kind.eq(which).select(term, 0)))
              value.set(value.get().mul(ws[i]!.get()).sub(normed.mul(mean)).mul(rstd))
            })
          })
          const result = out.map((value) => value.get())
          if (pack === 8) dx.pack(8).set(at, result)
          else dx.set(at, result[0]!)
        })
        k.barrier()
      })
      const columns = k.shared("columns", f32, LANES * pack)
      ;([dqw, dkw] as const).forEach((to, which) => {
        sums[which]!.forEach((sum, i) => columns.set(k.lane.mul(pack).add(i), sum.get()))
        k.barrier()
        k.for(k.lane, D, LANES, (c) => {
          const total = k.var(f32, 0)
          k.for(0, slots, 1, (slot) => total.add(columns.at(slot.mul(D).add(c))))
          to.set(k.group.mul(D).add(c), total.get())
        })
        k.barrier()
      })
    },
  })
}
/**
 * Per query and key head with n = x·rstd and g = dy·w: dx = rstd·(g − n·mean(g·n)); values' dy is copied. dqw[p], dkw[p] (D) = Σ dy·n over the heads
 * that workgroup p took, whose column sums are the gradients. Sizes as in `qkNorms`; dx may lie where dy does; dqw, dkw (groups, D).
 * Grid: any. Moves 3·R·heads·D·s bytes.
 */
export const qkNormBackwards = { packed: backward(8), uneven: backward(1) }
