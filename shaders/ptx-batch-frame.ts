/** What the parts of the kernel for many sequences share: sizes, shared memory, work memory, the barrier of all blocks. */
import { MOST_DYNAMIC, type Ptx, type U32, type U64 } from "../src/ptx.ts"
import { type DecodeStack, HEAD, LAST, LAYER, PAGE } from "./ptx-decode-frame.ts"
import { canSample, sampleBytes } from "./ptx-sample.ts"

export const WARPS = 16
export const THREADS = 32 * WARPS
/** Columns of a tile of weights: those of one matrix instruction; and tiles whose sums of warps are added at a time. */
export const TILE = 8
export const ROUND = 3
/** Columns of a tile of the head. */
export const HEAD_TILE = 24
/** Positions that a warp attends to at a time: half a page. */
export const CHUNK = PAGE / 2
/** Bytes of a row of pages, and of 16 × 16 numbers as a matrix instruction takes them. */
export const ROW = 2 * HEAD
export const BLOCK = 512
/** Bytes of what a warp found of a head: 64 sums, the largest score, the sum of weights. */
export const FOUND = 4 * (HEAD + 4)
/** Bytes of shared memory for weights at most. */
const MOST_WEIGHTS = 37_376
/** Half pages of a block that the L2 cache is asked for ahead at most: 26 MB of all blocks of an H200, which come to half of that. */
export const MOST_AHEAD = 24
/** Numbers of a lane for the offsets of its warp's chunks. */
const LANES = 32

/** How a product is spread: parts of K for blocks of their own, which whoever reads the result adds. */
export interface Spread {
  readonly N: number
  readonly K: number
  readonly parts: number
}
export const tilesOf = ({ N }: Spread): number => N / TILE
/** Blocks of each part of K. */
export const spreadBlocks = ({ blocks }: DecodeStack, { parts }: Spread): number => Math.floor(blocks / parts)
/** Tiles of a block at most. */
export const mostTiles = (stack: DecodeStack, spread: Spread): number => Math.ceil(tilesOf(spread) / spreadBlocks(stack, spread))
/** Slices of K: so many warps share a strip of 16 rows. */
export const slicesOf = (stack: DecodeStack): number => WARPS / stripsOf(stack)
/** Strips of 16 rows; the only one may be half empty. */
export const stripsOf = ({ rows }: DecodeStack): number => Math.ceil(rows / 16)
/** Steps of 16 along K that a warp does. */
const stepsOf = (stack: DecodeStack, { K, parts }: Spread): number => K / 16 / parts / slicesOf(stack)

/** The fewest parts of at most C by which a block reads the least. */
function spread(stack: DecodeStack, N: number, K: number): Spread {
  const all = [1, 2, 3, 4].map((parts) => ({ N, K, parts }))
  const fits = all.filter((one) => K / one.parts <= stack.C && one.parts <= stack.blocks && Number.isInteger(stepsOf(stack, one)))
  const work = (one: Spread) => (mostTiles(stack, one) * K) / one.parts
  return fits.reduce((best, one) => (work(one) < work(best) ? one : best), fits[0] ?? { N, K, parts: 1 })
}

/** The products of a layer. */
export function spreadsOf(stack: DecodeStack) {
  const { C, F } = stack
  return { qkv: { N: 3 * C, K: C, parts: 1 }, proj: spread(stack, C, C), up: { N: F, K: C, parts: 1 }, down: spread(stack, C, F) } as const
}

/** Heads of sequences that a block attends to at most. */
export const itemsOf = ({ rows, C, blocks }: DecodeStack): number => Math.ceil((rows * C) / HEAD / blocks)
/** Bytes from one row of a tile's weights to the next: such that eight rows' pieces of 16 bytes are in different banks. */
export const pitchOf = ({ K, parts }: Spread): number => (2 * K) / parts + 16

/** Bytes of a tile of weights. */
const stageBytes = (stack: DecodeStack): number => Math.max(...Object.values(spreadsOf(stack)).map((one) => TILE * pitchOf(one)))
/** Tiles of weights in shared memory at a time. */
export const stagesOf = (stack: DecodeStack): number => Math.min(3, Math.floor(MOST_WEIGHTS / stageBytes(stack)))

/** Where everything begins in shared memory. */
export function placesOf(stack: DecodeStack) {
  const factors = Math.max(stagesOf(stack) * stageBytes(stack), WARPS * 16 * ROUND * TILE * 4)
  const found = Math.ceil(factors / 16) * 16
  const sums = found + (WARPS + itemsOf(stack)) * FOUND
  const table = sums + 8 * WARPS
  const items = table + 8 * Math.ceil((LAYER.length * stack.layers + LAST.length) / 2) * 2
  const cells = items + 16 * (itemsOf(stack) + 1)
  const full = 8 * Math.ceil((cells + 4 * stack.rows) / 8) // barriers lie at multiples of 8 bytes
  const ahead = 16 * Math.ceil((full + 8 * stagesOf(stack)) / 16) // requests so far, the layer they are for, rows of half pages
  const end = Math.max(ahead + 16 + 4 * MOST_AHEAD, stack.allowed === undefined ? 0 : sampleBytes(THREADS))
  return { factors: 0, stage: stageBytes(stack), found, sums, table, items, cells, full, ahead, bytes: Math.ceil(end / 128) * 128 }
}

