/** The two warps of Hopper's attention over pages that find scores: a lane has one of a block's 64 keys. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { eachItem, type Frame, giveBack, HEAD, PAGE, PLACES, Position, ROW, TEAM, Turn } from "./ptx-attention-cached-frame.ts"

const SYNC = 1
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Scores of the new positions: weights 2^(score - the block's maximum), and the maximum, go to shared memory. `scale`: of q. */
export function findScores(f: Frame, scale: F32): void {
  const { k, thread, lane, H, qkv, none } = f
  k.comment("---- the warps that find scores")
  const warp = k.uniform(k.and(k.shr(thread, 5), 1))
  const isUpper = k.compare("ne", warp, 0)
  const key = k.and(thread, TEAM - 1)
  const isFirstLane = k.compare("eq", lane, 0)
  const row = k.shl(lane, 7)
  const swizzle = k.shl(k.and(lane, 7), 4)
  const pieces = range(8).map((p) => k.add(row, k.xor(swizzle, 16 * p)))
  const width = k.mul(H, 3 * HEAD)
  const rowOf = (b: U32, h: U32): U64 => {
    const made = k.register("u64")
    k.emit("mad.lo.u64", made, k.long(b), k.long(k.shl(width, 1)), k.madWide(h, ROW, qkv))
    return made
  }
  const raw = range(8).map(() => k.registers("u32", 4))
  const query = k.registers("f32", HEAD)
  const multiplier = k.mulFloat(scale, Math.fround(Math.LOG2E))
  const ahead = {
    ask(b: U32, h: U32, isThere: ReturnType<typeof k.compare>) {
      const address = rowOf(b, h)
      for (const words of raw) for (const word of words) k.copy(word, 0)
      k.when(isThere, () => raw.forEach((words, p) => k.load("u32", words, address, 16 * p)))
    },
    take() {
      raw.flat().forEach((word, i) => {
        for (const half of [0, 1] as const) k.mulFloat(k.unpackBf16(word, half), multiplier, query[2 * i + half]!)
      })
    },
  }
  const keys = new Position(k, PLACES.keys, 0)
  const turn = new Turn(k)
  eachItem(f, ahead, ({ b, h, length, blocks }) => {
    const newKey = k.madWide(H, ROW, rowOf(b, h))
    const place = k.variable("u32", length) // of the new position, in this block of keys or beyond
    const block = k.variable("u32", 0)
    k.while(
      "SCORES",
      () => k.compare("lt", block, blocks),
      () => {
        const [low, high] = [keys.next(), keys.next()]
        k.comment("both warps see both pieces come, so that neither loses count")
        k.wait(low.full, low.parity)
        k.wait(high.full, high.parity)
        const memory = k.select(isUpper, high.memory, low.memory, "u32")
        const words = pieces.map((offset) => {
          const to = k.registers("u32", 4)
          k.loadSharedWords(to, { base: k.add(memory, offset), bytes: 0 })
          return to
        })
        const last = words.at(-1)![3]!
        const held = k.and(last, none)
        k.if(k.compare("lt", place, PAGE), () => {
          const isNew = k.compare("eq", key, place)
          k.when(isNew, () => words.forEach((to, p) => k.load("u32", to, newKey, 16 * p)))
        })
        giveBack(f, low, held)
        giveBack(f, high, held)
        const score = k.variable("f32", 0)
        words.flat().forEach((word, i) => {
          for (const half of [0, 1] as const) k.fma(query[2 * i + half]!, k.unpackBf16(word, half), score, score)
        })
        const sees = k.compare("le", key, place)
        const seen = k.select(sees, score, Number.NEGATIVE_INFINITY, "f32")
        let top = seen
        for (let mask = 1; mask < 32; mask *= 2) top = k.maxFloat(top, k.exchangeFloat(top, mask))
        const told = k.shl(turn.place, 3)
        const mine = k.add(told, k.shl(warp, 2))
        k.storeShared({ base: mine, bytes: PLACES.told }, [top])
        k.syncBlock(SYNC, TEAM)
        const tops = k.registers("f32", 2)
        k.loadShared(tops, { base: told, bytes: PLACES.told })
        top = k.maxFloat(tops[0]!, tops[1]!)
        const weight = k.select(sees, k.unary("ex2.approx.ftz.f32", k.subFloat(seen, top)), 0, "f32")
        k.wait(turn.barrier(PLACES.taken), k.xor(turn.parity, 1))
        k.storeShared({ base: k.add(k.shl(turn.place, 8), k.shl(key, 2)), bytes: PLACES.weights }, [weight])
        const at = k.shl(turn.place, 2)
        k.when(isFirstLane, () => k.storeShared({ base: at, bytes: PLACES.top }, [top]))
        const ready = turn.barrier(PLACES.ready)
        k.syncWarp()
        k.when(isFirstLane, () => k.arrive(ready))
        turn.next()
        k.sub(place, PAGE, place)
        k.add(block, 1, block)
      },
    )
  })
}
