/** What one read of a row of logits tells: the largest, the lowest token that has it, ln Σ e^(logit − it). */
import type { F32, U32 } from "../src/ptx.ts"
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

/** e^(a − b), 1 where they are equal. */
const below = ({ k }: Block, a: F32, b: F32): F32 => k.unary("ex2.approx.ftz.f32", k.mulFloat(k.subFloat(a, b), Math.LOG2E))

/** Σ of e^(logit − most), raised to a larger most. */
interface Sum {
  readonly most: F32
  readonly sum: F32
}
function add(block: Block, { most, sum }: Sum, logits: readonly F32[], largest: F32): void {
  const { k } = block
  k.mulFloat(sum, below(block, most, largest), sum)
  k.copy(most, largest)
  const weights = logits.map((z) => below(block, z, most))
  k.addFloat(
    sum,
    joined(weights, (a, b) => k.addFloat(a, b)),
    sum,
  )
}

/** Tokens from `allowed` on, which count for the sum alone. */
function beyond({ block, logits, classes, allowed }: Row): Sum {
  const { k, threads, thread } = block
  const found = { most: k.variable("f32", LOWEST), sum: k.variable("f32", 0) }
  const v = k.add(thread, allowed)
  k.while(
    "BEYOND",
    () => k.compare("lt", v, classes),
    () => {
      const z = k.register("f32")
      k.load("f32", [z], k.madWide(v, 4, logits))
      add(block, found, [z], k.maxNumber(found.most, z))
      k.add(v, threads, v)
    },
  )
  return found
}

/** Reads the row once; two barriers. */
export function factsOf(row: Row): Facts {
  const { block } = row
  const { k } = block
  const larger = (a: F32, b: F32) => k.maxNumber(a, b)
  const sums: Sum[] = row.classes > row.allowed ? [beyond(row)] : []
  const [own, sum, place] = [k.variable("f32", LOWEST), k.variable("f32", 0), k.variable("u32", 0)]
  eachSlice(row, eachOf(block.threads), (slice, logits) => {
    const most = joined(logits, larger)
    k.copy(place, k.select(k.compare("gt", most, own), slice, place, "u32"))
    add(block, { most: own, sum }, logits, larger(most, own))
  })
  sums.push({ most: own, sum })
  const most = sums.map((one) => one.most).reduce(larger)
  const max = overLanes(block, most, larger)
  const scaled = sums.map((one) => k.mulFloat(one.sum, below(block, one.most, max))).reduce((a, b) => k.addFloat(a, b))
  const ofWarp = overLanes(block, scaled, (a, b) => k.addFloat(a, b))
  const warps = ofWarps(block, [max, ofWarp, overLanes(block, own, larger)] as const)
  const maxAll = warps.map(([one]) => one).reduce(larger)
  const total = warps.map(([one, part]) => k.mulFloat(part, below(block, one, maxAll))).reduce((a, b) => k.addFloat(a, b))
  const top = warps.map(([, , one]) => one).reduce(larger)
  k.comment("the lowest token with the largest logit: among those of the slice where a thread saw it first")
  const id = k.variable("u32", NONE)
  k.if(k.both(k.compare("eq", own, top), k.compare("gt", top, LOWEST)), () => {
    const logits = k.registers("f32", eachOf(block.threads))
    bring(row, place, logits)
    logits.toReversed().forEach((z, i) => k.when(k.compare("eq", z, top), () => k.copy(id, 32 * (logits.length - 1 - i))))
    k.add(id, k.mad(place, sliceOf(block.threads), block.lane), id)
  })
  const first = smallest(block, id)
  return { top, first, max: maxAll, logSum: k.mulFloat(k.unary("lg2.approx.ftz.f32", total), Math.LN2), own }
}
