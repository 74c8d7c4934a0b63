/** Layer norm in the decode kernel: a warp per row, bit by bit as the kernel for short rows does it. */
import type { F32, Predicate, U32, U64 } from "../src/ptx.ts"
import { awaitAll, type Frame, syncWorkers } from "./ptx-decode-frame.ts"

/** Columns that a lane takes at a time. */
const PACK = 8

/** Sum over the lanes of a warp, neighbours first. */
function warpSum({ k }: Frame, own: F32): F32 {
  let sum = own
  for (let mask = 1; mask < 32; mask *= 2) sum = k.addFloat(sum, k.exchangeFloat(sum, mask))
  return sum
}

/** Reads the factors before the row is known. Returns the rest: the row at `stream` (f32), its norm to `store` by packs. */
export function norm(f: Frame, w: U64, b: U64 | undefined) {
  const { k, stack, lane, warp } = f
  const { C, rows, eps } = stack
  const own = k.madWide(lane, 4 * PACK, 0)
  // Zeros first, or what only some warps load would count as held from one layer to the next.
  const zeros = () => Array.from({ length: C / (32 * PACK) }, () => Array.from({ length: PACK }, () => k.variable("f32", 0)))
  const load = (packs: readonly F32[][], from: U64): void =>
    packs.forEach((values, i) => {
      for (const half of [0, 4]) k.load("f32", values.slice(half, half + 4), from, 4 * (32 * PACK * i + half))
    })
  /** Numbers with their tags, when they are there. */
  const readTagged = (from: U64, tag: U32): F32[][] => {
    const packs = Array.from({ length: C / (32 * PACK) }, () => k.registers("f32", PACK))
    const tags = packs.map(() => k.registers("u32", PACK))
    awaitAll(f, tag, tags.flat(), () =>
      packs.forEach((values, i) => {
        for (let j = 0; j < PACK; j += 2)
          k.loadVolatile([values[j]!, tags[i]![j]!, values[j + 1]!, tags[i]![j + 1]!], from, 8 * (32 * PACK * i + j))
      }),
    )
    return packs
  }
  const isRow = k.compare("lt", warp, rows)
  const factors = zeros()
  const added = b === undefined ? undefined : zeros()
  k.if(isRow, () => {
    load(factors, k.addLong(own, w))
    if (b !== undefined && added !== undefined) load(added, k.addLong(own, b))
  })
  /** Awaits the row and takes its norm; the workers wait before `store`, for the rows of the step before are still read. */
  return (stream: U64, tag: U32, isWanted: Predicate, store: (row: U32, pack: number, words: readonly U32[]) => void): void => {
    const words = Array.from({ length: C / (32 * PACK) }, () => Array.from({ length: PACK / 2 }, () => k.variable("u32", 0)))
    const isOwn = k.both(isRow, isWanted)
    k.if(isOwn, () => {
      const packs = readTagged(k.madWide(lane, 8 * PACK, k.madWide(warp, 8 * C, stream)), tag)
      const total = packs.flat().reduce((sum, value) => k.addFloat(sum, value), k.variable("f32", 0))
      const mean = k.mulFloat(warpSum(f, total), Math.fround(1 / C))
      const centred = packs.map((pack) => pack.map((value) => k.subFloat(value, mean)))
      const squares = centred.flat().reduce((sum, value) => k.fma(value, value, sum), k.variable("f32", 0))
      const scale = k.unary("rsqrt.approx.ftz.f32", k.fma(warpSum(f, squares), Math.fround(1 / C), eps))
      centred.forEach((pack, i) => {
        const out = pack.map((value, j) => {
          const scaled = k.mulFloat(value, scale)
          return added === undefined ? k.mulFloat(scaled, factors[i]![j]!) : k.fma(scaled, factors[i]![j]!, added[i]![j]!)
        })
        words[i]!.forEach((to, j) => k.packBf16(out[2 * j]!, out[2 * j + 1]!, to))
      })
    })
    syncWorkers(f)
    k.if(isOwn, () => words.forEach((pack, i) => store(warp, i, pack)))
  }
}
