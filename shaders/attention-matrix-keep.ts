/** Which weights dropout keeps, for attention by KHR matrices: the mask's bits as numbers in shared memory, which matrices take along. */
import { type Body, type F32, f32, type ReadBuffer, type U32, u32 } from "../src/spirv.ts"
import { type Fragments, lanesOf, ownRows, range, type Sum, splitRow } from "./attention-matrix-tile.ts"

/** The lanes' shares of `count` words, in registers between their load and their way to shared memory. */
function shares(k: Body, count: number, lanes: number) {
  const held = range(Math.ceil(count / lanes)).map((turn) => ({ index: k.lane.add(turn * lanes), word: k.var(u32, 0) }))
  const all = (use: (share: (typeof held)[number]) => void) => {
    for (const share of held) {
      if (count % lanes === 0) use(share)
      else k.if(share.index.lt(count), () => use(share))
    }
  }
  return {
    load: (of: (index: U32) => U32) => all(({ index, word }) => word.set(of(index))),
    store: (put: (index: U32, word: U32) => void) => all(({ index, word }) => put(index, word.get())),
  }
}

/** Dropout's bits: of query i, numbered among all heads and samples, and key j at word (i, ⌊j/32⌋), ⌈T/32⌉ words a query: attention_tensor_mask. */
type Mask = ReadBuffer<typeof u32>
const wordsOf = (T: U32): U32 => T.add(31).shr(5)

/** For own rows of queries from q0 on, the head's first query having `number`: 32 keys of the tile at a time. */
export function keepOfQueries(tile: Fragments, mask: Mask, T: U32, number: U32, q0: U32) {
  const { k, shape } = tile
  const rows = ownRows(shape)
  const halves = shape.others / 32
  const numbers = k.shared("kept", f32, 2 * halves * rows)
  const { load, store } = shares(k, halves * rows, lanesOf(shape))
  const words = wordsOf(T)
  return {
    load: (block: U32) =>
      load((index) => {
        const query = number.add(q0.add(index.mod(rows)).min(T.sub(1)))
        return mask.at(query.mul(words).add(block.shr(5).add(index.div(rows)).min(words.sub(1))))
      }),
    store: () =>
      store((index, word) => {
        const at = index
          .div(rows)
          .mul(2 * rows)
          .add(index.mod(rows))
        numbers.set(at, word.and(0xffff).toF32())
        numbers.set(at.add(rows), word.shr(16).toF32())
      }),
    /** Of a block of own rows: the bits of the first 16 keys, and of the others. */
    of: (half: number, row: U32): readonly [Sum, Sum] => [
      tile.along("columns", numbers, row.add(2 * half * rows)),
      tile.along("columns", numbers, row.add((2 * half + 1) * rows)),
    ],
  }
}
/** x times 0 or `factor`, for key 2·column + p of 32. */
export function keptKey(p: number) {
  return (x: F32, low: F32, high: F32, column: F32, factor: F32): F32 => {
    const bit = column.toU32().mul(2).add(p)
    return bit.lt(16).select(low, high).toU32().shr(bit.and(15)).and(1).eq(1).select(x.mul(factor), 0)
  }
}

/** For own rows of keys from k0 on: 16 queries of the tile at a time, the even or the odd ones of 32. */
export function keepOfKeys(tile: Fragments, mask: Mask, T: U32, k0: U32) {
  const { k, shape } = tile
  const { subgroups, others } = shape
  const numbers = k.shared("kept", f32, subgroups * others)
  const { load, store } = shares(k, subgroups * others, lanesOf(shape))
  const words = wordsOf(T)
  const keyOf = (index: U32) => k0.add(index.div(others).mul(16))
  return {
    load: (block: U32, number: U32) =>
      load((index) => {
        const query = number.add(block.add(index.mod(others)).min(T.sub(1)))
        return mask.at(query.mul(words).add(keyOf(index).shr(5).min(words.sub(1))))
      }),
    store: () =>
      store((index, word) => {
        const place = index
          .div(others)
          .mul(others)
          .add(splitRow(index.mod(others)))
        numbers.set(place, word.shr(keyOf(index).and(16)).and(0xffff).toF32())
      }),
    of: (half: number, p: number): Sum => tile.along("rows", numbers, k.subgroup.mul(others).add(32 * half + 16 * p)),
  }
}
/** x times 0 or `factor`, for key `row` of 16. */
export const keptQuery = (x: F32, bits: F32, row: F32, factor: F32): F32 =>
  bits.toU32().shr(row.toU32()).and(1).eq(1).select(x.mul(factor), 0)
