/** What one read of a row of logits tells: the largest, the lowest token that has it, ln Σ e^(logit − it). */
import type { F32, Ptx, U32 } from "../src/ptx.ts"
import { type Block, NONE, ofWarps, overLanes, smallest } from "./ptx-sample-block.ts"
import { bring, eachOf, eachSlice, joined, type Row, sliceOf } from "./ptx-sample-row.ts"

/** The lowest of numbers: a thread's largest before it has seen one. */
export const LOWEST = -3.4028234663852886e38

export interface Facts {
  /** Of the tokens that may be chosen; LOWEST where none has a number. */
  readonly top: F32
  /** The lowest token with it; NONE where none has it. */
  readonly first: U32
  /** Of all classes. */
  readonly max: F32
  readonly logSum: F32
  /** The largest that this thread has seen among those that may be chosen. */
  readonly own: F32
}

/** What a thread has seen of a row. */
export interface Part {
  /** The largest, and Σ e^(logit − it), of all classes. */
  readonly most: F32
  readonly sum: F32
  /** The largest of the tokens that may be chosen. */
  readonly top: F32
}
/** The part of who has seen nothing, to be changed. */
export const nothing = (k: Ptx): Part => ({ most: k.variable("f32", LOWEST), sum: k.variable("f32", 0), top: k.variable("f32", LOWEST) })

/** e^(a − b), 1 where they are equal. */
const below = (k: Ptx, a: F32, b: F32): F32 => k.unary("ex2.approx.ftz.f32", k.mulFloat(k.subFloat(a, b), Math.LOG2E))

/** Adds terms, sum·e^(most) each, to most and sum of a part. */
function raise(k: Ptx, { most, sum }: Part, terms: readonly { readonly most: F32; readonly sum?: F32 }[], largest: F32): void {
  k.mulFloat(sum, below(k, most, largest), sum)
  k.copy(most, largest)
  const weights = terms.map((term) => {
    const weight = below(k, term.most, most)
    return term.sum === undefined ? weight : k.mulFloat(term.sum, weight)
  })
  k.addFloat(
    sum,
    joined(weights, (a, b) => k.addFloat(a, b)),
    sum,
  )
}

/** Adds logits to most and sum of a part; `largest`: the largest of them and its most. */
export const addLogits = (k: Ptx, part: Part, logits: readonly F32[], largest: F32): void =>
  raise(
    k,
    part,
    logits.map((most) => ({ most })),
    largest,
  )
/** Adds another part to most and sum. */
export const addPart = (k: Ptx, part: Part, other: Part): void => raise(k, part, [other], k.maxNumber(part.most, other.most))

/** What the parts of all threads make; one barrier. */
function whole(block: Block, { most, sum, top }: Part): Omit<Facts, "first"> {
  const { k } = block
  const larger = (a: F32, b: F32) => k.maxNumber(a, b)
  const max = overLanes(block, most, larger)
  const ofWarp = overLanes(block, k.mulFloat(sum, below(k, most, max)), (a, b) => k.addFloat(a, b))
  const warps = ofWarps(block, [max, ofWarp, overLanes(block, top, larger)] as const)
  const maxAll = warps.map(([one]) => one).reduce(larger)
  const total = warps.map(([one, part]) => k.mulFloat(part, below(k, one, maxAll))).reduce((a, b) => k.addFloat(a, b))
  const logSum = k.mulFloat(k.unary("lg2.approx.ftz.f32", total), Math.LN2)
  return { max: maxAll, logSum, top: warps.map(([, , one]) => one).reduce(larger), own: top }
}

/** Tokens from `allowed` on, which count for the sum alone. */
function beyond({ block, logits, classes, allowed }: Row): Part {
  const { k, threads, thread } = block
  const found = nothing(k)
  const v = k.add(thread, allowed)
  k.while(
    "BEYOND",
    () => k.compare("lt", v, classes),
    () => {
      const z = k.register("f32")
      k.load("f32", [z], k.madWide(v, 4, logits))
      addLogits(k, found, [z], k.maxNumber(found.most, z))
      k.add(v, threads, v)
    },
  )
  return found
}

/** Reads the row once; two barriers. */
export function factsOf(row: Row): Facts {
  const { block } = row
  const { k } = block
  const rest = row.classes > row.allowed ? beyond(row) : undefined
  const [part, place] = [nothing(k), k.variable("u32", 0)]
  eachSlice(row, eachOf(block.threads), (slice, logits) => {
    const most = joined(logits, (a, b) => k.maxNumber(a, b))
    k.copy(place, k.select(k.compare("gt", most, part.most), slice, place, "u32"))
    addLogits(k, part, logits, k.maxNumber(most, part.most))
  })
  k.copy(part.top, part.most)
  if (rest !== undefined) addPart(k, part, rest)
  const facts = whole(block, part)
  k.comment("the lowest token with the largest logit: among those of the slice where a thread saw it first")
  const id = k.variable("u32", NONE)
  k.if(k.both(k.compare("eq", part.top, facts.top), k.compare("gt", facts.top, LOWEST)), () => {
    const logits = k.registers("f32", eachOf(block.threads))
    bring(row, place, logits)
    logits.toReversed().forEach((z, i) => k.when(k.compare("eq", z, facts.top), () => k.copy(id, 32 * (logits.length - 1 - i))))
    k.add(id, k.mad(place, sliceOf(block.threads), block.lane), id)
  })
  return { ...facts, first: smallest(block, id) }
}

/** Facts of a row of which others have seen parts: this thread has those, and the lowest token with their largest logit (NONE where there is none). */
export function factsOfParts(block: Block, part: Part, id: U32): Facts {
  const { k } = block
  const facts = whole(block, part)
  return { ...facts, first: smallest(block, k.select(k.compare("eq", part.top, facts.top), id, NONE, "u32")) }
}