/** Offsets in bytes of the work memory. */
export function workOf(stack: DecodeStack) {
  const { rows, C, F } = stack
  const { proj, down } = spreadsOf(stack)
  const all = 16 * stripsOf(stack)
  const parts = 4 * rows * C
  const x = parts + 4 * rows * C * Math.max(proj.parts, down.parts)
  const hidden = x + 2 * all * C
  const y = hidden + 2 * all * F
  const q = y + 2 * all * C
  return { stream: 0, parts, x, hidden, y, q, bytes: q + 4 * rows * C }
}

/** Whether the kernel does such a stack. */
export function isBatch(stack: DecodeStack): boolean {
  const { rows, C, F, blocks, maxPages, classes, allowed } = stack
  const isWhole = Object.values(spreadsOf(stack)).every((one) => one.N % TILE === 0 && Number.isInteger(stepsOf(stack, one)))
  const chunks = Math.ceil((itemsOf(stack) * maxPages * PAGE) / CHUNK / WARPS) + 1
  return (
    [1, 2, 4, 8, 16, 32, 64].includes(rows) &&
    C % (2 * HEAD) === 0 &&
    F % 16 === 0 &&
    C <= 4 * THREADS &&
    isWhole &&
    stagesOf(stack) > 1 &&
    (classes === 0 || classes >= HEAD_TILE) &&
    (allowed === undefined || (rows <= blocks && canSample(THREADS, allowed))) &&
    blocks > 0 &&
    chunks <= LANES &&
    placesOf(stack).bytes <= MOST_DYNAMIC
  )
}

export interface Frame {
  readonly k: Ptx
  readonly stack: DecodeStack
  readonly places: ReturnType<typeof placesOf>
  readonly thread: U32
  readonly warp: U32
  readonly lane: U32
  readonly block: U32
  readonly work: U64
  /** Bytes of the table before this layer's row. */
  readonly layer: U32
  /** Arrivals of blocks so far, and those that this block waits for. */
  readonly arrivals: U64
  readonly target: U32
  /** Of the barriers that the tiles of weights complete, a bit for each stage. */
  readonly parity: U32
  /** What the first thread of a block does each time that others are not there yet. */
  readonly meanwhile?: () => void
}

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Address number `name` of the layer, or of one after it. */
export function addressOf({ k, layer, places }: Frame, name: (typeof LAYER)[number] | (typeof LAST)[number], layersOn = 0): U64 {
  const made = k.register("u64")
  const at = ([...LAYER, ...LAST].indexOf(name) % LAYER.length) + layersOn * LAYER.length
  k.loadSharedLong(made, { base: layer, bytes: places.table + 8 * at })
  return made
}

/** What this block wrote is there for all that wait for it and for as many blocks as `count`. */
export function signal({ k, stack, thread, arrivals, target }: Frame, count = stack.blocks): void {
  k.comment("all of this block is done")
  k.syncBlock()
  k.add(target, count, target)
  const isFirst = k.compare("eq", thread, 0)
  k.when(isFirst, () => k.emit("red.release.gpu.global.add.u32", `[${arrivals.name}]`, 1))
}

/** Waits for all blocks that signal: until the arrivals have come to `target`, as differences of 32 bits tell. */
export function awaitAll({ k, thread, arrivals, target, meanwhile }: Frame): void {
  k.if(k.compare("eq", thread, 0), () => {
    const [again, end] = [k.label("ALL"), k.label("ALL_END")]
    k.place(again)
    const seen = k.register("u32")
    k.loadAcquire(seen, arrivals)
    k.jump(end, k.compare("lt", k.sub(seen, target), 0x80000000))
    meanwhile?.()
    k.jump(again)
    k.place(end)
  })
  k.syncBlock()
}

/** Byte of the first of 4 columns of a row in the order that matrix instructions take; the next two columns are 16 bytes further. */
export function placeOf({ k }: Frame, row: U32, column: U32, K: number): U32 {
  const block = k.mad(k.shr(row, 4), K / 16, k.shr(column, 4))
  const lane = k.add(k.shl(k.and(row, 7), 2), k.shr(k.and(column, 7), 1))
  const word = k.add(k.and(k.shr(row, 3), 1), k.and(k.shr(column, 2), 2))
  return k.mad(block, BLOCK, k.add(k.shl(lane, 4), k.shl(word, 2)))
}
