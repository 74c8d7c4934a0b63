/** Sums before a lane, and extremes, over large workgroups: two levels of subgroup operations. */
import { type Body, type F32, f32, type SharedArray, type U32, u32 } from "../src/spirv.ts"

/** Subgroups of a workgroup of 1024 lanes at most. */
const SLOTS = 256

/** What a workgroup shares for this: one element per subgroup. */
export interface Slots {
  readonly floats: SharedArray<typeof f32>
  readonly integers: SharedArray<typeof u32>
}

export const slotsOf = (k: Body): Slots => ({
  floats: k.shared("floats of subgroups", f32, SLOTS),
  integers: k.shared("integers of subgroups", u32, SLOTS),
})

/**
 * Calls `each` with the slots of all subgroups, dealt to the lanes of each; the last slot repeats where they do not come out even. All lanes
 * take as many turns, so that the subgroup operation after it finds them together.
 */
function eachSlot(k: Body, each: (slot: U32, isOwn: (slots: U32) => ReturnType<U32["lt"]>) => void): void {
  const count = k.workgroup.div(k.subgroupSize)
  k.for(0, count, k.subgroupSize, (turn) => {
    const slot = turn.add(k.subgroupLane)
    each(slot.min(count.sub(1)), (end) => slot.lt(end))
  })
}

/** Sums of a value over the lanes before this one, up to it, and over all. */
export interface Sums<V> {
  readonly before: V
  readonly upTo: V
  readonly total: V
}

/** Sums of `count` and `weight`; two barriers, the order is fixed for a subgroup size. */
export function scan(k: Body, slots: Slots, count: U32, weight: F32): { readonly count: Sums<U32>; readonly weight: Sums<F32> } {
  const upTo = { count: k.subgroupInclusiveAdd(count), weight: k.subgroupInclusiveAdd(weight) }
  k.if(k.subgroupLane.eq(k.subgroupSize.sub(1)), () => {
    slots.integers.set(k.subgroup, upTo.count)
    slots.floats.set(k.subgroup, upTo.weight)
  })
  k.barrier()
  const sums = { count: k.var(u32, 0), counts: k.var(u32, 0), weight: k.var(f32, 0), weights: k.var(f32, 0) }
  eachSlot(k, (slot, isBelow) => {
    const [ofCount, ofWeight] = [slots.integers.at(slot), slots.floats.at(slot)]
    const isSlot = isBelow(k.workgroup.div(k.subgroupSize))
    sums.count.add(isBelow(k.subgroup).select(ofCount, 0))
    sums.weight.add(isBelow(k.subgroup).select(ofWeight, 0))
    sums.counts.add(isSlot.select(ofCount, 0))
    sums.weights.add(isSlot.select(ofWeight, 0))
  })
  const before = { count: k.subgroupAdd(sums.count.get()), weight: k.subgroupAdd(sums.weight.get()) }
  const total = { count: k.subgroupAdd(sums.counts.get()), weight: k.subgroupAdd(sums.weights.get()) }
  k.barrier() // the slots may be written again from here on
  return {
    count: { before: before.count.add(k.subgroupExclusiveAdd(count)), upTo: before.count.add(upTo.count), total: total.count },
    weight: { before: before.weight.add(k.subgroupExclusiveAdd(weight)), upTo: before.weight.add(upTo.weight), total: total.weight },
  }
}

/** The smallest value of the workgroup, in every lane. Two barriers. */
export function smallest(k: Body, slots: Slots, value: U32): U32 {
  const partial = k.subgroupMin(value)
  k.if(k.subgroupElect(), () => slots.integers.set(k.subgroup, partial))
  k.barrier()
  const own = k.var(u32, partial)
  eachSlot(k, (slot) => own.update((now) => now.min(slots.integers.at(slot))))
  const result = k.subgroupMin(own.get())
  k.barrier() // the slots may be written again from here on
  return result
}

/** The largest value of the workgroup, none of them NaN, in every lane. Two barriers. */
export function largest(k: Body, slots: Slots, value: F32): F32 {
  const partial = k.subgroupMax(value)
  k.if(k.subgroupElect(), () => slots.floats.set(k.subgroup, partial))
  k.barrier()
  const own = k.var(f32, partial)
  eachSlot(k, (slot) => own.update((now) => now.max(slots.floats.at(slot))))
  const result = k.subgroupMax(own.get())
  k.barrier() // the slots may be written again from here on
  return result
}

/** The lowest number of those that hit, or where none did, the highest of those that are filled; NONE where none is. Numbers below 2^30. */
export function firstHit(k: Body, slots: Slots, number: U32, isHit: ReturnType<U32["lt"]>, isFilled: ReturnType<U32["lt"]>): U32 {
  const found = smallest(k, slots, isHit.select(number, isFilled.select(k.u32(FALLBACK).sub(number), NONE)))
  return found
    .lt(2 ** 30)
    .or(found.eq(NONE))
    .select(found, k.u32(FALLBACK).sub(found))
}
const FALLBACK = 0xc0000000
export const NONE = 0xffffffff
