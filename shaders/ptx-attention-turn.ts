/** What a block of Hopper's attention does one after another: its column of a table of turns, and where a warpgroup's 64 positions of a turn lie. */
import type { Operand, Ptx, U32, U64 } from "../src/ptx.ts"
import { ROWS } from "./ptx-attention-tile.ts"

/** 64 · groups positions of a head of a sequence; `first` may lie before it by some 64s, modulo 2^32. */
export interface Turn {
  readonly first: U32
  readonly h: U32
  readonly b: U32
}

/** Bytes of a turn in the table: first position, head, sequence, as 32 bits each and 4 that say nothing. */
const TURN = 16
/** After a block's last turn, in place of the position. */
export const NO_TURN = 0xffffffff

/** `body` for every turn of the block. A whole warp comes here, or (`isAlone`) one lane of it. */
export function eachTurn(k: Ptx, turns: U64, isAlone: boolean, body: (turn: Turn) => void): void {
  const at = k.madLong(k.special("%ctaid.x"), TURN, turns)
  const step = k.long(k.mul(k.special("%nctaid.x"), TURN))
  const [first, h, b, none] = k.registers("u32", 4) as [U32, U32, U32, U32]
  const load = () => k.load("u32", [first, h, b, none], at)
  // A warp asks for the next turn when one begins; the lane that brings has no registers for that.
  if (!isAlone) load()
  k.while(
    "TURN",
    () => {
      if (isAlone) load()
      return k.compare("ne", first, NO_TURN)
    },
    () => {
      k.addLong(at, step, at)
      const [position, head, sequence] = [first, h, b].map((one) => (isAlone ? one : k.uniform(one))) as [U32, U32, U32]
      if (!isAlone) load()
      body({ first: position, h: head, b: sequence })
    },
  )
}

/** A warpgroup's positions of a turn. */
interface Rows {
  /** The first, and which unit they are; at T or beyond where the warpgroup has none. */
  readonly own: U32
  readonly diagonal: U32
  /** The lane's two; and inside the sequence, if need be its last. */
  readonly rowOf: (which: 0 | 1) => U32
  readonly inside: (which: 0 | 1) => U32
}

export function rowsOfTurn(k: Ptx, { rank, row }: Readonly<Record<"rank" | "row", U32>>, T: Operand<"u32">, first: U32): Rows {
  const own = k.add(first, k.mul(rank, ROWS))
  const rowOf = (which: 0 | 1) => k.add(k.add(own, row), 8 * which)
  return { own, diagonal: k.shr(own, 6), rowOf, inside: (which) => k.min(rowOf(which), k.sub(T, 1)) }
}
