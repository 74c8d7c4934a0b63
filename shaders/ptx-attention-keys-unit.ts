/** A unit of queries in the gradient of Hopper's attention for keys and values: weights, slopes, and their products with queries and gradients. */
import type { F32, Predicate, Ptx, U32 } from "../src/ptx.ts"
import { droppedAt } from "./ptx-attention-dropout.ts"
import { asLeft, keepApart, maskDiagonal, multiply, type Role, range, settle } from "./ptx-attention-frame.ts"
import { giveBack, heldSlot, hold, type Position, type Slot, take } from "./ptx-attention-ring.ts"
import { ALONG_COLUMNS, ALONG_ROWS, partsOf, UNIT } from "./ptx-attention-tile.ts"

/** What stays in registers from unit to unit. */
export interface State {
  readonly at: Position
  readonly keys: readonly (readonly U32[])[]
  readonly values: readonly (readonly U32[])[]
  readonly scores: readonly F32[]
  readonly slopes: readonly F32[]
  /** Left factors: weights, then slopes, in one or in two; a third keeps the weights that dropout drops. */
  readonly left: readonly (readonly (readonly U32[])[])[]
  readonly sums: { readonly keys: readonly F32[]; readonly values: readonly F32[] }
  /** Of a head of 128, whether the block's columns are the second 64. */
  readonly isSecond: Predicate | undefined
  readonly scale2: F32
  /** Dropout's, of what it keeps. */
  readonly factor: F32
  /** Never 0. */
  readonly T: U32
}

/** The lane's −lse·log2 e and −δ of the 16 queries whose columns it has. */
function statisticsOf(k: Ptx, { column }: Role, slot: Slot): readonly { readonly log: F32; readonly delta: F32 }[] {
  const base = k.add(slot.memory, k.shl(column, 3))
  return range(8).flatMap((block) => {
    const all = k.registers("f32", 4)
    k.loadShared(all, { base, bytes: UNIT + 64 * block })
    return [0, 2].map((i) => ({ log: all[i]!, delta: all[i + 1]! }))
  })
}

/** The unit whose columns the block makes. */
function chosen(k: Ptx, units: readonly Slot[], isSecond: State["isSecond"]): Slot {
  const [first, second] = units
  if (isSecond === undefined || second === undefined) return first!
  return { memory: k.select(isSecond, second.memory, first!.memory, "u32"), barriers: first!.barriers }
}

/** A unit of queries by itself: nothing is under way before or after. */
export function aloneUnit(k: Ptx, role: Role, state: State, isDiagonal: Predicate, bitsOf: (() => U32) | undefined): void {
  const { tile, always, isFirstLane } = role
  const { at, scores, slopes, left, sums, isSecond, scale2, factor, T } = state
  const parts = range(partsOf(tile))
  const queries = parts.map(() => take(k, at))
  k.multiplyFence()
  multiply(k, scores, state.keys, queries, ALONG_COLUMNS, k.not(always), always)
  k.multiplyCommit()
  const gradients = parts.map(() => take(k, at))
  k.multiplyFence()
  multiply(k, slopes, state.values, gradients, ALONG_COLUMNS, k.not(always), always)
  k.multiplyCommit()
  const queryOf = () => {
    const known = statisticsOf(k, role, queries[0]!)
    return (i: number) => known[2 * (i >> 2) + (i & 1)]!
  }
  const bits = bitsOf?.()
  const before = queryOf()
  k.multiplyWait(1)
  k.if(isDiagonal, () => maskDiagonal(k, role, scores, "keys"))
  scores.forEach((score, i) => {
    k.unary("ex2.approx.ftz.f32", k.fma(score, scale2, before(i).log), score)
  })
  asLeft(k, bits === undefined ? scores : scores.map((score, i) => droppedAt(k, bits, i, score)), left[0]!)
  k.multiplyFence()
  multiply(k, sums.values, left[0]!, [chosen(k, gradients, isSecond)], ALONG_ROWS, always, always)
  k.multiplyCommit()
  k.multiplyWait(0) // weights and slopes share registers
  // Loaded again, as registers are short.
  const after = queryOf()
  slopes.forEach((slope, i) => {
    if (bits === undefined) k.addFloat(slope, after(i).delta, slope)
    else k.fma(droppedAt(k, bits, i, slope), factor, after(i).delta, slope)
    k.mulFloat(slope, scores[i]!, slope)
  })
  asLeft(k, slopes, left[0]!)
  k.multiplyFence()
  multiply(k, sums.keys, left[0]!, [chosen(k, queries, isSecond)], ALONG_ROWS, always, always)
  k.multiplyCommit()
  k.multiplyWait(0)
  keepApart(k, [...state.keys, ...state.values], T)
  for (const slot of [...queries, ...gradients]) giveBack(k, slot, isFirstLane)
}

