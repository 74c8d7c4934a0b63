/** What the threads of a block find together: extremes, sums before a thread, the first that fits. */
import type { F32, Predicate, Ptx, U32 } from "../src/ptx.ts"

/** Two places for what warps tell each other, in turn, so that one may be read while the next is written. */
const PLACE = 256
export const SLOTS_BYTES = 2 * PLACE
export const NONE = 0xffffffff
const FALLBACK = 0xc0000000

/** Threads that all come to the same calls. */
export interface Block {
  readonly k: Ptx
  /** 256 or 512. */
  readonly threads: number
  readonly thread: U32
  readonly lane: U32
  /** Uniform. */
  readonly warp: U32
  /** Bytes of shared memory before that of these calls, a multiple of 16. */
  readonly shared: number
  /** 0 and 1 in turn. */
  readonly turn: U32
}

type Words = readonly (U32 | F32)[]

/** What lane 31 of each warp says, up to four words, in all threads. One barrier, behind which shared memory written before may be read. */
export function ofWarps<T extends Words>({ k, threads, lane, warp, shared, turn }: Block, words: T): readonly T[] {
  const place = k.mul(turn, PLACE)
  k.xor(turn, 1, turn)
  const to = k.mad(warp, 4 * words.length, place)
  k.when(k.compare("eq", lane, 31), () => words.forEach((word, i) => k.storeShared({ base: to, bytes: shared + 4 * i }, [word])))
  k.syncBlock()
  const all = Array.from({ length: threads / 32 }, () => words.map(({ kind }) => k.register(kind)))
  const flat = all.flat()
  for (let i = 0; i < flat.length; i += 4) k.loadSharedWords(flat.slice(i, i + 4), { base: place, bytes: shared + 4 * i })
  return all as unknown as readonly T[]
}

/** Of all lanes of a warp, in a fixed order. */
export function overLanes<T extends F32 | U32>({ k }: Block, own: T, join: (a: T, b: T) => T): T {
  let all = own
  for (const mask of [1, 2, 4, 8, 16])
    all = join(all, (all.kind === "f32" ? k.exchangeFloat(all as F32, mask) : k.exchange(all as U32, mask)) as T)
  return all
}
/** Of all threads, in a fixed order. */
export function overBlock<T extends F32 | U32>(block: Block, own: T, join: (a: T, b: T) => T): T {
  const [first, ...rest] = ofWarps(block, [overLanes(block, own, join)] as const).map(([one]) => one)
  return rest.reduce<T>(join, first as T)
}

export const smallest = (block: Block, own: U32): U32 => overBlock(block, own, (a, b) => block.k.min(a, b))

/** Sums over the threads before this one, and over all. */
export function scan(block: Block, count: U32, weight: F32) {
  const { k, lane, warp } = block
  let [counts, weights] = [count, weight]
  for (const by of [1, 2, 4, 8, 16]) {
    const isThere = k.compare("ge", lane, by)
    counts = k.add(counts, k.select(isThere, k.earlier(counts, by), 0, "u32"))
    weights = k.addFloat(weights, k.select(isThere, k.earlier(weights, by), 0, "f32"))
  }
  const warps = ofWarps(block, [counts, weights] as const)
  const [countBefore, weightBefore] = [k.sub(counts, count), k.select(k.compare("eq", lane, 0), 0, k.earlier(weights, 1), "f32")]
  const [countOfWarps, weightOfWarps] = [k.variable("u32", 0), k.variable("f32", 0)]
  const [countAll, weightAll] = [k.variable("u32", 0), k.variable("f32", 0)]
  warps.forEach(([ofCount, ofWeight], i) => {
    const isOwn = k.compare("eq", warp, i)
    k.copy(countOfWarps, k.select(isOwn, countAll, countOfWarps, "u32"))
    k.copy(weightOfWarps, k.select(isOwn, weightAll, weightOfWarps, "f32"))
    k.add(countAll, ofCount, countAll)
    k.addFloat(weightAll, ofWeight, weightAll)
  })
  return {
    count: { before: k.add(countOfWarps, countBefore), all: countAll },
    weight: { before: k.addFloat(weightOfWarps, weightBefore), all: weightAll },
  }
}

export interface Candidate {
  /** Below 2^30. */
  readonly number: U32
  readonly isHit: Predicate
  readonly isFilled: Predicate
}

/** The lowest number of those that hit, or where none does, the highest of those that are filled; NONE where none is. */
export function firstHit(block: Block, candidates: readonly Candidate[]): U32 {
  const { k } = block
  const coded = candidates.map(({ number, isHit, isFilled }) =>
    k.select(isHit, number, k.select(isFilled, k.sub(FALLBACK, number), NONE, "u32"), "u32"),
  )
  const found = smallest(
    block,
    coded.reduce((a, b) => k.min(a, b)),
  )
  const isNumber = k.either(k.compare("lt", found, 2 ** 30), k.compare("eq", found, NONE))
  return k.select(isNumber, found, k.sub(FALLBACK, found), "u32")
}
