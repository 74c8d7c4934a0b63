/** The lane that brings the keys and values of one head of Hopper's attention, for forward and for the queries' gradient. */
import type { Ptx, U32, U64 } from "../src/ptx.ts"
import { lateFirst, range } from "./ptx-attention-frame.ts"
import { begin, bring } from "./ptx-attention-ring.ts"
import { type AttentionTile, COLUMNS, partsOf, ROWS, rowsOf } from "./ptx-attention-tile.ts"

export interface Sizes {
  /** Tensor maps, 128 bytes each; the first of qkv as (B, T, columns). */
  readonly maps: U64
  readonly T: U32
  readonly H: U32
  readonly K: U32
}

/** Units of keys, then of values, of every 64 positions that the block's queries see. */
export function bringKeys(k: Ptx, tile: AttentionTile, { maps, T, H, K }: Sizes): void {
  const [h, b] = [k.special("%ctaid.y"), k.special("%ctaid.z")]
  const keyHead = k.div(k.mul(h, K), H)
  const key = k.mul(k.add(H, keyHead), tile.D)
  const value = k.add(key, k.mul(K, tile.D))
  const end = k.min(k.add(lateFirst(k, tile), rowsOf(tile)), T)
  const [at, position] = [begin(k, 1), k.variable("u32", 0)]
  k.acquireMap(maps)
  k.while(
    "BRING",
    () => k.compare("lt", position, end),
    () => {
      for (const first of [key, value])
        for (const part of range(partsOf(tile))) bring(k, at, maps, [k.add(first, COLUMNS * part), position, b])
      k.add(position, ROWS, position)
    },
  )
}
