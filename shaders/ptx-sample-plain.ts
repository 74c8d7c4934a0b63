/** The token that a random number takes of a row without cuts by top k and top p: by rising id, first the slice, then the token. */
import type { F32, U32 } from "../src/ptx.ts"
import { firstHit, NONE, overLanes, scan } from "./ptx-sample-block.ts"
import type { Facts } from "./ptx-sample-facts.ts"
import { eachOf, eachSlice, joined, type Row, sliceOf } from "./ptx-sample-row.ts"

export interface Plain {
  readonly sharpness: F32
  readonly minP: F32
  readonly uniform: F32
}

/** What sums of slices take in shared memory, and what one thread tells all. */
export const plainBytes = (threads: number): number => 4 * threads + 16

/** Changes `token`, the most likely one so far, to the drawn one; as many slices as threads at most. `shared`: bytes before plainBytes, a multiple of 16. */
export function plain(row: Row, facts: Facts, { sharpness, minP, uniform }: Plain, shared: number, token: U32): void {
  const { block, logits, allowed } = row
  const { k, threads, thread, lane } = block
  const plus = (a: F32, b: F32) => k.addFloat(a, b)
  const factor = k.mulFloat(sharpness, Math.LOG2E)
  const weightOf = (z: F32): F32 => {
    const weight = k.unary("ex2.approx.ftz.f32", k.mulFloat(k.subFloat(z, facts.top), factor))
    return k.select(k.compare("ge", weight, minP), weight, 0, "f32") // a NaN is not
  }
  eachSlice(row, eachOf(threads), (slice, of) => {
    const sum = overLanes(block, joined(of.map(weightOf), plus), plus)
    k.when(k.compare("eq", lane, 0), () => k.storeShared({ base: k.shl(slice, 2), bytes: shared }, [sum]))
  })
  k.syncBlock()
  const own = k.variable("f32", 0)
  k.when(k.compare("lt", thread, Math.ceil(allowed / sliceOf(threads))), () =>
    k.loadShared([own], { base: k.shl(thread, 2), bytes: shared }),
  )
  const bySlice = scan(block, k.variable("u32", 0), own).weight
  const target = k.mulFloat(bySlice.all, uniform)
  const isFilled = k.compare("gt", own, 0)
  const isHit = k.both(isFilled, k.compare("gt", k.addFloat(bySlice.before, own), target))
  const from = firstHit(block, [{ number: thread, isHit, isFilled }])
  const told = shared + 4 * threads
  k.when(k.compare("eq", thread, from), () => k.storeShared(told, [bySlice.before]))
  k.syncBlock()
  k.if(k.compare("ne", from, NONE), () => {
    const each = sliceOf(threads) / threads
    const upTo = k.register("f32")
    k.loadShared([upTo], told)
    const first = k.mad(from, sliceOf(threads), k.mul(thread, each))
    const weights = Array.from({ length: each }, (_, i) => {
      const z = k.variable("f32", Number.NEGATIVE_INFINITY)
      const at = k.madWide(first, 4, logits)
      k.when(k.compare("lt", k.add(first, i), allowed), () => k.load("f32", [z], at, 4 * i))
      return weightOf(z)
    })
    let sum = k.addFloat(upTo, scan(block, k.variable("u32", 0), weights.reduce(plus)).weight.before)
    const candidates = weights.map((weight, i) => {
      sum = k.addFloat(sum, weight)
      const isFilled = k.compare("gt", weight, 0)
      return { number: k.add(k.mul(thread, each), i), isFilled, isHit: k.both(isFilled, k.compare("gt", sum, target)) }
    })
    const place = firstHit(block, candidates)
    k.when(k.compare("ne", place, NONE), () => k.copy(token, k.mad(from, sliceOf(threads), place)))
  })
}
