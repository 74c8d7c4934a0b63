/** The two warps of Hopper's attention over pages that sum values: a lane has one of a head's 64 columns. */
import type { F32, U32 } from "../src/ptx.ts"
import { eachItem, type Frame, giveBack, PAGE, PIECE, PLACES, Position, ROW, TEAM, Turn } from "./ptx-attention-cached-frame.ts"
import { sumOfWeights } from "./ptx-attention-sum.ts"

const QUAD = 4
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** y of the heads, and the new keys and values into their pages. */
export function attendValues(f: Frame): void {
  const { k, thread, lane, H, qkv, pages, maxPages } = f
  k.comment("---- the warps that sum values")
  const column = k.and(thread, TEAM - 1)
  const isFirstLane = k.compare("eq", lane, 0)
  const exp2 = (x: F32): F32 => k.unary("ex2.approx.ftz.f32", x)
  const within = k.shl(k.and(column, 7), 1)
  const offsets = range(8).map((j) => k.add(k.add(k.shl(k.xor(k.shr(column, 3), j), 4), within), j * ROW))
  const values = new Position(k, PLACES.values, 0)
  const turn = new Turn(k)
  const lane16 = k.shl(k.and(lane, 15), 2)

  eachItem(f, { ask: () => {}, take: () => {} }, ({ b, h, length, blocks }) => {
    const row = k.register("u64")
    k.emit("mad.lo.u64", row, k.long(b), k.long(k.mul(H, 3 * ROW)), k.madWide(column, 2, k.madWide(h, ROW, qkv)))
    const hasAny = k.compare("gt", blocks, 0)
    const [newKey, newValue, page] = range(3).map(() => k.variable("u32", 0)) as [U32, U32, U32]
    const keyAt = k.madWide(H, ROW, row)
    const valueAt = k.madWide(H, ROW, keyAt)
    const pageAt = k.madWide(k.mad(b, maxPages, k.shr(length, 6)), 4, pages)
    k.when(hasAny, () => {
      k.load("u16", [newKey], keyAt)
      k.load("u16", [newValue], valueAt)
      k.load("u32", [page], pageAt)
    })
    const [max, sum, out] = [k.variable("f32", Number.NEGATIVE_INFINITY), k.variable("f32", 0), k.variable("f32", 0)]
    const place = k.variable("u32", length)
    const block = k.variable("u32", 0)
    k.while(
      "VALUES",
      () => k.compare("lt", block, blocks),
      () => {
        k.wait(turn.barrier(PLACES.ready), turn.parity)
        const weights = k.shl(turn.place, 8)
        const top = k.register("f32")
        k.loadShared([top], { base: k.shl(turn.place, 2), bytes: PLACES.top })
        const total = sumOfWeights(k, k.add(weights, lane16), PLACES.weights)
        const own = k.variable("f32", 0)
        for (const half of [0, 1]) {
          const spot = values.next()
          k.wait(spot.full, spot.parity)
          const rows = offsets.map((offset) => k.add(spot.memory, offset))
          const last = k.register("u32")
          const add = (isWhole: boolean) => {
            for (let j = 0; j < PIECE; j += QUAD) {
              const four = k.registers("f32", QUAD)
              const at = PIECE * half + j
              k.loadShared(four, { base: weights, bytes: PLACES.weights + 4 * at })
              four.forEach((weight, i) => {
                const bits = k.register("u32")
                k.loadSharedHalf(bits, { base: rows[(j + i) & 7]!, bytes: ROW * ((j + i) & ~7) })
                k.copy(last, bits)
                if (isWhole) k.fma(weight, k.unpackBf16(bits, 0), own, own)
                else {
                  // what lies behind the newest position is anything, also no number
                  const old = k.select(k.compare("gt", place, at + i), bits, 0, "u32")
                  k.fma(weight, k.unpackBf16(k.select(k.compare("eq", place, at + i), newValue, old, "u32"), 0), own, own)
                }
              })
            }
          }
          k.if(
            k.compare("ge", place, PAGE),
            () => add(true),
            () => add(false),
          )
          giveBack(f, spot, last)
        }
        const taken = turn.barrier(PLACES.taken)
        k.syncWarp()
        k.when(isFirstLane, () => k.arrive(taken))
        turn.next()
        const most = k.maxFloat(max, top)
        const [before, after] = [exp2(k.subFloat(max, most)), exp2(k.subFloat(top, most))]
        k.fma(sum, before, k.mulFloat(total, after), sum)
        k.fma(out, before, k.mulFloat(own, after), out)
        k.copy(max, most)
        k.sub(place, PAGE, place)
        k.add(block, 1, block)
      },
    )
    const share = k.mulFloat(out, k.unary("rcp.approx.ftz.f32", sum))
    const result = k.select(hasAny, share, 0, "f32")
    const to = k.register("u64")
    k.emit("mad.lo.u64", to, k.long(b), k.long(k.mul(H, ROW)), k.madWide(column, 2, k.madWide(h, ROW, f.y)))
    k.store("u16", to, 0, [k.packBf16(result, result)])
    const cell = k.mad(k.mad(page, H, h), PAGE, k.and(length, PAGE - 1))
    const at = k.madWide(column, 2, k.madWide(cell, ROW, f.kPages))
    const valueTo = k.madWide(column, 2, k.madWide(cell, ROW, f.vPages))
    k.when(hasAny, () => {
      k.store("u16", at, 0, [newKey])
      k.store("u16", valueTo, 0, [newValue])
    })
  })
}
