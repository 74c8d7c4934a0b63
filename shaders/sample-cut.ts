/** Sampling, the hard part: the token where the weights in falling order reach a number, found by histograms instead of a sort. */
import { type Body, type Bool, type F32, f32, type SharedArray, type U32, u32 } from "../src/spirv.ts"
import { firstHit, NONE, type Slots, scan } from "./workgroup.ts"

/** Keys per nat below the top, and the key of all that is 62 nats or more below, or NaN: it weighs nothing. */
const PER_NAT = 2 ** 25
export const LAST = 0x7fffffff
/** Bits of a key that the coarse bins leave, and bins: of 1/32 nat each. Every finer step takes 10 bits more. */
const COARSE_SHIFT = 20
const COARSE = 2048
const FINE_BITS = 10
const FINE = 2 ** FINE_BITS

/** Distance of a logit below the top, as an integer that grows with it. */
export function keyOf(k: Body, top: F32, z: F32, sharpness: F32): U32 {
  const d = top.sub(z).mul(sharpness)
  return z.eq(top).select(k.u32(0), d.lt(62).select(d.mul(PER_NAT).toU32(), LAST))
}

/** The weight of a key, 1 at the top. */
export const weightOf = (key: U32): F32 =>
  key
    .toF32()
    .mul(-1 / PER_NAT)
    .exp()

/** Where a bin ends and the next begins, for each: tokens and weight before it; one entry more for the end. */
interface Bins {
  readonly counts: SharedArray<typeof u32>
  /** Bits of f32; while a histogram is made, an integer measure of what its tokens weigh less than the bin's first key. */
  readonly weights: SharedArray<typeof u32>
}

export interface Cut {
  readonly k: Body
  readonly slots: Slots
  /** Calls `use` with the key of every token, in turns of this lane. */
  readonly eachKey: (use: (key: U32) => void) => void
  /** What Σ over a bin of missing weight, below 1/32 of the bin's each, is stored in units of: 1/scale; V·scale/32 < 2^32. */
  readonly scale: F32
  readonly kLimit: U32
  readonly topP: F32
  readonly minP: F32
  readonly uniform: F32
}

/** The keys a drawn token may have: [key, key + span), and which of those tokens by rising id. */
export interface Drawn {
  readonly key: U32
  readonly span: U32
  readonly nth: U32
}

/** A bin that may be the one sought. */
interface Candidate {
  readonly own: U32
  readonly isFilled: Bool
  readonly isHit: Bool
}

/** Shared arrays of the cuts; `fine.weights` may be used for something else after. */
const binsOf = (k: Body, name: string, count: number): Bins => ({
  counts: k.shared(`${name} counts`, u32, count + 1),
  weights: k.shared(`${name} weights`, u32, count + 1),
})
export const coarseBins = (k: Body): Bins => binsOf(k, "coarse", COARSE)
export const fineBins = (k: Body): Bins => binsOf(k, "fine", FINE)

/**
 * Cuts the tokens, in the order of falling weight, to the topK first, then to the smallest set of at least topP of their weight, then to those
 * of at least minP, and draws one. Workgroup of 1024 lanes, all of which must come here.
 */
