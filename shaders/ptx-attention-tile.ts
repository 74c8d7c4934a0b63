/** Hopper's attention: its tile, and where the ring and its barriers lie in shared memory. */
import { MOST_DYNAMIC } from "../src/ptx.ts"
import { ROOM } from "./ptx-room.ts"

/** Positions that a warpgroup takes, and those of a unit. */
export const ROWS = 64
/** Columns of a unit: a head of 128 is two units wide. */
export const COLUMNS = 64
/** Bytes of a unit: 64 positions by 64 columns of bf16, rows of 128 bytes swizzled by 128. */
export const UNIT = 8192
/** Bytes of −lse·log2 e and −δ of 64 positions, which travel with a unit of queries. */
export const STATISTICS = 512

/** From one slot of the ring to the next: a unit, then statistics. */
export const PITCH = 9216

/** Where everything begins in shared memory: the barriers that say that a slot is full, those that it is empty, the slots. */
export const PLACES = { full: 0, empty: 256, slots: 1024 } as const

/** Head size, warpgroups that multiply, whether there is dropout, and whether a block has all of a processor's shared memory or what any block may have. */
export interface AttentionTile {
  readonly D: 64 | 128
  readonly groups: 2 | 3
  readonly drops: boolean
  readonly isWide: boolean
}
/** Units in the ring that all warpgroups share. */
export const slotsOf = ({ isWide }: Pick<AttentionTile, "isWide">): number =>
  Math.floor(((isWide ? ROOM : MOST_DYNAMIC) - PLACES.slots) / PITCH)
export const sharedBytesOf = (tile: AttentionTile): number => PLACES.slots + slotsOf(tile) * PITCH
/** Units across a head. */
export const partsOf = ({ D }: AttentionTile): number => D / COLUMNS
/** Positions of a block. */
export const rowsOf = ({ groups }: AttentionTile): number => ROWS * groups
/** One more warpgroup brings the units. */
export const threadsOf = ({ groups }: AttentionTile): number => 128 * (groups + 1)
/** Registers per thread: of those that each has at first, the last warpgroup gives the others as many as they may have. */
export const registersOf = ({ groups }: AttentionTile) => (groups === 2 ? { producer: 24, consumer: 240 } : { producer: 32, consumer: 160 })
export const tileName = ({ D, groups, drops, isWide }: AttentionTile): string =>
  `_${D}_g${groups}${drops ? "_dropout" : ""}${isWide ? "_wide" : ""}`

/** Matrix descriptor of a unit at shared address 0, whose columns are summed over, or whose rows are; and what the next 16 of these add. */
export const ALONG_COLUMNS = { zero: 0x4000004000010000n, next: 2n, isAlongN: false } as const
export const ALONG_ROWS = { zero: 0x4000004000010000n, next: 128n, isAlongN: true } as const
