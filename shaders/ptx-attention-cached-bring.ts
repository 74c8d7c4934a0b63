/** The warp of Hopper's attention over pages that brings keys and values, page after page and head after head. */
import type { U32, U64 } from "../src/ptx.ts"
import { eachItem, type Frame, PAGE, PIECE, PIECE_BYTES, PLACES, Position, ROW } from "./ptx-attention-cached-frame.ts"

const LANES = 32
/** Blocks of keys, beyond what the rings hold, that the L2 cache is asked for. */
const AHEAD = 3

export function bringPages(f: Frame, maps: U64): void {
  const { k, lane, pages, maxPages, H } = f
  k.comment("---- the warp that brings: lane l knows the page of block l")
  const [now, later] = [k.register("u32"), k.register("u32")]
  const isFirst = k.compare("eq", lane, 0)
  const [keys, values] = [new Position(k, PLACES.keys, 1), new Position(k, PLACES.values, 1)]
  const valueMap = k.addLong(maps, 128)
  k.if(isFirst, () => {
    k.acquireMap(maps)
    k.acquireMap(valueMap)
  })
  k.syncWarp()
  const pageOf = (to: U32, b: U32, block: U32): void => {
    k.copy(to, 0)
    const address = k.madWide(k.mad(b, maxPages, block), 4, pages)
    k.when(k.compare("lt", block, maxPages), () => k.load("u32", [to], address))
  }
  const from = (known: U32, block: U32): U32 => {
    const made = k.register("u32")
    k.emit("shfl.sync.idx.b32", made, known, k.and(block, LANES - 1), 31, -1)
    return made
  }
  const ahead = {
    ask(b: U32, _: U32, isThere: ReturnType<typeof k.compare>) {
      k.copy(later, 0)
      const address = k.madWide(k.mad(b, maxPages, lane), 4, pages)
      k.when(k.both(isThere, k.compare("lt", lane, maxPages)), () => k.load("u32", [later], address))
    },
    take: () => k.copy(now, later),
  }
  eachItem(f, ahead, (item, next) => {
    const block = k.variable("u32", 0)
    k.while(
      "BRING",
      () => k.compare("lt", block, item.blocks),
      () => {
        const isTurn = k.both(k.compare("eq", k.and(block, LANES - 1), 0), k.compare("gt", block, 0))
        k.if(isTurn, () => pageOf(now, item.b, k.add(block, lane)))
        const row = k.mul(k.mad(from(now, block), H, item.h), PAGE)
        const spots = [0, 1].map((i) => ({ i, key: keys.next(), value: values.next() }))
        k.if(isFirst, () => {
          for (const { i, key } of spots) bring(f, key, maps, k.add(row, i * PIECE))
          for (const { i, value } of spots) bring(f, value, valueMap, k.add(row, i * PIECE))
        })
        k.syncWarp()
        k.comment("the L2 cache is asked for what comes soon: of this head, where its page is known, or of the next")
        const soon = k.add(block, AHEAD)
        const isOwn = k.compare("lt", soon, item.blocks)
        const other = k.sub(soon, item.blocks)
        const page = k.select(isOwn, from(now, soon), from(later, other), "u32")
        const head = k.select(isOwn, item.h, next.h, "u32")
        const isNear = k.compare("eq", k.shr(soon, 5), k.shr(block, 5))
        const isKnown = k.either(k.both(isOwn, isNear), k.both(k.not(isOwn), k.compare("lt", other, k.min(next.blocks, LANES))))
        const first = k.mul(k.mad(page, H, head), PAGE)
        k.if(k.both(isFirst, isKnown), () => {
          for (const memory of [f.kPages, f.vPages]) k.prefetchBytes(k.madWide(first, ROW, memory), ROW * PAGE)
        })
        k.syncWarp()
        k.add(block, 1, block)
      },
    )
  })
}

function bring({ k }: Frame, { memory, full, empty, parity }: ReturnType<Position["next"]>, map: U64, row: U32): void {
  k.wait(empty, parity)
  k.expect(full, PIECE_BYTES)
  k.copyBox({ base: memory, bytes: 0 }, map, full, [0, row])
}