/**
 * The units of queries from the diagonal to the last, heads of 64. Nearly always products are under way: while scores become weights those with the values,
 * while slopes are scaled those with the weights and the scores of the next unit; and those with the slopes as soon as they are there.
 */
export function unitsInTurn(
  k: Ptx,
  role: Role,
  state: State,
  [diagonal, end]: readonly [U32, U32],
  bitsOf: ((i: U32) => U32) | undefined,
): void {
  const { always, isFirstLane } = role
  const { at, scores, slopes, left, sums, scale2, factor, T } = state
  const never = k.not(always)
  const [weights, rising, kept] = [left[0]!, left[1]!, left[2]]
  const [now, before, gradients] = [heldSlot(k), heldSlot(k), heldSlot(k)]
  const i = k.variable("u32", diagonal)
  const score = () => {
    hold(k, now, take(k, at))
    k.multiplyFence()
    multiply(k, scores, state.keys, [now], ALONG_COLUMNS, never, always)
    k.multiplyCommit()
  }
  /** Under way before: the products with the weights of the unit before, this one's scores, the product with the slopes of the unit before; and so after. */
  const unit = (isLast: boolean) => {
    const isLater = k.compare("ne", i, diagonal)
    k.multiplyWait(1)
    k.if(isLater, () => giveBack(k, gradients, isFirstLane))
    const bits = bitsOf?.(i)
    const logs = statisticsOf(k, role, now)
    k.if(
      isLater,
      () => undefined,
      () => maskDiagonal(k, role, scores, "keys"),
    )
    settle(k, T)
    k.multiplyWait(0)
    keepApart(k, [...state.keys, ...state.values], T)
    k.if(isLater, () => giveBack(k, before, isFirstLane))
    hold(k, gradients, take(k, at))
    k.multiplyFence()
    multiply(k, slopes, state.values, [gradients], ALONG_COLUMNS, never, always)
    k.multiplyCommit()
    scores.forEach((score, place) => {
      k.unary("ex2.approx.ftz.f32", k.fma(score, scale2, logs[2 * (place >> 2) + (place & 1)]!.log), score)
    })
    if (kept !== undefined) asLeft(k, scores, kept)
    asLeft(k, bits === undefined ? scores : scores.map((one, place) => droppedAt(k, bits, place, one)), weights)
    k.multiplyFence()
    multiply(k, sums.values, weights, [gradients], ALONG_ROWS, always, always)
    k.multiplyCommit()
    const deltas = statisticsOf(k, role, now)
    hold(k, before, now)
    if (!isLast) score()
    k.multiplyWait(isLast ? 1 : 2)
    slopes.forEach((slope, place) => {
      const { delta } = deltas[2 * (place >> 2) + (place & 1)]!
      if (bits === undefined) k.addFloat(slope, delta, slope)
      else k.fma(droppedAt(k, bits, place, slope), factor, delta, slope)
      const pair = (kept ?? weights)[place >> 3]![(place & 7) >> 1]!
      k.mulFloat(slope, k.unpackBf16(pair, (place & 1) as 0 | 1), slope)
    })
    asLeft(k, slopes, rising)
    k.multiplyFence()
    multiply(k, sums.keys, rising, [before], ALONG_ROWS, always, always)
    k.multiplyCommit()
    k.add(i, 1, i)
  }
  score()
  k.multiplyWait(0)
  k.while(
    "QUERIES",
    () => k.compare("lt", k.add(i, 1), end),
    () => unit(false),
  )
  unit(true)
  k.multiplyWait(0)
  giveBack(k, gradients, isFirstLane)
  giveBack(k, before, isFirstLane)
}
