/** Attention of the kernel for many sequences: a block has some heads, each warp as many half pages of them as the others, straight to registers. */
import type { F32, U32 } from "../src/ptx.ts"
import { CHUNK, FOUND, type Frame, placeOf, range, WARPS, workOf } from "./ptx-batch-frame.ts"
import { KEYS, Pieces } from "./ptx-batch-pieces.ts"
import type { Share } from "./ptx-batch-share.ts"
import { HEAD } from "./ptx-decode-frame.ts"

const DIMS = 8
const NONE = -1e30

/** y of the block's heads, as matrix instructions take it; `wait` until queries and the new positions are there. */
export function attend(f: Frame, share: Share, wait: () => void): void {
  const { k, stack, places, lane, warp, work } = f
  const { C } = stack
  const at = workOf(stack)
  const exp2 = (x: F32): F32 => k.unary("ex2.approx.ftz.f32", x)
  k.comment("---- attention: what was there before is on its way already while others multiply")
  const pieces = new Pieces(f, share)
  const index = k.variable("u32", 0)
  pieces.aim(index)
  pieces.load("keys", "")
  pieces.load("values", "")
  wait()
  pieces.loadFresh()
  const dims = k.and(lane, 7)
  const group = k.shr(lane, 3)
  const chunk = k.variable("u32", share.first)
  const item = k.variable("u32", share.item)
  const [isHigh, isMiddle, isLow] = [4, 2, 1].map((bit) => k.compare("ne", k.and(lane, bit), 0)) as [
    ReturnType<typeof k.compare>,
    ReturnType<typeof k.compare>,
    ReturnType<typeof k.compare>,
  ]
  const own = k.mad(dims, KEYS, group) // the key whose score this lane gets
  k.while(
    "HEAD",
    () => k.compare("lt", chunk, share.last),
    () => {
      const { b, h, length, begin, next } = itemAt(f, item)
      const end = k.min(share.last, next)
      const query = k.registers("f32", DIMS)
      const queryAt = k.madWide(k.mad(b, C, k.mad(h, HEAD, k.mul(dims, DIMS))), 4, k.addLong(work, at.q))
      k.loadFar(query.slice(0, 4), queryAt, 0)
      k.loadFar(query.slice(4), queryAt, 16)
      const [top, sum] = [k.variable("f32", NONE), k.variable("f32", 0)]
      const out = range(DIMS).map(() => k.variable("f32", 0))
      const newest = k.sub(length, k.mul(k.sub(chunk, begin), CHUNK)) // place of the new position from this chunk's first on
      const mine = k.variable("u32", own)
      k.while(
        "CHUNK",
        () => k.compare("lt", chunk, end),
        () => {
          let scores = pieces.keys.map((words) => {
            const score = k.variable("f32", 0)
            words.forEach((word, i) => {
              for (const half of [0, 1] as const) k.fma(query[2 * i + half]!, k.unpackBf16(word, half), score, score)
            })
            return score
          })
          k.add(index, 1, index)
          pieces.aim(index)
          pieces.load("keys", "fresh")
          k.comment("8 sums over 8 lanes: a lane keeps one of them")
          for (const [bit, isUpper] of [
            [4, isHigh],
            [2, isMiddle],
            [1, isLow],
          ] as const) {
            scores = range(bit).map((j) => {
              const [lower, upper] = [scores[j]!, scores[j + bit]!]
              const given = k.select(isUpper, lower, upper, "f32")
              return k.addFloat(k.select(isUpper, upper, lower, "f32"), k.exchangeFloat(given, bit))
            })
          }
          const sees = k.compare("le", mine, newest)
          const score = k.select(sees, scores[0]!, NONE, "f32")
          let most = score
          for (const mask of [1, 2, 4, 8, 16]) most = k.maxFloat(most, k.exchangeFloat(most, mask))
          most = k.maxFloat(most, top)
          const factor = exp2(k.subFloat(top, most))
          k.copy(top, most)
          const weight = k.select(sees, exp2(k.subFloat(score, most)), 0, "f32")
          k.fma(sum, factor, weight, sum)
          for (const one of out) k.mulFloat(one, factor, one)
          pieces.values.forEach((words, j) => {
            const weightOf = k.pickFloat(weight, k.add(k.and(lane, 24), j))
            words.forEach((word, i) => {
              for (const half of [0, 1] as const) k.fma(weightOf, k.unpackBf16(word, half), out[2 * i + half]!, out[2 * i + half])
            })
          })
          pieces.load("values", "fresh")
          k.add(mine, CHUNK, mine)
          k.add(chunk, 1, chunk)
        },
      )
      const whole = out.map((one) => [8, 16].reduce((all, mask) => k.addFloat(all, k.exchangeFloat(all, mask)), one))
      const total = [1, 2, 4, 8, 16].reduce((all, mask) => k.addFloat(all, k.exchangeFloat(all, mask)), sum)
      const to = k.mul(k.add(warp, item), FOUND)
      const found = k.mad(lane, 32, to)
      const isTeller = k.compare("lt", lane, 8)
      for (const half of [0, 4])
        k.when(isTeller, () => k.storeShared({ base: found, bytes: places.found + 4 * half }, whole.slice(half, half + 4)))
      const isFirst = k.compare("eq", lane, 0)
      k.when(isFirst, () => k.storeShared({ base: to, bytes: places.found + 4 * HEAD }, [top, total]))
      k.add(item, 1, item)
    },
  )
  k.syncBlock()
  merge(f, share)
}

