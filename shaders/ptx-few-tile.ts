/** Hopper's matrix product of few rows: its tiles, and where their ring lies in shared memory. */
import { MOST_DYNAMIC } from "../src/ptx.ts"

/** A block's tile of c. A warp has 16 of its rows and as many columns as come to each; a place of the ring holds 64 of K of all rows and columns. */
export interface FewTile {
  readonly rows: 16 | 32 | 64
  readonly columns: number
  /** Columns of a warp: 8, 16, 24 or 32. */
  readonly each: number
}

/** Of K at a time: rows of 128 bytes, swizzled by 128. */
export const STEP = 64
export const ROW_BYTES = 2 * STEP
/** What the barriers need of a block's shared memory. */
const BARRIER_BYTES = 512
/** Most places of a ring: more hide nothing. */
const MOST_PLACES = 16

/** Warps that multiply; one more brings, and one has the L2 cache filled. */
export const warpsOf = ({ rows, columns, each }: FewTile): number => (rows / 16) * (columns / each)
export const placeBytes = ({ rows, columns }: FewTile): number => (rows + columns) * ROW_BYTES
/** Places of the ring. */
export const depthOf = (tile: FewTile): number => Math.min(MOST_PLACES, Math.floor((MOST_DYNAMIC - BARRIER_BYTES) / placeBytes(tile)))
export const fewTileName = ({ rows, columns }: FewTile): string => `${rows}x${columns}`

/** Where everything begins in shared memory. */
export function placesOf(tile: FewTile) {
  const full = depthOf(tile) * placeBytes(tile)
  const empty = full + 8 * depthOf(tile)
  return { b: tile.rows * ROW_BYTES, full, empty, end: empty + 8 * depthOf(tile) }
}

/** By rows of c: for matrices of few columns, of more, and of very many. */
export const FEW_TILES: readonly FewTile[] = [
  { rows: 16, columns: 8, each: 8 },
  { rows: 16, columns: 24, each: 8 },
  { rows: 16, columns: 64, each: 16 },
  { rows: 32, columns: 8, each: 8 },
  { rows: 32, columns: 16, each: 8 },
  { rows: 32, columns: 24, each: 8 },
  { rows: 32, columns: 48, each: 24 },
  { rows: 32, columns: 64, each: 16 },
  { rows: 64, columns: 24, each: 24 },
  { rows: 64, columns: 48, each: 24 },
  { rows: 64, columns: 64, each: 32 },
]
