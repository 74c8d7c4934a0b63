/** Tiles that a list deals out: each block's items, and sums of a part of K that go from one block to another within the launch. */
import type { F32, Ptx, U32, U64 } from "../src/ptx.ts"
import { CHUNK_COLUMNS, columnsOf, ITEM_BYTES, listAt, type PtxTile, rowsOf } from "./ptx-gemm-tile.ts"

/**
 * An item of a list: a tile's row, column, k steps and width. Its sums are handed over as a part (`hands`: 1 + its number), or they are the result, to which
 * `count` parts from number `first` on are added; or they go on from part `first`, if it `continues`, so that the order of the sum and all bits are those
 * of a tile that is not divided. A part is handed over by a block of a lower number than that which takes it, and before that block takes
 * any itself: so nobody waits for a block that has not begun.
 */
export interface Item {
  readonly row: number
  readonly column: number
  /** Blocks that are at the same rows and k steps at about the same time, and the number of this one among them. */
  readonly together: number
  readonly number: number
  /** In chunks. */
  readonly width: number
  readonly firstStep: number
  readonly stepCount: number
  readonly hands: number
  readonly first: number
  readonly count: number
  readonly continues: boolean
}

const WORDS = ITEM_BYTES / 4
/** Where the fields begin in an item's words: row, together; column, number; firstStep, stepCount; width, hands, first, count, continues. */
const AT = { together: 24, number: 20, stepCount: 16, hands: 4, first: 16, count: 28, continues: 31 } as const

/** Words of all lists, one behind the other; all have as many items, the last one without k steps. */
export function listWords(lists: readonly (readonly Item[])[]): { items: number; words: number[] } {
  const items = Math.max(...lists.map((list) => list.length)) + 1
  const words = lists.flatMap((list) => {
    const filled = list.flatMap((one) => [
      one.row + one.together * 2 ** AT.together,
      one.column + one.number * 2 ** AT.number,
      one.firstStep + one.stepCount * 2 ** AT.stepCount,
      one.width +
        one.hands * 2 ** AT.hands +
        one.first * 2 ** AT.first +
        one.count * 2 ** AT.count +
        Number(one.continues) * 2 ** AT.continues,
    ])
    return [...filled, ...new Array<number>(WORDS * items - filled.length).fill(0)]
  })
  return { items, words }
}

/** Addresses of the lists, of the parts and of their flags, and how many items a list has. */
export interface DealtMemory {
  readonly list: U64
  readonly parts: U64
  readonly flags: U64
  readonly items: U32
}

/** Copies this block's list to shared memory; before the block's first barrier. */
export function loadList(k: Ptx, end: number, thread: U32, { list, items }: DealtMemory): void {
  k.comment("this block's list of tiles, a thread for each item")
  k.if(k.compare("lt", thread, items), () => {
    const words = k.registers("u32", WORDS)
    const index = k.mad(k.special("%ctaid.x"), items, thread)
    k.load("u32", words, k.madWide(index, ITEM_BYTES, list))
    k.storeShared({ base: k.shl(thread, Math.log2(ITEM_BYTES)), bytes: listAt(end) }, words)
  })
}

/** What a list tells of a tile beside its place. */
export interface Dealt {
  /** Columns of the tile. */
  readonly width: U32
  /** Blocks that are at the same rows at the same time, and the number of this one. */
  readonly together: U32
  readonly number: U32
  /** 1 + the part that its sums become; 0 where they are its result. */
  readonly hands: U32
  /** The first of the parts that are added to them, and how many there are. */
  readonly first: U32
  readonly count: U32
  /** 1 where they go on from the first part. */
  readonly continues: U32
}

/** A tile that a list names, as Place of ptx-gemm-frame.ts has it. */
interface DealtPlace {
  readonly split: U32
  readonly row: U32
  readonly column: U32
  readonly firstStep: U32
  readonly stepCount: U32
  readonly dealt: Dealt
}

/** `body` for every item of this block's list, which lies behind `end`. */
export function eachDealt(k: Ptx, end: number, body: (place: DealtPlace) => void): void {
  const at = k.variable("u32", listAt(end))
  const words = k.registers("u32", WORDS)
  const [rows, columns, steps, more] = words as [U32, U32, U32, U32]
  const field = (word: U32, from: number, bits: number) => k.and(from === 0 ? word : k.shr(word, from), 2 ** bits - 1)
  const none = k.variable("u32", 0)
  k.while(
    "ITEM",
    () => {
      k.loadSharedWords(words, { base: at, bytes: 0 })
      return k.compare("ne", steps, 0)
    },
    () => {
      body({
        split: none,
        row: field(rows, 0, AT.together),
        column: field(columns, 0, AT.number),
        firstStep: field(steps, 0, AT.stepCount),
        stepCount: k.shr(steps, AT.stepCount),
        dealt: {
          width: k.mul(field(more, 0, AT.hands), CHUNK_COLUMNS),
          together: k.shr(rows, AT.together),
          number: k.shr(columns, AT.number),
          hands: field(more, AT.hands, AT.first - AT.hands),
          first: field(more, AT.first, AT.count - AT.first),
          count: field(more, AT.count, AT.continues - AT.count),
          continues: k.shr(more, AT.continues),
        },
      })
      k.add(at, ITEM_BYTES, at)
    },
  )
}

