/** Histograms by which a block finds a token in the order of falling weight, or of rising ids: tokens of 1024 bins, and what they weigh less than their bin's first key. */
import type { F32, U32 } from "../src/ptx.ts"
import { type Block, type Candidate, firstHit, scan } from "./ptx-sample-block.ts"
import { PER_NAT, weightOf } from "./ptx-sample-key.ts"
import { eachToken, type Tokens } from "./ptx-sample-list.ts"

/** Of a value that a look tells. */
export const BITS = 10
export const BINS = 2 ** BITS
/** Counts, then missing weights. */
export const BINS_BYTES = 8 * BINS
/** Keys, of which the first look takes the upper 10 bits. */
export const KEY_BITS = 3 * BITS
/** Ids. */
export const ID_BITS = 2 * BITS

/** Where a search has come to: values from `base` on, 2^shift of them. */
export interface Place {
  readonly base: U32
  readonly shift: U32
  /** Of tokens before them, and of their own. */
  readonly countBefore: U32
  readonly weightBefore: F32
  readonly count: U32
  readonly weight: F32
}

/** What is sought, the same for all threads. */
export interface Sought {
  /** Tokens, or weight, up to the end of the bin sought. */
  readonly count: U32
  readonly weight: (all: F32, count: U32) => F32
  /** Bins that begin behind it are not considered. */
  readonly last: U32
}

/** Bits that a missing weight of the first look is shortened by, so that sums of them stay below 2^32. */
const spare = (allowed: number): number => Math.max(0, Math.ceil(Math.log2(allowed)) + KEY_BITS - BITS - 32)

/** 2^24·(1 − e^(−x/2^24)) for x < 2^20: x − x²/2 + x³/6 in these units. */
function missingOf({ k }: Block, x: U32): U32 {
  const y = k.shl(x, 6)
  const square = k.mulHigh(y, y) // x² / 2^20
  const cube = k.mulHigh(k.shl(square, 6), y) // x³ / 2^40
  return k.add(k.sub(x, k.shr(square, 5)), k.mulHigh(cube, Math.round(2 ** 24 / 6)))
}

/** Counts the tokens that `isWanted` admits by `value`, those outside the place left out. `at`: bytes of the bins. */
export function fill(
  tokens: Tokens,
  at: U32,
  { base, shift }: Place,
  value: (key: U32, id: U32) => U32,
  isWanted: (key: U32) => ReturnType<Block["k"]["compare"]>,
): void {
  const { block, allowed } = tokens.row
  const { k, threads, thread } = block
  const own = (4 * BINS) / threads
  const zeros = Array.from({ length: 2 }, () => k.variable("u32", 0))
  const to = k.mad(thread, own, at)
  for (const half of [0, BINS_BYTES / 2])
    for (let bytes = 0; bytes < own; bytes += 8) k.storeShared({ base: to, bytes: half + bytes }, zeros)
  k.syncBlock()
  const [rest, all] = [k.sub(shift, BITS), k.shiftLeft(1, shift)]
  const inBin = k.sub(k.shiftLeft(1, rest), 1)
  const isFirst = k.compare("eq", shift, KEY_BITS)
  const short = k.select(isFirst, spare(allowed), 0, "u32")
  const half = k.select(isFirst, spare(allowed) === 0 ? 0 : 2 ** (spare(allowed) - 1), 0, "u32")
  eachToken(tokens, (key, id) => {
    const place = k.sub(value(key, id), base)
    const isIn = k.both(isWanted(key), k.compare("lt", place, all))
    const bin = k.mad(k.shiftRight(place, rest), 4, at)
    const missing = k.shiftRight(k.add(missingOf(block, k.and(place, inBin)), half), short)
    k.when(isIn, () => {
      k.addShared({ base: bin, bytes: 0 }, 1)
      k.addShared({ base: bin, bytes: BINS_BYTES / 2 }, missing)
    })
  })
  k.syncBlock()
}

/** Narrows the place to the first bin that reaches what is sought, or to the bin of `given` where that is no NONE. Returns weight and tokens of all bins. */
export function narrow(tokens: Tokens, at: U32, place: Place, sought: Sought, given: (bin: U32) => U32, told: number) {
  const { block, allowed } = tokens.row
  const { k, threads, thread } = block
  const each = BINS / threads
  const { base, shift, countBefore, weightBefore, count, weight } = place
  const rest = k.sub(shift, BITS)
  const unit = k.select(k.compare("eq", shift, KEY_BITS), 2 ** spare(allowed) / PER_NAT, 1 / PER_NAT, "f32")
  const from = k.mad(thread, 4 * each, at)
  const [counts, missing] = [0, BINS_BYTES / 2].map((half) => {
    const words = k.registers("u32", each)
    for (let i = 0; i < each; i += 2) k.loadSharedWords(words.slice(i, i + 2), { base: from, bytes: half + 4 * i })
    return words
  }) as [U32[], U32[]]
  const number = (i: number) => k.mad(thread, each, k.variable("u32", i))
  const weights = counts.map((tokensOf, i) => {
    const first = k.add(base, k.mul(number(i), k.shiftLeft(1, rest)))
    const whole = k.subFloat(k.toFloat(tokensOf), k.mulFloat(k.toFloat(missing[i]!), unit))
    return k.mulFloat(weightOf(block, first), whole)
  })
  const sum = weights.slice(1).reduce((a, b) => k.addFloat(a, b), weights[0]!)
  const before = scan(
    block,
    counts.slice(1).reduce((a, b) => k.add(a, b), counts[0]!),
    sum,
  )
  const limit = sought.weight(before.weight.all, before.count.all)
  const upTo = { count: k.add(countBefore, before.count.before), weight: k.addFloat(weightBefore, before.weight.before) }
  const bins = counts.map((own, i) => {
    const start = { count: upTo.count, weight: upTo.weight }
    upTo.count = k.add(upTo.count, own)
    upTo.weight = k.addFloat(upTo.weight, weights[i]!)
    const first = k.add(base, k.mul(number(i), k.shiftLeft(1, rest)))
    const isFilled = k.both(k.compare("gt", own, 0), k.compare("le", first, sought.last))
    const reaches = k.either(k.compare("ge", upTo.count, sought.count), k.compare("ge", upTo.weight, limit))
    return { number: number(i), isFilled, isHit: k.both(isFilled, reaches), start }
  })
  // where no bin is left, the last one: its tokens are none
  const found = k.min(given(firstHit(block, bins as readonly Candidate[])), BINS - 1)
  bins.forEach(({ number, start }, i) => {
    k.when(k.compare("eq", number, found), () => k.storeShared(told, [start.count, start.weight, counts[i]!, weights[i]!]))
  })
  k.syncBlock()
  k.loadSharedWords([countBefore, weightBefore, count, weight], told)
  k.add(base, k.mul(found, k.shiftLeft(1, rest)), base)
  k.copy(shift, rest)
  return before
}
