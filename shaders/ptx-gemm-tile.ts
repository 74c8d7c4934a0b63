/** Hopper's matrix product: its tile, and where the rings and their barriers lie in shared memory. */

/**
 * A block's tile of c: 128·units rows by 64·chunks columns, of two warpgroups with 64·units rows each. A k step is 32 of K; a unit is 64 rows of a,
 * a chunk 64 columns of b, 4,096 bytes each.
 */
export interface PtxTile {
  readonly units: 1 | 2
  readonly chunks: 1 | 2 | 3 | 4 | 5 | 6
  /** Units in the ring of each warpgroup, chunks in the ring that both share. */
  readonly ringA: number
  readonly ringB: number
  /** Results wait in registers and are stored during the next tile's first k steps: bf16 and at most 128 sums per thread. */
  readonly later?: boolean
  /** Two more warps have the lines of a and b brought to the L2 cache so many k steps before they are copied. */
  readonly ahead?: number
  /** Tiles come from lists that the host has made, one for each block (ptx-gemm-deal.ts): some are narrower by a chunk. */
  readonly dealt?: boolean
  /** Shared memory of a block; SHARED_BYTES where it is not told. */
  readonly room?: number
}

export const STEP = 32
export const PIECE = 4096
export const CHUNK_COLUMNS = 64
/** Two warpgroups multiply, one brings a and b. */
export const THREADS = 384
/** Registers per thread: of the 168 that each has at first, the third warpgroup gives the others as many as they may have. */
export const REGISTERS = { producer: 24, consumer: 240 } as const
/** All that VK_NVX_binary_import allows, per block and per processor; a word behind the rings tells how far the copies are. */
export const SHARED_BYTES = 49152

export const rowsOf = ({ units }: PtxTile): number => 128 * units
export const columnsOf = ({ chunks }: PtxTile): number => CHUNK_COLUMNS * chunks
export const tileName = (tile: PtxTile): string =>
  `${rowsOf(tile)}x${columnsOf(tile)}${tile.later ? "l" : ""}${tile.dealt ? "d" : ""}_a${tile.ringA}b${tile.ringB}${tile.ahead === undefined ? "" : `f${tile.ahead}`}`

/** Bytes of an item of a block's list, and items that it may have; the one behind the last has no width. */
export const ITEM_BYTES = 16
export const MOST_ITEMS = 128

/** Where a list begins, behind everything else. */
export const listAt = (end: number): number => Math.ceil((end + 4) / ITEM_BYTES) * ITEM_BYTES

/** Where everything begins in shared memory. Unit s of warpgroup g is number g·ringA + s. */
export function placesOf({ units, chunks, ringA, ringB, dealt = false, room = SHARED_BYTES }: PtxTile) {
  const b = 2 * ringA * PIECE
  const fullA = b + ringB * PIECE
  const emptyA = fullA + 16 * ringA
  const fullB = emptyA + 16 * ringA
  const emptyB = fullB + 8 * ringB
  const end = emptyB + 8 * ringB
  const behind = dealt ? listAt(end) + MOST_ITEMS * ITEM_BYTES : end + 4
  if (behind > room || ringA < units || units * chunks > 6)
    throw new TypeError(
      `ptx gemm: a tile of ${units} units × ${chunks} chunks with rings of ${ringA} and ${ringB} does not fit (${end} bytes)`,
    )
  return { a: 0, b, fullA, emptyA, fullB, emptyB, end }
}

/** Matrix descriptor of a chunk that lies at shared address 0: rows of 64 bytes swizzled by 64 (k runs along a row), or of 128 by 128 (n does). */
export const DESCRIPTOR = { alongK: 0x8000002000010000n, alongN: 0x4000004000010000n } as const
/** What the next 16 of K add to a descriptor. */
export const NEXT_K = { alongK: 2n, alongN: 128n } as const
