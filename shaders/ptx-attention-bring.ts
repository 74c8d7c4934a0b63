/** The lane that brings the keys and values of a head of Hopper's attention, for forward and for the queries' gradient. */
import type { Ptx, U32, U64 } from "../src/ptx.ts"
import { bringRows, range } from "./ptx-attention-frame.ts"
import { begin, bring } from "./ptx-attention-ring.ts"
import { type AttentionTile, COLUMNS, partsOf, ROWS, rowsOf, slotsOf } from "./ptx-attention-tile.ts"
import { eachTurn } from "./ptx-attention-turn.ts"

export interface Sizes {
  /** Tensor maps, 128 bytes each: of qkv as (B, T, columns), then of dy where there is one. */
  readonly maps: U64
  /** Table of the blocks' turns. */
  readonly turns: U64
  readonly T: U32
  readonly H: U32
  readonly K: U32
}

/**
 * Turn by turn the block's queries (and `withGradients` dy's rows), then of every 64 positions that they see keys and values; where keys are `ahead`, those
 * of the next positions before the values.
 */
export function bringKeys(k: Ptx, tile: AttentionTile, { maps, turns, T, H, K }: Sizes, how: "forward" | "backward"): void {
  const at = begin(k, 1, slotsOf(tile))
  const gradients = k.addLong(maps, 128)
  for (const map of how === "forward" ? [maps] : [maps, gradients]) k.acquireMap(map)
  eachTurn(k, turns, true, (turn) => {
    const { h, b } = turn
    const own = k.mul(h, tile.D)
    bringRows(
      k,
      tile,
      at,
      turn,
      (how === "forward" ? [maps] : [maps, gradients]).map((map) => ({ map, column: own })),
    )
    const keyHead = k.div(k.mul(h, K), H)
    const key = k.mul(k.add(H, keyHead), tile.D)
    const value = k.add(key, k.mul(K, tile.D))
    const end = k.min(k.add(turn.first, rowsOf(tile)), T)
    const position = k.variable("u32", 0)
    const unit = (first: U32, of: U32) => {
      for (const part of range(partsOf(tile))) bring(k, at, maps, [k.add(first, COLUMNS * part), of, b])
    }
    if (how === "forward") unit(key, position)
    k.while(
      "BRING",
      () => k.compare("lt", position, end),
      () => {
        if (how === "backward") unit(key, position)
        else {
          const next = k.add(position, ROWS)
          k.if(k.compare("lt", next, end), () => unit(key, next))
        }
        unit(value, position)
        k.add(position, ROWS, position)
      },
    )
  })
}
