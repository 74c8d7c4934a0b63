/** Dropout in Hopper's attention: the bits that attention_tensor_mask made, as factors of weights. */
import type { F32, Ptx, U32, U64 } from "../src/ptx.ts"
import { type Role, range, rowAt } from "./ptx-attention-frame.ts"

interface Head {
  readonly mask: U64
  readonly T: U32
  readonly H: U32
  readonly h: U32
  readonly b: U32
}

/** Whether bit `place` is set. */
const isKept = (k: Ptx, word: U32, place: number) => k.compare("ne", k.and(word, 2 ** place), 0)
/** factor where bit `place` is set, else 0. */
export const dropoutFactor = (k: Ptx, word: U32, place: number, factor: F32): F32 => k.select(isKept(k, word, place), factor, 0, "f32")
/** x where bit `place` is set, else 0. */
const dropped = (k: Ptx, word: U32, place: number, x: F32): F32 => k.select(isKept(k, word, place), x, 0, "f32")

/** Where queries are rows: for unit j of keys the two words of each of the lane's rows, moved so that its first column is bit 0. */
export function queryBits(k: Ptx, { column }: Role, { mask, T, H, h, b }: Head, row: (which: 0 | 1) => U32) {
  const words = k.shr(k.add(T, 31), 5)
  const starts = ([0, 1] as const).map((which) => k.mul(k.mad(k.mad(b, H, h), T, row(which)), words))
  return (j: U32): readonly (readonly U32[])[] =>
    starts.map((start) =>
      range(2).map((half) => {
        const word = k.min(k.add(k.shl(j, 1), half), k.sub(words, 1))
        const made = k.register("u32")
        k.load("u32", [made], k.madLong(k.add(start, word), 4, mask))
        return k.shiftRight(made, column)
      }),
    )
}

/** Columns of a unit that a lane has: of every block of 8 the pair from its first on. */
const LANE_COLUMNS = 16
/** Where the bit of the lane's column `c` and row lies in a word of keyBits. */
const keyBit = (c: number, which: 0 | 1): number => (c & 7) + 16 * (c >> 3) + 8 * which

/** x at a place of the scores (64 keys, 64 queries), 0 where a word of keyBits says so. */
export const droppedAt = (k: Ptx, word: U32, place: number, x: F32): F32 =>
  dropped(k, word, keyBit(2 * (place >> 2) + (place & 1), rowAt(place)), x)

/** Where queries are columns: for unit i of queries one word with the bits of the lane's 16 columns and two rows. */
export function keyBits(k: Ptx, { warp, lane, column }: Role, { mask, T, H, h, b }: Head, firstKey: U32) {
  const words = k.shr(k.add(T, 31), 5)
  const key = k.add(firstKey, k.shl(warp, 4))
  const word = k.min(k.shr(key, 5), k.sub(words, 1))
  const shift = k.add(k.and(key, 31), k.shr(lane, 2))
  const start = k.madLong(k.mad(k.mul(k.mad(b, H, h), T), words, word), 4, mask)
  const rowBytes = k.shl(words, 2)
  return (i: U32): U32 => {
    const first = k.add(k.shl(i, 6), column)
    const loaded = range(LANE_COLUMNS).map((at) => {
      const query = k.min(k.add(first, 8 * (at >> 1) + (at & 1)), k.sub(T, 1))
      const made = k.register("u32")
      k.load("u32", [made], k.madLong(query, rowBytes, start))
      return made
    })
    // bits 0 and 8: rows 8 apart
    const rows = loaded.map((one) => k.and(k.shiftRight(one, shift), 0x101))
    return rows.reduce((all, one, c) => (c === 0 ? one : k.mad(one, 2 ** keyBit(c, 0), all)))
  }
}
