/** Hopper's matrix product: its tile, and where the rings and their barriers lie in shared memory. */
import { MOST_DYNAMIC } from "../src/ptx.ts"
import { ROOM } from "./ptx-room.ts"

/** A block's tile of c: 128·units rows by 64·chunks columns, of two warpgroups with 64·units rows each. */
interface Shape {
  readonly units: 1 | 2
  readonly chunks: 1 | 2 | 3 | 4 | 5 | 6
  /** Results wait in registers and are stored during the next tile's first k steps: bf16 and at most 128 sums per thread. */
  readonly later?: boolean
  /** Tiles come from lists that the host has made, one for each block (ptx-gemm-deal.ts): some are narrower by a chunk. */
  readonly dealt?: boolean
}

/** A k step is 32 of K; a unit is 64 rows of a, a chunk 64 columns of b, 4,096 bytes each. a goes through registers. */
export interface RingTile extends Shape {
  /** Units in the ring of each warpgroup, chunks in the ring that both share. */
  readonly ringA: number
  readonly ringB: number
  /** Two more warps have the lines of a and b brought to the L2 cache so many k steps before they are copied. */
  readonly ahead?: number
  readonly stages?: never
}

/** A k step is a stage, 64 of K of the whole tile, of which so many are in shared memory. Products read both factors from there. */
export interface DeepTile extends Shape {
  readonly stages: number
  readonly ahead?: never
}

export type PtxTile = RingTile | DeepTile
export const isDeep = (tile: PtxTile): tile is DeepTile => tile.stages !== undefined

const STEP = 32
/** k of a stage: rows of 128 bytes. */
const STAGE_STEP = 64
export const stepOf = (tile: PtxTile): number => (isDeep(tile) ? STAGE_STEP : STEP)
export const PIECE = 4096
export const CHUNK_COLUMNS = 64
/** Two warpgroups multiply, one brings a and b. */
export const THREADS = 384
/** Registers per thread: of the 168 that each has at first, the third warpgroup gives the others as many as they may have. */
export const REGISTERS = { producer: 24, consumer: 240 } as const

export const rowsOf = ({ units }: PtxTile): number => 128 * units
export const columnsOf = ({ chunks }: PtxTile): number => CHUNK_COLUMNS * chunks
export function tileName(tile: PtxTile): string {
  const shape = `${rowsOf(tile)}x${columnsOf(tile)}${tile.later ? "l" : ""}${tile.dealt ? "d" : ""}`
  if (isDeep(tile)) return `${shape}_s${tile.stages}`
  const { ringA, ringB, ahead } = tile
  return `${shape}_a${ringA}b${ringB}${ahead === undefined ? "" : `f${ahead}`}`
}

/** Bytes of an item of a block's list, and items that it may have; the one behind the last has no width. */
export const ITEM_BYTES = 16
export const MOST_ITEMS = 128

/** Where a list begins, behind everything else. */
export const listAt = (end: number): number => Math.ceil((end + 4) / ITEM_BYTES) * ITEM_BYTES

/** Bytes of 64 rows of a or columns of b in a stage. */
export const STAGE_PIECE = 8192
export const stageBytes = (tile: DeepTile): number => (2 * tile.units + tile.chunks) * STAGE_PIECE

/** Where everything begins in shared memory. */
interface Places {
  readonly a: number
  readonly b: number
  readonly fullA: number
  readonly emptyA: number
  readonly fullB: number
  readonly emptyB: number
  readonly end: number
}

/** 1 twice, in bf16. */
export const ONES = 0x3f803f80
/** Bytes of ones in bf16 that a deep tile may have behind its barriers, and where they begin. */
export const ONES_BYTES = 256
export const onesAt = (end: number): number => Math.ceil(end / 128) * 128

/** Where a block's list ends, if it has one, or a deep tile's ones. */
function behind(tile: PtxTile, end: number): number {
  if (tile.dealt) return listAt(end) + MOST_ITEMS * ITEM_BYTES
  return isDeep(tile) ? onesAt(end) + ONES_BYTES : end
}

/** Bytes of shared memory of a block. */
export const roomOf = (tile: PtxTile): number => (isDeep(tile) ? behind(tile, placesOf(tile).end) : MOST_DYNAMIC)

/**
 * Unit s of warpgroup g is number g·ringA + s, and a word behind the rings tells how far the copies are; of a deep tile a and b begin in the first stage,
 * and each stage has one barrier of either kind.
 */
export function placesOf(tile: PtxTile): Places {
  const { units, chunks } = tile
  if (isDeep(tile)) {
    const full = tile.stages * stageBytes(tile)
    const empty = full + 8 * tile.stages
    const end = empty + 8 * tile.stages
    if (behind(tile, end) > ROOM || units * chunks > 6 || chunks > 4)
      throw new TypeError(`ptx gemm: ${tile.stages} stages of ${units} units × ${chunks} chunks do not fit (${end} bytes)`)
    return { a: 0, b: 2 * units * STAGE_PIECE, fullA: full, emptyA: empty, fullB: full, emptyB: empty, end }
  }
  const { ringA, ringB } = tile
  const b = 2 * ringA * PIECE
  const fullA = b + ringB * PIECE
  const emptyA = fullA + 16 * ringA
  const fullB = emptyA + 16 * ringA
  const emptyB = fullB + 8 * ringB
  const end = emptyB + 8 * ringB
  if (behind(tile, end + 4) > MOST_DYNAMIC || ringA < units || units * chunks > 6)
    throw new TypeError(
      `ptx gemm: a tile of ${units} units × ${chunks} chunks with rings of ${ringA} and ${ringB} does not fit (${end} bytes)`,
    )
  return { a: 0, b, fullA, emptyA, fullB, emptyB, end }
}

/**
 * Matrix descriptor of a chunk that lies at shared address 0: rows of 64 bytes swizzled by 64 (k runs along a row), or of 128 by 128 (n does). In a stage
 * all rows have 128 bytes, and the next 64 rows or columns lie a piece further.
 */
export const DESCRIPTOR = { alongK: 0x8000002000010000n, alongN: 0x4000004000010000n, inStage: 0x4000004002000000n } as const
/** What the next 16 of K add to a descriptor. */
export const NEXT_K = { alongK: 2n, alongN: 128n } as const
