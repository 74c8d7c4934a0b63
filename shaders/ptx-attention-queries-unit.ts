/** A unit of keys in the gradient of Hopper's attention for queries: weights, slopes, and their products with the keys. */
import type { F32, Ptx, U32 } from "../src/ptx.ts"
import { dropoutFactor } from "./ptx-attention-dropout.ts"
import { asLeft, columnAt, keepApart, maskDiagonal, multiply, type Role, range, rowAt, settle } from "./ptx-attention-frame.ts"
import { giveBack, type Position, type Slot, take } from "./ptx-attention-ring.ts"
import { ALONG_COLUMNS, ALONG_ROWS, partsOf, SLOTS } from "./ptx-attention-tile.ts"

/** What stays in registers from turn to turn and from unit to unit. */
export interface State {
  readonly at: Position
  readonly queries: readonly (readonly U32[])[]
  readonly gradients: readonly (readonly U32[])[]
  /** Of a unit, and of the next where that is multiplied meanwhile. */
  readonly scores: readonly (readonly F32[])[]
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
export function aloneUnit(
  k: Ptx,
  role: Role,
  state: State,
  [j, diagonal]: readonly [U32, U32],
  words: readonly (readonly U32[])[] | undefined,
  factor: F32,
): void {
  const { tile, isFirstLane, always } = role
  const { at, slopes, left, out, known, before, T } = state
  const scores = state.scores[0]!
  const parts = range(partsOf(tile))
  const isLate = 3 * parts.length <= SLOTS
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

/**
 * All units of a turn that a warpgroup's queries see, heads of 64, no dropout. While the scores of one become weights, the products of the unit before with
 * its slopes are under way, then this one's slopes, then the next one's scores.
 */
export function unitsInTurn(k: Ptx, role: Role, state: State, count: U32): void {
  const { always, isFirstLane } = role
  const { at, slopes, left, known, scale2, T } = state
  const scores = state.scores as readonly [readonly F32[], readonly F32[]]
  const out = state.out[0]!
  const never = k.not(always)
  const j = k.variable("u32", 0)
  const slot = () => k.registers("u32", 2) as [U32, U32]
  const [now, before] = [slot(), slot()]
  const hold = (to: readonly [U32, U32], [memory, barriers]: readonly [U32, U32]) => {
    k.copy(to[0], memory)
    k.copy(to[1], barriers)
  }
  const whole = ([memory, barriers]: readonly [U32, U32]): Slot => ({ memory, barriers, statistics: memory })
  const score = (to: readonly F32[]) => {
    const keys = take(k, at)
    hold(now, [keys.memory, keys.barriers])
    k.multiplyFence()
    multiply(k, to, state.queries, [keys], ALONG_COLUMNS, never, always)
    k.multiplyCommit()
  }
  const withSlopes = () => {
    k.multiplyFence()
    multiply(k, out, left, [whole(before)], ALONG_ROWS, always, always)
    k.multiplyCommit()
  }
  /** Nothing is under way before and after. */
  const unit = (which: 0 | 1, isLast: boolean) => {
    const isLater = k.compare("ne", j, 0)
    const values = take(k, at)
    k.if(isLater, withSlopes)
    k.multiplyFence()
    multiply(k, slopes, state.gradients, [values], ALONG_COLUMNS, never, always)
    k.multiplyCommit()
    const last = slot()
    hold(last, before)
    hold(before, now)
    if (isLast) maskDiagonal(k, role, scores[which], "queries")
    else score(scores[1 - which]!)
    scores[which].forEach((score, i) => {
      if (i === 16) {
        settle(k, T)
        k.multiplyWait(isLast ? 1 : 2)
        k.if(isLater, () => giveBack(k, whole(last), isFirstLane))
      }
      k.unary("ex2.approx.ftz.f32", k.fma(score, scale2, known[rowAt(i)]!.log), score)
    })
    settle(k, T)
    k.multiplyWait(isLast ? 0 : 1)
    giveBack(k, values, isFirstLane)
    slopes.forEach((slope, i) => {
      k.addFloat(slope, known[rowAt(i)]!.delta, slope)
      k.mulFloat(slope, scores[which][i]!, slope)
    })
    asLeft(k, slopes, left)
    settle(k, T)
    k.multiplyWait(0)
    keepApart(k, [...state.queries, ...state.gradients], T)
    k.add(j, 1, j)
  }
  score(scores[0])
  k.multiplyWait(0)
  k.while(
    "KEYS",
    () => k.compare("lt", k.add(j, 2), count),
    () => {
      unit(0, false)
      unit(1, false)
    },
  )
  k.if(k.compare("lt", k.add(j, 1), count), () => {
    unit(0, false)
    scores[0].forEach((to, i) => k.copy(to, scores[1][i]!))
  })
  unit(0, true)
  withSlopes()
  k.multiplyWait(0)
  giveBack(k, whole(before), isFirstLane)
}
