/** A unit of keys in the gradient of Hopper's attention for queries: weights, slopes, and their products with the keys. */
import type { F32, Ptx, U32 } from "../src/ptx.ts"
import { dropoutFactor } from "./ptx-attention-dropout.ts"
import { asLeft, columnAt, keepApart, maskDiagonal, multiply, type Role, range, rowAt } from "./ptx-attention-frame.ts"
import { giveBack, type Position, take } from "./ptx-attention-ring.ts"
import { ALONG_COLUMNS, ALONG_ROWS, partsOf } from "./ptx-attention-tile.ts"

/** What stays in registers from turn to turn and from unit to unit. */
export interface State {
  readonly at: Position
  readonly queries: readonly (readonly U32[])[]
  readonly gradients: readonly (readonly U32[])[]
  readonly scores: readonly F32[]
  readonly slopes: readonly F32[]
  readonly left: readonly (readonly U32[])[]
  readonly out: readonly (readonly F32[])[]
  /** Of the lane's two rows, −lse·log2 e and −δ. */
  readonly known: readonly { readonly log: F32; readonly delta: F32 }[]
  readonly scale2: F32
  /** Never 0. */
  readonly T: U32
  /** Barriers of the keys of the unit before, which the last products still read. */
  readonly before: readonly U32[]
}

/** Unit j of the keys. Where the ring has room, the products with the unit before may be under way, and those with this one still are afterwards. */
export function unit(
  k: Ptx,
  role: Role,
  state: State,
  [j, diagonal]: readonly [U32, U32],
  words: readonly (readonly U32[])[] | undefined,
  factor: F32,
): void {
  const { tile, isFirstLane, always } = role
  const { at, scores, slopes, left, out, known, before, T } = state
  const parts = range(partsOf(tile))
  const isLate = 3 * parts.length <= at.slots
  const keys = parts.map(() => take(k, at))
  k.multiplyFence()
  multiply(k, scores, state.queries, keys, ALONG_COLUMNS, k.not(always), always)
  k.multiplyCommit()
  k.multiplyWait(1) // the products before these
  if (isLate) k.if(k.compare("ne", j, 0), () => before.forEach((barriers) => giveBack(k, { barriers }, isFirstLane)))
  const values = parts.map(() => take(k, at))
  k.multiplyFence()
  multiply(k, slopes, state.gradients, values, ALONG_COLUMNS, k.not(always), always)
  k.multiplyCommit()
  k.multiplyWait(1)
  k.if(k.compare("eq", j, diagonal), () => maskDiagonal(k, role, scores, "queries"))
  scores.forEach((score, i) => {
    k.unary("ex2.approx.ftz.f32", k.fma(score, state.scale2, known[rowAt(i)]!.log), score)
  })
  k.multiplyWait(0)
  keepApart(k, [...state.queries, ...state.gradients], T)
  for (const slot of values) giveBack(k, slot, isFirstLane)
  slopes.forEach((slope, i) => {
    const which = rowAt(i)
    const { delta } = known[which]!
    const kept = words === undefined ? undefined : dropoutFactor(k, words[which]![columnAt(i) >> 5]!, columnAt(i) & 31, factor)
    if (kept === undefined) k.addFloat(slope, delta, slope)
    else k.fma(slope, kept, delta, slope)
    k.mulFloat(slope, scores[i]!, slope)
  })
  asLeft(k, slopes, left)
  k.multiplyFence()
  out.forEach((part, p) => multiply(k, part, left, [keys[p]!], ALONG_ROWS, always, always))
  k.multiplyCommit()
  if (isLate) keys.forEach((slot, p) => k.copy(before[p]!, slot.barriers))
  else {
    k.multiplyWait(0)
    for (const slot of keys) giveBack(k, slot, isFirstLane)
  }
}
