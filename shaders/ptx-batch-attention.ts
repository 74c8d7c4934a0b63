/** Attention of the kernel for many sequences: a block has some heads, each warp as many half pages of them as the others, straight to registers. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { addressOf, CHUNK, FOUND, type Frame, itemsOf, placeOf, ROW, range, WARPS, workOf } from "./ptx-batch-frame.ts"
import { HEAD, PAGE } from "./ptx-decode-frame.ts"

/** Keys that an instruction of a warp loads, and instructions per half page. */
const KEYS = 4
const LOADS = CHUNK / KEYS
/** Bytes of an instruction's keys. */
const STEP = KEYS * ROW
const DIMS = 8
const NONE = -1e30
const FRESH = 256

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

/** A lane of the chunk's rows: from lane number `index`. */
function take({ k }: Frame, from: U32, index: U32 | number): U32 {
  const made = k.register("u32")
  k.emit("shfl.sync.idx.b32", made, from, index, 31, -1)
  return made
}
function takeFloat({ k }: Frame, from: F32, index: U32 | number): F32 {
  const made = k.register("f32")
  k.emit("shfl.sync.idx.b32", made, from, index, 31, -1)
  return made
}

/** Keys and values of a chunk on their way: registers that are loaded again as soon as they have been used. */
class Pieces {
  readonly keys: readonly (readonly U32[])[]
  readonly values: readonly (readonly U32[])[]
  readonly #room: U32
  readonly #addresses: Readonly<Record<"keys" | "values", U64>>
  readonly #at: Readonly<Record<"keys" | "values", U64>>
  readonly #group: U32

  constructor(
    readonly f: Frame,
    readonly share: Share,
  ) {
    const { k, lane } = f
    const make = () => range(LOADS).map(() => k.registers("u32", 4))
    this.keys = make()
    this.values = make()
    this.#addresses = { keys: addressOf(f, "kPages"), values: addressOf(f, "vPages") }
    this.#at = { keys: k.register("u64"), values: k.register("u64") }
    this.#room = k.register("u32")
    this.#group = k.shr(lane, 3)
  }

  /** From here on the chunk number `index` of the warp is meant. */
  aim(index: U32): void {
    const { k, lane } = this.f
    k.copy(this.#room, take(this.f, this.share.room, index))
    const offset = k.madWide(take(this.f, this.share.row, index), ROW, k.long(k.shl(lane, 4)))
    for (const what of ["keys", "values"] as const) k.addLong(this.#addresses[what], offset, this.#at[what])
  }

  /** What lies behind the newest position may be anything, also no number: it is not asked for. Without `fresh` the newest is not either. */
  load(what: "keys" | "values", fresh: "fresh" | ""): void {
    const { k } = this.f
    const positions = k.and(this.#room, FRESH - 1)
    const limit = fresh === "fresh" ? positions : k.sub(positions, k.shr(this.#room, 8))
    this[what].forEach((words, j) => {
      const isThere = k.compare("lt", k.add(this.#group, KEYS * j), limit)
      for (const word of words) k.copy(word, 0)
      k.when(isThere, () => k.loadOnce(words, this.#at[what], STEP * j))
    })
  }

  /** The newest position, where the chunk has it. */
  loadFresh(): void {
    const { k } = this.f
    k.if(k.compare("ge", this.#room, FRESH), () => {
      const newest = k.sub(this.#room, FRESH + 1)
      for (const what of ["keys", "values"] as const)
        this[what].forEach((words, j) => {
          const isNewest = k.compare("eq", k.add(this.#group, KEYS * j), newest)
          k.when(isNewest, () => k.loadOnce(words, this.#at[what], STEP * j))
        })
    })
  }
}

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
      const facts = k.registers("u32", 4)
      const place = k.shl(item, 4)
      k.loadSharedWords(facts, { base: place, bytes: places.items })
      const next = k.register("u32")
      k.loadSharedWords([next], { base: place, bytes: places.items + 28 })
      const [b, h, length, begin] = facts as [U32, U32, U32, U32]
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
            const weightOf = takeFloat(f, weight, k.add(k.and(lane, 24), j))
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

/** What the warps found of a head becomes its row of y: a warp for each head, lane v looks at warp v. */
function merge(f: Frame, { chunks, items }: Share): void {
  const { k, stack, places, lane, warp, work } = f
  const item = k.variable("u32", warp)
  const exp2 = (x: F32): F32 => k.unary("ex2.approx.ftz.f32", x)
  k.while(
    "MERGE",
    () => k.compare("lt", item, items),
    () => {
      const facts = k.registers("u32", 4)
      const place = k.shl(item, 4)
      k.loadSharedWords(facts, { base: place, bytes: places.items })
      const next = k.register("u32")
      k.loadSharedWords([next], { base: place, bytes: places.items + 28 })
      const [b, h, , begin] = facts as [U32, U32, U32, U32]
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
        const one = takeFloat(f, factor, v)
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
