/** The L2 cache is asked for the next layer's keys and values while a block waits for others: a little at a time, or those who work wait for memory. */
import type { U32 } from "../src/ptx.ts"
import { CHUNK, type Frame, MOST_AHEAD as MOST, ROW, WARPS } from "./ptx-batch-frame.ts"
import type { Share } from "./ptx-batch-share.ts"
import { LAYER } from "./ptx-decode-frame.ts"

/** Bytes of a request, the keys or values of a half page, and requests each time that others are not there yet. */
const BYTES = CHUNK * ROW
const PORTION = 2

const NONE = 0xffffffff
/** Bytes from one layer's addresses to the next one's. */
const STEP = 8 * LAYER.length

/**
 * Lists the block's half pages in the order in which they are asked for. Each warp has some of its first at another place: while it reads what is in
 * the cache, others keep memory busy. What all read from the cache at the same time wins nothing.
 */
export function listAhead({ k, thread, warp, lane, places }: Frame, { first, last, row }: Share): void {
  const [none, zero] = [k.variable("u32", NONE), k.variable("u32", 0)]
  const own = k.shl(thread, 2)
  const rows = places.ahead + 16
  k.when(k.compare("lt", thread, MOST), () => k.storeShared({ base: own, bytes: rows }, [none]))
  k.when(k.compare("eq", thread, 0), () => k.storeShared(places.ahead, [zero, zero]))
  k.syncBlock()
  const count = k.sub(last, first)
  const some = k.select(k.compare("eq", count, 0), 1, count, "u32")
  const turn = k.rem(k.sub(k.add(lane, k.mul(some, WARPS)), warp), some)
  const at = k.mad(turn, WARPS, warp)
  const isWanted = k.both(k.compare("lt", lane, count), k.compare("lt", at, MOST))
  const to = k.shl(at, 2)
  k.when(isWanted, () => k.storeShared({ base: to, bytes: rows }, [row]))
  k.syncBlock()
}

/** The first thread asks for the next few. */
export function askAhead({ k, places }: Frame): void {
  const [asked, layer] = k.registers("u32", 2) as [U32, U32]
  k.loadSharedWords([asked, layer], places.ahead)
  k.if(k.compare("lt", asked, 2 * MOST), () => {
    for (let i = 0; i < PORTION; i++) {
      const row = k.register("u32")
      k.loadSharedWords([row], { base: k.shl(k.shr(asked, 1), 2), bytes: places.ahead + 16 })
      const memory = k.register("u64")
      k.loadSharedLong(memory, { base: k.mad(k.and(asked, 1), 8, layer), bytes: places.table + 8 * LAYER.indexOf("kPages") }) // or those of values, behind
      const from = k.madWide(row, ROW, memory)
      k.when(k.compare("ne", row, NONE), () => k.prefetchBytes(from, BYTES))
      k.add(asked, 1, asked)
    }
    k.storeShared(places.ahead, [asked])
  })
}

/** A layer's half pages are read from here on: the next ones asked for are those of the layer behind it. */
export function turnAhead({ k, stack, places, thread }: Frame): void {
  k.if(k.compare("eq", thread, 0), () => {
    const layer = k.register("u32")
    k.loadSharedWords([layer], places.ahead + 4)
    k.add(layer, STEP, layer)
    const isMore = k.compare("lt", layer, stack.layers * STEP)
    k.storeShared(places.ahead, [k.select(isMore, 0, 2 * MOST, "u32"), layer])
  })
}
