/** Dropout in Hopper's attention: the bits that attention_tensor_mask made, as factors of weights. */
import type { F32, Ptx, U32, U64 } from "../src/ptx.ts"
import { type Role, range } from "./ptx-attention-frame.ts"

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
export const dropped = (k: Ptx, word: U32, place: number, x: F32): F32 => k.select(isKept(k, word, place), x, 0, "f32")

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

/** Where queries are columns: for unit i of queries the word of each of the lane's 16 columns, moved so that its first row is bit 0. */
export function keyBits(k: Ptx, { warp, lane, column }: Role, { mask, T, H, h, b }: Head, firstKey: U32) {
  const words = k.shr(k.add(T, 31), 5)
  const key = k.add(firstKey, k.shl(warp, 4))
  const word = k.min(k.shr(key, 5), k.sub(words, 1))
  const shift = k.add(k.and(key, 31), k.shr(lane, 2))
  const start = k.madLong(k.mad(k.mul(k.mad(b, H, h), T), words, word), 4, mask)
  const rowBytes = k.shl(words, 2)
  return (i: U32): readonly U32[] => {
    const first = k.add(k.shl(i, 6), column)
    return range(16).map((at) => {
      const query = k.min(k.add(first, 8 * (at >> 1) + (at & 1)), k.sub(T, 1))
      const made = k.register("u32")
      k.load("u32", [made], k.madLong(query, rowBytes, start))
      return k.shiftRight(made, shift)
    })
  }
}
