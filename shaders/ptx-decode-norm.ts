/** Layer norm in the decode kernel: a warp per row, bit by bit as the kernel for short rows does it. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import type { Frame } from "./ptx-decode-frame.ts"

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
  const read = (from: U64, isFresh: boolean): F32[][] => {
    const packs = Array.from({ length: C / (32 * PACK) }, () => k.registers("f32", PACK))
    packs.forEach((values, i) => {
      for (const half of [0, 4]) {
        const [to, bytes] = [values.slice(half, half + 4), 4 * (32 * PACK * i + half)]
        if (isFresh) k.loadFresh(to, from, bytes)
        else k.load("f32", to, from, bytes)
      }
    })
    return packs
  }
  const isRow = k.compare("lt", warp, rows)
  let factors: F32[][] = []
  let added: F32[][] | undefined
  k.if(isRow, () => {
    factors = read(k.addLong(own, w), false)
    if (b !== undefined) added = read(k.addLong(own, b), false)
  })
  return (stream: U64, store: (row: U32, pack: number, words: readonly U32[]) => void): void =>
    k.if(isRow, () => {
      const packs = read(k.addLong(k.madWide(warp, 4 * C, stream), own), true)
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
        store(
          warp,
          i,
          [0, 2, 4, 6].map((j) => k.packBf16(out[j]!, out[j + 1]!)),
        )
      })
    })
}