export function draw(cut: Cut, coarse: Bins, fine: Bins): Drawn {
  const { k, slots } = cut
  fillCoarse(cut, coarse)
  const total = k.var(f32, coarse.weights.at(COARSE).asF32())
  const lastKey = k.var(u32, LAST - 1) // of the tokens that are kept
  const limitKey = k.var(u32, LAST) // where only some tokens of the last key are kept: that key …
  const limitCount = k.var(u32, NONE) // … and how many
  const key = k.var(u32, 0)
  const span = k.var(u32, 0)
  const nth = k.var(u32, 0)
  const [K, P, MIN, DRAW] = [0, 1, 2, 3]
  const floor = cut.minP.ge(1).select(k.u32(0), cut.minP.log().mul(-PER_NAT).max(0).min(LAST).toU32()) // the last key of at least minP
  k.for(K, DRAW + 1, 1, (stage) => {
    const isK = stage.eq(K)
    const isMin = stage.eq(MIN)
    const isDraw = stage.eq(DRAW)
    const isActive = isDraw
      .or(isK.and(cut.kLimit.lt(coarse.counts.at(COARSE))))
      .or(stage.eq(P).and(cut.topP.lt(1)))
      .or(isMin.and(cut.minP.gt(0)).and(floor.lt(lastKey.get())))
    k.if(isActive, () => {
      const target = isDraw.select(cut.uniform, cut.topP).mul(total.get())
      /** Whether what the bin that ends here with `count` tokens and `weight` in all, is the one sought or behind it. */
      const reaches = (count: U32, weight: F32): Bool =>
        isK
          .and(count.ge(cut.kLimit))
          .or(stage.eq(P).and(weight.ge(target)))
          .or(isDraw.and(weight.gt(target)))
      const bin = k.var(u32, floor.shr(COARSE_SHIFT))
      k.if(isMin.not(), () => {
        // A lane has two bins; the lower one counts where both are hit, the upper one where none is.
        const [lower, upper] = [0, 1].map((i) => {
          const own = k.lane.mul(2).add(i)
          const count = coarse.counts.at(own.add(1))
          const isFilled = count.gt(coarse.counts.at(own)).and(own.le(lastKey.get().shr(COARSE_SHIFT)))
          return { own, isFilled, isHit: isFilled.and(reaches(count, coarse.weights.at(own.add(1)).asF32())) }
        }) as [Candidate, Candidate]
        const isLower = lower.isHit.or(upper.isFilled.not())
        bin.set(firstHit(k, slots, isLower.select(lower.own, upper.own), lower.isHit.or(upper.isHit), lower.isFilled.or(upper.isFilled)))
      })
      // What lies before the bin, and in it.
      const base = k.var(u32, bin.get().shl(COARSE_SHIFT))
      const shift = k.var(u32, COARSE_SHIFT)
      const countBefore = k.var(u32, coarse.counts.at(bin.get()))
      const weightBefore = k.var(f32, coarse.weights.at(bin.get()).asF32())
      const count = k.var(u32, coarse.counts.at(bin.get().add(1)).sub(countBefore.get()))
      const weight = k.var(f32, coarse.weights.at(bin.get().add(1)).asF32().sub(weightBefore.get()))
      // A bin that is wanted whole, or holds one token, needs no finer look.
      const isOpen = () =>
        shift
          .get()
          .gt(0)
          .and(isMin.select(count.get().gt(0), count.get().gt(1)))
          .and(isK.and(countBefore.get().add(count.get()).eq(cut.kLimit)).not())
      k.while(isOpen, () => {
        fillFine(cut, fine, base.get(), shift.get())
        shift.update((now) => now.sub(FINE_BITS))
        const inner = k.var(u32, floor.sub(base.get()).shr(shift.get()))
        k.if(isMin.not(), () => {
          const upTo = fine.counts.at(k.lane.add(1))
          const isFilled = upTo.gt(fine.counts.at(k.lane)).and(base.get().add(k.lane.shl(shift.get())).le(lastKey.get()))
          const isHit = isFilled.and(reaches(countBefore.get().add(upTo), weightBefore.get().add(fine.weights.at(k.lane.add(1)).asF32())))
          inner.set(firstHit(k, slots, k.lane, isHit, isFilled))
        })
        base.update((now) => now.add(inner.get().shl(shift.get())))
        const [from, to] = [inner.get(), inner.get().add(1)]
        count.set(fine.counts.at(to).sub(fine.counts.at(from)))
        weight.set(fine.weights.at(to).asF32().sub(fine.weights.at(from).asF32()))
        countBefore.add(fine.counts.at(from))
        weightBefore.add(fine.weights.at(from).asF32())
      })
      const members = count.get()
      const each = weight.get().div(members.max(1).toF32())
      const steps = target.sub(weightBefore.get()).div(each) // tokens of this key that the target takes
      k.if(
        isDraw,
        () => {
          const most = base.get().eq(limitKey.get()).select(limitCount.get().min(members), members)
          key.set(base.get())
          span.set(k.u32(1).shl(shift.get()))
          nth.set(steps.max(0).min(members.toF32()).toU32().min(most.max(1).sub(1)))
        },
        () => {
          const byWeight = steps.ceil().max(1).min(members.toF32()).toU32()
          const kept = isMin.select(members, isK.select(cut.kLimit.sub(countBefore.get()).min(members), byWeight))
          total.set(weightBefore.get().add(kept.eq(members).select(weight.get(), each.mul(kept.toF32()))))
          lastKey.set(base.get().add(k.u32(1).shl(shift.get()).sub(1)))
          limitKey.set(base.get())
          limitCount.set(kept)
        },
      )
    })
  })
  return { key: key.get(), span: span.get(), nth: nth.get() }
}