/** What a warp needs to hand over and to take: its number among the 8 that multiply. */
interface Mail {
  readonly k: Ptx
  readonly tile: PtxTile
  readonly warp: U32
  readonly lane: U32
  readonly parts: U64
  readonly flags: U64
}
type Sums = readonly (readonly (readonly F32[])[])[]

const WARPS = 8
/** Bytes of a part, and of four sums of each lane of a warp. */
export const partBytes = (tile: PtxTile): number => 4 * rowsOf(tile) * columnsOf(tile)
const ROW_BYTES = 32 * 16
/** Bytes of a part's flags: a word for each warp. */
export const FLAG_BYTES = 4 * WARPS
/** Loads of a lane that are under way at a time: as many as there are registers for beside the sums. */
const UNDER_WAY = 6

/** Four sums of a lane, by chunks. */
const quadsOf = (sums: Sums): F32[][][] =>
  sums[0]!.map((_, chunk) => sums.flatMap((unit) => Array.from({ length: 8 }, (_, i) => unit[chunk]!.slice(4 * i, 4 * i + 4))))

/** Where this lane's sums of a part lie, and the flag of its warp. */
function placeOf({ k, tile, warp, lane, parts, flags }: Mail, part: U32): { address: U64; flag: U64 } {
  const own = k.mad(warp, partBytes(tile) / WARPS, k.shl(lane, 4))
  return {
    address: k.madWide(part, partBytes(tile), k.madWide(own, 1, parts)),
    flag: k.madWide(k.mad(part, WARPS, warp), 4, flags),
  }
}

/** Does `body` for the quads of each chunk; the last chunk's only where the tile has it. */
function eachChunk({ k, tile }: Mail, { width }: Pick<Dealt, "width">, body: (chunk: number) => void): void {
  for (let chunk = 0; chunk < tile.chunks - 1; chunk++) body(chunk)
  const none = k.label("NARROW")
  k.jump(none, k.compare("lt", width, columnsOf(tile)))
  body(tile.chunks - 1)
  k.place(none)
}

/** Stores the sums as they lie in registers, and says so. */
export function handOver(mail: Mail, dealt: Dealt, sums: Sums): void {
  const { k, lane } = mail
  k.comment("---- the sums are a part that another block waits for")
  const { address, flag } = placeOf(mail, k.sub(dealt.hands, 1))
  const quads = quadsOf(sums)
  eachChunk(mail, dealt, (chunk) =>
    quads[chunk]!.forEach((quad, i) => k.store("f32", address, ROW_BYTES * (quads[chunk]!.length * chunk + i), quad)),
  )
  k.syncWarp()
  const one = k.variable("u32", 1)
  k.when(k.compare("eq", lane, 0), () => k.storeRelease(flag, one))
}

/** Waits until a part is there, and makes its flag ready for the next launch; where this lane's sums of it lie. */
function awaitPart(mail: Mail, part: U32): U64 {
  const { k, lane } = mail
  k.comment("---- a part of the sums is another block's, which has begun before")
  const { address, flag } = placeOf(mail, part)
  const [again, seen] = [k.label("HANDED"), k.register("u32")]
  k.place(again)
  k.loadAcquire(seen, flag)
  k.jump(again, k.compare("eq", seen, 0))
  k.syncWarp()
  const none = k.variable("u32", 0)
  k.when(k.compare("eq", lane, 0), () => k.store("u32", flag, 0, [none]))
  return address
}

/** The sums go on from a part. */
export function goOn(mail: Mail, dealt: Dealt, sums: Sums): void {
  const { k } = mail
  k.if(k.compare("ne", dealt.continues, 0), () => {
    const address = awaitPart(mail, dealt.first)
    const quads = quadsOf(sums)
    eachChunk(mail, dealt, (chunk) =>
      quads[chunk]!.forEach((quad, i) => k.loadFar(quad, address, ROW_BYTES * (quads[chunk]!.length * chunk + i))),
    )
  })
}

/** Adds the parts, one after the other. */
export function take(mail: Mail, dealt: Dealt, sums: Sums): void {
  const { k } = mail
  const quads = quadsOf(sums)
  const taken = k.variable("u32", 0)
  k.while(
    "PART",
    () => k.compare("lt", taken, dealt.count),
    () => {
      const address = awaitPart(mail, k.add(dealt.first, taken))
      eachChunk(mail, dealt, (chunk) => {
        const mine = quads[chunk]!
        const loaded = mine.map(() => k.registers("f32", 4))
        const ask = (i: number) => i < mine.length && k.loadFar(loaded[i]!, address, ROW_BYTES * (mine.length * chunk + i))
        for (let i = 0; i < UNDER_WAY; i++) ask(i)
        mine.forEach((quad, i) => {
          quad.forEach((sum, j) => k.addFloat(sum, loaded[i]![j]!, sum))
          ask(i + UNDER_WAY)
        })
      })
      k.add(taken, 1, taken)
    },
  )
}
