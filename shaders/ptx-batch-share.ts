/** Which heads of which sequences a block of the kernel for many sequences attends to, and which half pages of them each of its warps. */
import type { U32, U64 } from "../src/ptx.ts"
import { CHUNK, type Frame, itemsOf, range } from "./ptx-batch-frame.ts"
import { HEAD, PAGE } from "./ptx-decode-frame.ts"

/** Added to the positions of a half page that has the new one. */
export const FRESH = 256

/** What stays the same in all layers: chunks of this warp, from `first` to `last` of the block's, their rows among the pages, and the head of the first. */
export interface Share {
  readonly first: U32
  readonly last: U32
  /** Of chunk first + lane; its positions, the new one included: 0 behind the last chunk, 256 more where the new one is among them. */
  readonly row: U32
  readonly room: U32
  readonly item: U32
  /** The block's chunks, and heads. */
  readonly chunks: U32
  readonly items: U32
}

interface Sequences {
  readonly pages: U64
  readonly lengths: U64
  readonly counts: U64
}

/** Writes the block's list of heads (sequence, head, length, first chunk) and the rows' places among the pages; returns the warp's share. */
export function share(f: Frame, { pages, lengths, counts }: Sequences): Share {
  const { k, stack, places, thread, warp, lane, block } = f
  const { rows, C, blocks, maxPages } = stack
  const heads = C / HEAD
  const most = itemsOf(stack)
  const number = k.mad(thread, blocks, block)
  const isItem = k.both(k.compare("lt", thread, most), k.compare("lt", number, rows * heads))
  const ask = (b: U32, isThere: ReturnType<typeof k.compare>) => {
    const [length, count] = [k.variable("u32", 0), k.variable("u32", 0)]
    for (const [to, from] of [[length, lengths] as const, [count, counts] as const]) {
      const at = k.madWide(b, 4, from)
      k.when(isThere, () => k.load("u32", [to], at))
    }
    return { length, isAsked: k.compare("gt", count, 0) }
  }
  k.comment("heads of this block")
  const b = k.div(number, heads)
  const { length, isAsked } = ask(b, isItem)
  const chunks = k.select(isAsked, k.add(k.div(length, CHUNK), 1), 0, "u32")
  const to = k.mad(thread, 16, k.base)
  k.if(k.compare("le", thread, most), () =>
    k.storeShared({ base: to, bytes: places.items }, [b, k.sub(number, k.mul(b, heads)), length, chunks]),
  )
  k.comment("where the new position of a row is")
  const isRow = k.compare("lt", thread, rows)
  const own = ask(thread, isRow)
  const page = k.variable("u32", 0)
  const at = k.madWide(k.mad(thread, maxPages, k.div(own.length, PAGE)), 4, pages)
  k.when(k.both(isRow, own.isAsked), () => k.load("u32", [page], at))
  const cell = k.mad(page, heads * PAGE, k.and(own.length, PAGE - 1))
  const told = k.select(own.isAsked, cell, 0xffffffff, "u32")
  const cellAt = k.shl(thread, 2)
  k.when(isRow, () => k.storeShared({ base: cellAt, bytes: places.cells }, [told]))
  k.syncBlock()
  k.if(k.compare("eq", thread, 0), () => {
    const sum = k.variable("u32", 0)
    for (const i of range(most + 1)) {
      const count = k.register("u32")
      const place = places.items + 16 * i + 12
      k.loadSharedWords([count], place)
      k.storeShared(place, [sum])
      if (i < most) k.add(sum, count, sum)
    }
  })
  k.syncBlock()
  const total = k.register("u32")
  k.loadSharedWords([total], places.items + 16 * most + 12)
  const first = k.shr(k.mul(warp, total), 4)
  const last = k.shr(k.mul(k.add(warp, 1), total), 4)
  const find = (chunk: U32): U32 => {
    const item = k.variable("u32", 0)
    for (const i of range(most - 1)) {
      const begin = k.register("u32")
      k.loadSharedWords([begin], places.items + 16 * (i + 1) + 12)
      const isBehind = k.compare("ge", chunk, begin)
      k.when(isBehind, () => k.copy(item, i + 1))
    }
    return item
  }
  const mine = k.add(first, lane)
  const held = k.registers("u32", 4)
  k.loadSharedWords(held, { base: k.shl(find(mine), 4), bytes: places.items })
  const [sequence, head, before, begin] = held as [U32, U32, U32, U32]
  const chunk = k.sub(mine, begin)
  const rest = k.sub(k.add(before, 1), k.mul(chunk, CHUNK))
  const isEnd = k.compare("le", rest, CHUNK)
  const all = k.select(isEnd, k.add(rest, FRESH), CHUNK, "u32")
  const room = k.select(k.compare("lt", mine, last), all, 0, "u32")
  const pageOf = k.variable("u32", 0)
  const pageAt = k.madWide(k.mad(sequence, maxPages, k.shr(chunk, 1)), 4, pages)
  k.when(k.compare("lt", mine, last), () => k.load("u32", [pageOf], pageAt))
  const row = k.mad(k.mad(pageOf, heads, head), PAGE, k.mul(k.and(chunk, 1), CHUNK))
  return { first, last, row, room, item: find(first), chunks: total, items: k.div(k.sub(rows * heads + blocks - 1, block), blocks) }
}
