/** Tiles that a list deals out: each block has its own, of tiles of two widths. */
import type { Ptx, U32, U64 } from "../src/ptx.ts"
import { CHUNK_COLUMNS, columnsOf, ITEM_BYTES, listAt, type PtxTile } from "./ptx-gemm-tile.ts"

/** An item of a list: a tile of c. */
export interface Item {
  readonly row: number
  readonly column: number
  /** In chunks. */
  readonly width: number
  /** Blocks that are at the same rows at about the same time, and the number of this one among them. */
  readonly together: number
  readonly number: number
}

const WORDS = ITEM_BYTES / 4
/** Where `together` begins in the last word, above `number`. */
const TOGETHER = 16

/** Words of all lists, one behind the other; all have as many items, the last one without a width. */
export function listWords(lists: readonly (readonly Item[])[]): { items: number; words: number[] } {
  const items = Math.max(...lists.map((list) => list.length)) + 1
  const words = lists.flatMap((list) => {
    const filled = list.flatMap(({ row, column, width, together, number }) => [row, column, width, number + together * 2 ** TOGETHER])
    return [...filled, ...new Array<number>(WORDS * items - filled.length).fill(0)]
  })
  return { items, words }
}

/** Where the lists are, and how many items each has. */
export interface DealtMemory {
  readonly list: U64
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

/** What a list tells of a tile beside its place: its columns, the blocks that are at the same rows, and the number of this one. */
export interface Dealt {
  readonly width: U32
  readonly together: U32
  readonly number: U32
}

/** `steps` for as many chunks as the tile has: one less where its list says that it is narrow. */
export function byWidth(k: Ptx, tile: PtxTile, dealt: Dealt | undefined, steps: (chunks: number) => void): void {
  if (dealt === undefined) steps(tile.chunks)
  else
    k.if(
      k.compare("lt", dealt.width, columnsOf(tile)),
      () => steps(tile.chunks - 1),
      () => steps(tile.chunks),
    )
}

/** `body` for every item of this block's list, which lies behind `end`. */
export function eachDealt(k: Ptx, end: number, body: (place: { row: U32; column: U32; dealt: Dealt }) => void): void {
  const at = k.variable("u32", listAt(end))
  const words = k.registers("u32", WORDS)
  const [row, column, width, shared] = words as [U32, U32, U32, U32]
  k.while(
    "ITEM",
    () => {
      k.loadSharedWords(words, { base: at, bytes: 0 })
      return k.compare("ne", width, 0)
    },
    () => {
      const number = k.and(shared, 2 ** TOGETHER - 1)
      body({ row, column, dealt: { width: k.mul(width, CHUNK_COLUMNS), together: k.shr(shared, TOGETHER), number } })
      k.add(at, ITEM_BYTES, at)
    },
  )
}