/** Bins of all tokens: a bin's weight is that of its first key times (tokens − what they miss of it). */
function fillCoarse({ k, slots, eachKey, scale }: Cut, { counts, weights }: Bins): void {
  const [left, right] = [k.lane.mul(2), k.lane.mul(2).add(1)]
  for (const bin of [left, right]) {
    counts.set(bin, 0)
    weights.set(bin, 0)
  }
  k.barrier()
  eachKey((key) =>
    k.if(key.lt(LAST), () => {
      const missing = k.f32(1).sub(weightOf(key.and(2 ** COARSE_SHIFT - 1)))
      counts.atomicAdd(key.shr(COARSE_SHIFT), 1)
      weights.atomicAdd(key.shr(COARSE_SHIFT), missing.mul(scale).add(0.5).toU32())
    }),
  )
  k.barrier()
  const weight = (bin: U32): F32 => weightOf(bin.shl(COARSE_SHIFT)).mul(counts.at(bin).toF32().sub(weights.at(bin).toF32().div(scale)))
  const [leftCount, rightCount, leftWeight, rightWeight] = [counts.at(left), counts.at(right), weight(left), weight(right)]
  const { count, weight: sum } = scan(k, slots, leftCount.add(rightCount), leftWeight.add(rightWeight))
  counts.set(left, count.before)
  counts.set(right, count.before.add(leftCount))
  weights.set(left, sum.before.bits())
  weights.set(right, sum.before.add(leftWeight).bits())
  k.if(k.lane.eq(COARSE / 2 - 1), () => {
    counts.set(COARSE, count.upTo)
    weights.set(COARSE, sum.upTo.bits())
  })
  k.barrier()
}

/** Bins of the keys in [base, base + 2^shift), 2^(shift − 10) to a bin; so close to each other that a token's missing weight is its distance. */
function fillFine({ k, slots, eachKey }: Cut, { counts, weights }: Bins, base: U32, shift: U32): void {
  k.barrier() // others may still read what the last time left
  counts.set(k.lane, 0)
  weights.set(k.lane, 0)
  k.barrier()
  const rest = shift.sub(FINE_BITS)
  eachKey((key) => {
    const place = key.sub(base)
    k.if(place.shr(shift).eq(0).and(key.lt(LAST)), () => {
      const bin = place.shr(rest)
      counts.atomicAdd(bin, 1)
      weights.atomicAdd(bin, place.sub(bin.shl(rest)))
    })
  })
  k.barrier()
  const count = counts.at(k.lane)
  const missing = weights
    .at(k.lane)
    .toF32()
    .mul(1 / PER_NAT)
  const weight = weightOf(base.add(k.lane.shl(rest))).mul(count.toF32().sub(missing))
  const { count: tokens, weight: sum } = scan(k, slots, count, weight)
  counts.set(k.lane, tokens.before)
  weights.set(k.lane, sum.before.bits())
  k.if(k.lane.eq(FINE - 1), () => {
    counts.set(FINE, tokens.upTo)
    weights.set(FINE, sum.upTo.bits())
  })
  k.barrier()
}
