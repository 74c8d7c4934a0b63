/** The token that a random number takes of those that the cuts by top k, top p and min p leave, found by histograms instead of a sort. */
import type { F32, Ptx, U32 } from "../src/ptx.ts"
import { BINS_BYTES, BITS, fill, ID_BITS, KEY_BITS, narrow, type Place } from "./ptx-sample-bins.ts"
import { type Block, NONE } from "./ptx-sample-block.ts"
import type { Facts } from "./ptx-sample-facts.ts"
import { few } from "./ptx-sample-few.ts"
import { LAST, PER_NAT } from "./ptx-sample-key.ts"
import { boundBelow, boundOf, CAPACITY, GROUPS, gather, LIST_BYTES, type Spots, type Tokens } from "./ptx-sample-list.ts"
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

/** What is known of a row before cuts are made. */
export interface Known {
  readonly facts: Facts
  readonly spots: Spots
}

/** What the search knows. */
interface Found {
  readonly stage: U32
  readonly place: Place
  /** Tokens that weigh anything, and the weight of those that are left; `whole`: of all, where top k leaves all, else 0. */
  readonly all: U32
  readonly total: F32
  readonly whole: F32
  /** The last key of those that are left; where only some tokens of a key are, that key and how many. */
  readonly lastKey: U32
  readonly limitKey: U32
  readonly limitCount: U32
  /** Where the drawn token is: keys from here on, so many, and which of their tokens by rising id. */
  readonly drawnKey: U32
  readonly drawnAll: U32
  readonly nth: U32
}

function nothingFound(k: Ptx): Found {
  const number = (value: number) => k.variable("u32", value)
  const weight = () => k.variable("f32", 0)
  const place = { base: number(0), shift: number(0), countBefore: number(0), weightBefore: weight(), count: number(0), weight: weight() }
  return {
    ...{ stage: number(ALL), place, all: number(0), total: weight(), whole: weight() },
    ...{ lastKey: number(LAST - 1), limitKey: number(LAST), limitCount: number(NONE) },
    ...{ drawnKey: number(0), drawnAll: number(0), nth: number(0) },
  }
}

/** Changes `token`, the most likely one so far, to the drawn one. `shared`: bytes before CUT_BYTES of shared memory, a multiple of 16. */
export function cut(row: Row, { facts, spots }: Known, settings: Cut, shared: number, token: U32): void {
  const { block } = row
  const { k } = block
  const { sharpness, topK, topP, minP } = settings
  const tokens: Tokens = { row, spots, facts, sharpness, list: shared + LIST, counters: shared + COUNTERS, listed: k.variable("u32", 0) }
  const found = nothingFound(k)
  const { stage, place, all, lastKey } = found
  const is = (which: number) => k.compare("eq", stage, which)
  const floor = keyOfWeight(block, minP)
  const [next, look, over, end] = [k.label("STAGE"), k.label("LOOK"), k.label("STAGE_OVER"), k.label("CUT_END")]

  k.comment("few are listed by the largest logits of groups of threads, others when all have been counted")
  const isFew = k.compare("le", topK, GROUPS)
  const [bound, isBound] = [k.variable("f32", Number.POSITIVE_INFINITY), k.select(isFew, 1, 0, "u32")]
  k.if(isFew, () => k.copy(bound, boundOf(tokens, topK, shared + PART)))
  k.place(next)
  k.if(k.compare("ne", isBound, 0), () => {
    gather(tokens, bound, shared + PART)
    k.copy(isBound, 0)
  })
  k.if(k.both(k.compare("gt", tokens.listed, 0), k.compare("le", tokens.listed, block.threads)), () => {
    few(tokens, { ...settings, total: found.whole }, shared + PART, token)
    k.jump(end)
  })
  for (const [which, isActive] of [
    [K, () => k.compare("lt", topK, all)],
    [P, () => k.compare("lt", topP, 1)],
    [MIN, () => k.both(k.compare("gt", minP, 0), k.compare("lt", floor, lastKey))],
  ] as const)
    k.jump(over, k.both(is(which), k.not(isActive())))

  const { target, count, weight } = aim(k, found, settings)
  k.place(look)
  const isWhole = k.compare("eq", place.shift, KEY_BITS)
  const at = k.select(isWhole, shared + WHOLE, shared + PART, "u32")
  k.if(k.either(is(ALL), k.not(isWhole)), () => {
    const isId = k.select(is(ID), 1, 0, "u32")
    const first = k.select(is(ID), found.drawnKey, 0, "u32")
    const span = k.select(is(ID), found.drawnAll, LAST, "u32")
    fill(
      tokens,
      at,
      place,
      (key, id) => k.select(k.compare("ne", isId, 0), id, key, "u32"),
      (key) => k.compare("lt", k.sub(key, first), span),
    )
  })
  const sought = {
    ...{ count, last: lastKey },
    // what the look at all shall tell: how many the cuts leave at most
    weight(sum: F32, tokensOfAll: U32) {
      const isP = k.both(k.compare("lt", topP, 1), k.compare("ge", topK, tokensOfAll))
      return k.select(k.both(is(ALL), isP), k.mulFloat(sum, topP), weight, "f32")
    },
  }
  const inFloor = k.sub(floor, place.base)
  const given = (bin: U32) => k.select(is(MIN), k.shiftRight(inFloor, k.sub(place.shift, BITS)), bin, "u32")
  const sums = narrow(tokens, at, place, sought, given, shared + TOLD)
  k.if(is(ALL), () => {
    k.copy(found.total, sums.weight.all)
    k.copy(all, sums.count.all)
    k.when(k.compare("ge", topK, all), () => k.copy(found.whole, found.total))
    const most = k.add(place.countBefore, place.count)
    k.if(k.both(k.compare("eq", tokens.listed, 0), k.compare("le", most, CAPACITY)), () => {
      k.copy(bound, boundBelow(tokens, k.add(place.base, k.shiftLeft(1, place.shift))))
      k.copy(isBound, 1)
    })
    k.jump(over)
  })
  k.comment("a bin that is wanted whole, or holds one token, needs no finer look")
  const enough = k.select(k.either(is(MIN), is(ID)), 1, 2, "u32")
  const isOpen = k.both(k.compare("gt", place.shift, 0), k.compare("ge", place.count, enough))
  const isKept = k.both(is(K), k.compare("eq", k.add(place.countBefore, place.count), topK))
  k.jump(look, k.both(isOpen, k.not(isKept)))
  settle(k, found, topK, target)
  k.if(k.both(is(ID), k.compare("gt", place.count, 0)), () => k.copy(token, place.base))
  k.place(over)
  k.add(stage, 1, stage)
  k.jump(next, k.compare("le", stage, ID))
  k.place(end)
}