/** A head of a row as `share` has listed it: row b, head h, the row's length, its first chunk and the next item's. */
function itemAt({ k, places }: Frame, item: U32): Readonly<Record<"b" | "h" | "length" | "begin" | "next", U32>> {
  const facts = k.registers("u32", 4)
  const base = k.shl(item, 4)
  k.loadSharedWords(facts, { base, bytes: places.items })
  const next = k.register("u32")
  k.loadSharedWords([next], { base, bytes: places.items + 28 })
  const [b, h, length, begin] = facts as [U32, U32, U32, U32]
  return { b, h, length, begin, next }
}

/** What the warps found of a head becomes its row of y: a warp for each head, lane v looks at warp v. */
function merge(f: Frame, { chunks, items }: Share): void {
  const { k, stack, places, lane, warp, work } = f
  const item = k.variable("u32", warp)
  const exp2 = (x: F32): F32 => k.unary("ex2.approx.ftz.f32", x)
  k.while(
    "MERGE",
    () => k.compare("lt", item, items),
    () => {
      const { b, h, begin, next } = itemAt(f, item)
      const from = k.shr(k.mul(lane, chunks), 4)
      const to = k.shr(k.mul(k.add(lane, 1), chunks), 4)
      // some of this warp's chunks are the head's
      const isPart = [
        k.compare("lt", lane, WARPS),
        k.compare("gt", to, begin),
        k.compare("lt", from, next),
        k.compare("lt", from, to),
        k.compare("lt", begin, next),
      ].reduce((all, one) => k.both(all, one))
      const [top, sum] = [k.variable("f32", NONE), k.variable("f32", 0)]
      const found = k.mul(k.add(lane, item), FOUND)
      k.when(isPart, () => k.loadShared([top, sum], { base: found, bytes: places.found + 4 * HEAD }))
      let most: F32 = top
      for (const mask of [1, 2, 4, 8, 16]) most = k.maxFloat(most, k.exchangeFloat(most, mask))
      const factor = k.select(isPart, exp2(k.subFloat(top, most)), 0, "f32")
      const total = [1, 2, 4, 8, 16].reduce((all, mask) => k.addFloat(all, k.exchangeFloat(all, mask)), k.mulFloat(sum, factor))
      const pair = [k.variable("f32", 0), k.variable("f32", 0)] as const
      const columns = k.mad(item, FOUND, k.shl(lane, 3))
      for (const v of range(WARPS)) {
        const one = k.pickFloat(factor, v)
        const part = [k.variable("f32", 0), k.variable("f32", 0)] as const
        k.when(k.compare("gt", one, 0), () => k.loadShared(part, { base: columns, bytes: places.found + v * FOUND }))
        pair.forEach((value, e) => k.fma(part[e]!, one, value, value))
      }
      const hasAny = k.compare("gt", total, 0)
      const share = k.unary("rcp.approx.ftz.f32", total)
      const [x, y] = pair.map((value) => k.select(hasAny, k.mulFloat(value, share), 0, "f32")) as [F32, F32]
      const column = k.mad(h, HEAD, k.shl(lane, 1))
      const [even, odd] = [k.and(column, 0xfffffffc), k.and(lane, 1)]
      const byte = k.mad(odd, 16, placeOf(f, b, even, stack.C))
      k.store("u32", k.madWide(byte, 1, k.addLong(work, workOf(stack).y)), 0, [k.packBf16(x, y)])
      k.add(item, WARPS, item)
    },
  )
}
