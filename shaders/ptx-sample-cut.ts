/** The token that a random number takes of those that the cuts by top k, top p and min p leave, found by histograms instead of a sort. */
import type { F32, U32 } from "../src/ptx.ts"
import { BINS_BYTES, fill, ID_BITS, KEY_BITS, narrow, type Place } from "./ptx-sample-bins.ts"
import { type Block, NONE } from "./ptx-sample-block.ts"
import type { Facts } from "./ptx-sample-facts.ts"
import { LAST, PER_NAT } from "./ptx-sample-key.ts"
import { boundOf, CAPACITY, GROUPS, gather, LIST_BYTES, type Tokens } from "./ptx-sample-list.ts"
import type { Row } from "./ptx-sample-row.ts"

/** Shared memory: bins of the first look at all tokens, those of other looks, the list; what one thread tells all, and the list's counters. */
const WHOLE = 0
const PART = BINS_BYTES
const LIST = 2 * BINS_BYTES
const TOLD = LIST + LIST_BYTES
const COUNTERS = TOLD + 16
export const CUT_BYTES = COUNTERS + 16

/** What is sought in turn: nothing but the sums, the last token that each cut leaves, the drawn key, the drawn token. */
const [ALL, K, P, MIN, DRAW, ID] = [0, 1, 2, 3, 4, 5]

export interface Cut {
  readonly sharpness: F32
  /** At least 1. */
  readonly topK: U32
  readonly topP: F32
  readonly minP: F32
  readonly uniform: F32
}

/** ln x · 2^24 below 0 as a key: the last that weighs at least x. */
const keyOfWeight = ({ k }: Block, x: F32): U32 =>
  k.min(k.toInteger(k.mulFloat(k.unary("lg2.approx.ftz.f32", x), -Math.LN2 * PER_NAT)), LAST)