/** Puts the search at the beginning of a stage; returns the weight that a cut or the draw is after, and what the bin sought must reach: tokens or weight. */
function aim(k: Ptx, { stage, place, total, lastKey, nth }: Found, { topK, topP, uniform }: Cut) {
  const is = (which: number) => k.compare("eq", stage, which)
  for (const one of [place.base, place.countBefore]) k.copy(one, 0)
  k.copy(place.weightBefore, 0)
  k.select(is(ID), ID_BITS, KEY_BITS, "u32", place.shift)
  const target = k.mulFloat(k.select(is(DRAW), uniform, topP, "f32"), total)
  const [count, weight] = [k.variable("u32", NONE), k.variable("f32", Number.POSITIVE_INFINITY)]
  k.when(k.either(is(ALL), is(K)), () => k.copy(count, topK))
  k.when(is(P), () => k.copy(weight, target))
  const beyond = k.add(k.bits(target), 1) // more than the target: the next number
  k.when(is(DRAW), () => k.emit("mov.b32", weight, beyond))
  k.if(is(ID), () => {
    k.add(nth, 1, count)
    k.copy(lastKey, NONE)
  })
  return { target, count, weight }
}

/** What a place means that needs no finer look: what is left of the tokens, or where the drawn one is. */
function settle(k: Ptx, found: Found, topK: U32, target: F32): void {
  const { stage, place, limitKey, limitCount } = found
  const members = place.count
  const is = (which: number) => k.compare("eq", stage, which)
  const each = k.mulFloat(place.weight, k.unary("rcp.rn.f32", k.toFloat(members)))
  const steps = k.mulFloat(k.subFloat(target, place.weightBefore), k.unary("rcp.rn.f32", each)) // tokens of this key that the target takes
  k.if(k.compare("lt", stage, DRAW), () => {
    const byWeight = k.min(k.toInteger(k.maxNumber(steps, 1), "rpi"), members)
    const ofCut = k.select(is(K), k.min(k.sub(topK, place.countBefore), members), byWeight, "u32")
    const kept = k.select(is(MIN), members, ofCut, "u32")
    const weight = k.select(k.compare("eq", kept, members), place.weight, k.mulFloat(each, k.toFloat(kept)), "f32")
    k.addFloat(place.weightBefore, weight, found.total)
    k.sub(k.add(place.base, k.shiftLeft(1, place.shift)), 1, found.lastKey)
    k.copy(limitKey, place.base)
    k.copy(limitCount, kept)
  })
  k.if(is(DRAW), () => {
    const most = k.select(k.compare("eq", place.base, limitKey), k.min(limitCount, members), members, "u32")
    const last = k.select(k.compare("gt", most, 0), k.sub(most, 1), 0, "u32")
    k.copy(found.nth, k.min(k.toInteger(steps), last))
    k.copy(found.drawnKey, place.base)
    k.copy(found.drawnAll, k.shiftLeft(1, place.shift))
  })
}