/** Changes `token`, the most likely one so far, to the drawn one. `shared`: bytes before CUT_BYTES of shared memory, a multiple of 16. */
export function cut(row: Row, facts: Facts, { sharpness, topK, topP, minP, uniform }: Cut, shared: number, token: U32): void {
  const { block } = row
  const { k } = block
  const number = (value: number) => k.variable("u32", value)
  const infinite = Number.POSITIVE_INFINITY
  const tokens: Tokens = { row, facts, sharpness, list: shared + LIST, counters: shared + COUNTERS, listed: number(0) }
  const isFew = k.compare("le", topK, GROUPS)
  const [bound, isBound] = [k.variable("f32", infinite), k.select(isFew, 1, 0, "u32")]
  k.if(isFew, () => k.copy(bound, boundOf(tokens, topK, shared + PART)))

  const floor = keyOfWeight(block, minP)
  const [total, all] = [k.variable("f32", 0), number(0)]
  const lastKey = number(LAST - 1) // of the tokens that are kept
  const [limitKey, limitCount] = [number(LAST), number(NONE)] // where only some tokens of the last key are kept: that key, and how many
  const [drawnKey, drawnAll, nth] = [number(0), number(0), number(0)]
  const place: Place = {
    ...{ base: number(0), shift: number(0), countBefore: number(0), count: number(0) },
    ...{ weightBefore: k.variable("f32", 0), weight: k.variable("f32", 0) },
  }
  const stage = number(ALL)
  const is = (which: number) => k.compare("eq", stage, which)
  const [next, search, narrower] = [k.label("CUT"), k.label("SEARCH"), k.label("CUT_DONE")]

  k.place(next)
  k.if(k.compare("ne", isBound, 0), () => {
    gather(tokens, bound, shared + PART)
    k.copy(isBound, 0)
  })
  const isActive = number(1)
  k.if(is(K), () => k.select(k.compare("lt", topK, all), 1, 0, "u32", isActive))
  k.if(is(P), () => k.select(k.compare("lt", topP, 1), 1, 0, "u32", isActive))
  k.if(is(MIN), () => k.select(k.both(k.compare("gt", minP, 0), k.compare("lt", floor, lastKey)), 1, 0, "u32", isActive))
  k.jump(narrower, k.compare("eq", isActive, 0))

  for (const one of [place.base, place.countBefore]) k.copy(one, 0)
  k.copy(place.weightBefore, 0)
  k.select(is(ID), ID_BITS, KEY_BITS, "u32", place.shift)
  const target = k.mulFloat(k.select(is(DRAW), uniform, topP, "f32"), total)
  const wanted = { count: number(NONE), weight: k.variable("f32", infinite) }
  k.if(k.either(is(ALL), is(K)), () => k.copy(wanted.count, topK))
  k.if(is(P), () => k.copy(wanted.weight, target))
  k.if(is(DRAW), () => k.emit("mov.b32", wanted.weight, k.add(k.bits(target), 1))) // more than the target: the next number
  k.if(is(ID), () => {
    k.add(nth, 1, wanted.count)
    k.copy(lastKey, NONE)
  })

  k.place(search)
  const isWhole = k.compare("eq", place.shift, KEY_BITS)
  const at = k.select(isWhole, shared + WHOLE, shared + PART, "u32")
  k.if(k.either(is(ALL), k.not(isWhole)), () => {
    const isId = k.select(is(ID), 1, 0, "u32")
    const first = k.select(is(ID), drawnKey, 0, "u32")
    const span = k.select(is(ID), drawnAll, LAST, "u32")
    fill(
      tokens,
      at,
      place,
      (key, id) => k.select(k.compare("ne", isId, 0), id, key, "u32"),
      (key) => k.compare("lt", k.sub(key, first), span),
    )
  })
  const sought = {
    count: wanted.count,
    last: lastKey,
    // what all tokens' first look shall tell: how many the cuts leave at most
    weight: (sum: F32) => k.select(k.both(is(ALL), k.compare("lt", topP, 1)), k.mulFloat(sum, topP), wanted.weight, "f32"),
  }
  const inFloor = k.sub(floor, place.base)
  const given = (found: U32) => k.select(is(MIN), k.shiftRight(inFloor, k.sub(place.shift, 10)), found, "u32")
  const sums = narrow(tokens, at, place, sought, given, shared + TOLD)

  k.if(is(ALL), () => {
    k.copy(total, sums.weight.all)
    k.copy(all, sums.count.all)
    const most = k.add(place.countBefore, place.count)
    k.if(k.both(k.compare("eq", tokens.listed, 0), k.compare("le", most, CAPACITY)), () => {
      const end = k.mulFloat(k.toFloat(k.add(place.base, k.shiftLeft(1, place.shift))), 1 / PER_NAT)
      const down = k.unary("rcp.rn.f32", sharpness)
      const distance = k.mulFloat(end, down)
      const slack = k.mulFloat(k.addFloat(distance, k.unary("abs.f32", facts.top)), 2 ** -20)
      k.copy(bound, k.subFloat(k.subFloat(facts.top, distance), slack))
      k.copy(isBound, 1)
    })
  })
  k.jump(narrower, is(ALL))
  const isOpen = number(0)
  const isTold = k.compare("gt", k.select(k.either(is(MIN), is(ID)), k.add(place.count, 1), place.count, "u32"), 1)
  k.select(k.both(k.compare("gt", place.shift, 0), isTold), 1, 0, "u32", isOpen)
  k.if(k.both(is(K), k.compare("eq", k.add(place.countBefore, place.count), topK)), () => k.copy(isOpen, 0))
  k.jump(search, k.compare("ne", isOpen, 0))

  const members = place.count
  const each = k.mulFloat(place.weight, k.unary("rcp.rn.f32", k.toFloat(members)))
  const steps = k.mulFloat(k.subFloat(target, place.weightBefore), k.unary("rcp.rn.f32", each)) // tokens of this key that the target takes
  k.if(k.compare("lt", stage, DRAW), () => {
    const byWeight = k.min(k.toInteger(k.maxNumber(steps, 1), "rpi"), members)
    const ofCut = k.select(is(K), k.min(k.sub(topK, place.countBefore), members), byWeight, "u32")
    const kept = k.select(is(MIN), members, ofCut, "u32")
    const isEach = k.compare("eq", kept, members)
    k.addFloat(place.weightBefore, k.select(isEach, place.weight, k.mulFloat(each, k.toFloat(kept)), "f32"), total)
    k.sub(k.add(place.base, k.shiftLeft(1, place.shift)), 1, lastKey)
    k.copy(limitKey, place.base)
    k.copy(limitCount, kept)
  })
  k.if(is(DRAW), () => {
    const most = k.select(k.compare("eq", place.base, limitKey), k.min(limitCount, members), members, "u32")
    k.copy(drawnKey, place.base)
    k.copy(drawnAll, k.shiftLeft(1, place.shift))
    const last = k.select(k.compare("gt", most, 0), k.sub(most, 1), 0, "u32")
    k.copy(nth, k.min(k.toInteger(steps), last))
  })
  k.if(k.both(is(ID), k.compare("gt", members, 0)), () => k.copy(token, place.base))

  k.place(narrower)
  k.add(stage, 1, stage)
  k.jump(next, k.compare("le", stage, ID))
}
