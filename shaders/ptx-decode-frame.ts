/** What the parts of the decode kernel share: sizes, shared memory, numbers that carry their step and whoever waits for them. */
import { MOST_DYNAMIC, type Ptx, type U32, type U64 } from "../src/ptx.ts"
import type { PtxActivation } from "./ptx-gemm-frame.ts"

/** A stack of equal layers of the GPT-2 family, and the sequences that grow by one token each. */
export interface DecodeStack {
  /** Sequences; the decode kernel takes up to 8, the rows of half a matrix instruction. */
  readonly rows: number
  /** Channels, for the decode kernel a multiple of 256 up to 1024; heads of 64 each. */
  readonly C: number
  /** Channels between the two products of the MLP, for the decode kernel a multiple of 256. */
  readonly F: number
  readonly layers: number
  readonly activation: PtxActivation | "none"
  /** Factor of q·k. */
  readonly scale: number
  readonly eps: number
  readonly hasBias: boolean
  /** Pages of 64 positions that a sequence has at most. */
  readonly maxPages: number
  /** One for each processor. */
  readonly blocks: number
  /** Logits behind the last norm; 0: the norm's result is wanted. */
  readonly classes: number
  /** Ids below this are chosen of the logits, one for each row; undefined: nobody chooses here. */
  readonly allowed?: number
  /** Whether the layers begin with the tokens' embeddings, not with x. */
  readonly embeds?: boolean
}

export const HEAD = 64
export const PAGE = 64
/** Pages of a unit of attention. */
export const UNIT_PAGES = 2
export const UNIT = UNIT_PAGES * PAGE
/** Columns of a tile: those of one matrix instruction. */
export const TILE = 8
/** Each takes an equal part of K. */
export const WARPS = 8
export const THREADS = 32 * WARPS
/** Numbers of a row that four lanes take at a time, 8 each. */
export const GROUP = 32

/** Addresses of a layer, 8 bytes each, in this order. */
export const LAYER = [
  ...["attnNormW", "attnNormB", "qkvW", "qkvB", "kPages", "vPages", "projW", "projB"],
  ...["mlpNormW", "mlpNormB", "upW", "upB", "downW", "downB"],
] as const
/** Behind the layers: those of the last norm, the head and the embeddings. */
export const LAST = ["normW", "normB", "headW", "wte", "wpe"] as const
export type Address = (typeof LAYER)[number] | (typeof LAST)[number]

/** Tiles whose parts of K are summed together, at most. */
export const MOST_TILES = 4
/** A warp's share of a unit of attention: 64 sums, then the maxima and sums of weights of all warps, then the query and the new position. */
export const SHARE = 4 * HEAD
export const FACTS = WARPS * SHARE
export const FRESH = FACTS + 8 * WARPS
export const slotBytes = FRESH + 3 * 2 * HEAD

/** Bytes of a row of x of so many groups in shared memory, such that its 16-byte pieces and those of the next row are in different banks. */
export const pitchOf = (groups: number): number => 64 * groups + (groups % 2 === 0 ? 64 : 0)

interface Places {
  /** Sums of the warps by tile and row, twice. */
  readonly sums: number
  /** Means and squares of the warps by row. */
  readonly moments: number
  /** Two units of attention. */
  readonly slots: number
  /** The addresses of all layers, and those behind them. */
  readonly table: number
  /** Each warp's part of x. */
  readonly stage: number
  readonly bytes: number
}

/** Addresses in the table. */
export const addressesOf = ({ layers }: DecodeStack): number => LAYER.length * layers + LAST.length
export const sumsBytes = ({ rows }: DecodeStack): number => WARPS * MOST_TILES * rows * 4 * TILE
/** Bytes of a warp's part of x, so many groups of each row. */
export const stageBytes = ({ rows }: DecodeStack, groups: number): number => rows * pitchOf(groups)

function fixedOf(stack: DecodeStack) {
  const moments = 2 * sumsBytes(stack)
  const slots = moments + stack.rows * 8 * WARPS
  const table = slots + 2 * slotBytes
  return { sums: 0, moments, slots, table, stage: Math.ceil((table + 8 * addressesOf(stack)) / 16) * 16 }
}

/** Groups of a warp's part of K that are staged at a time: all, or a part that shared memory has room for; 0: none has. */
export function stagedGroups(stack: DecodeStack, K: number): number {
  const all = K / WARPS / GROUP
  const room = MOST_DYNAMIC - fixedOf(stack).stage
  const fits = (groups: number) => all % groups === 0 && WARPS * stageBytes(stack, groups) <= room
  return Array.from({ length: all }, (_, i) => all - i).find(fits) ?? 0
}

export function placesOf(stack: DecodeStack): Places {
  const fixed = fixedOf(stack)
  const most = Math.max(stack.C / WARPS / GROUP, stagedGroups(stack, stack.F))
  return { ...fixed, bytes: fixed.stage + WARPS * stageBytes(stack, most) }
}

/** Whether shared memory holds it all. */
export const hasRoom = (stack: DecodeStack): boolean => stagedGroups(stack, stack.F) > 0 && placesOf(stack).bytes <= MOST_DYNAMIC

/** Units of attention that a sequence has at most. */
export const mostUnits = ({ maxPages }: DecodeStack): number => Math.ceil(maxPages / UNIT_PAGES)

/**
 * Work memory between the steps: offsets in bytes. Every word of 32 bits has a tag behind it, which says of which layer and launch it is: who needs
 * it asks until it is there. Nothing is written again before all have read it, for what they make of it is waited for in turn.
 */
export function workOf(stack: DecodeStack) {
  const { rows, C, F, blocks, allowed } = stack
  const [branch, stream] = [0, 8 * rows * C] // after attention, after the MLP
  const qkv = stream + 8 * rows * C
  const attended = qkv + 12 * rows * C
  const hidden = attended + 4 * rows * C
  const outputs = hidden + 4 * rows * F
  const statistics = outputs + 8 * rows * mostUnits(stack) * C
  const parts = statistics + (16 * rows * mostUnits(stack) * C) / HEAD // what each pair of columns of the head's tiles has seen
  const bytes = parts + (allowed === undefined ? 0 : (16 * rows * blocks * MOST_TILES * TILE) / 2)
  return { branch, stream, qkv, attended, hidden, outputs, statistics, parts, bytes }
}

export interface Frame {
  readonly k: Ptx
  readonly stack: DecodeStack
  readonly places: Places
  readonly block: U32
  readonly warp: U32
  readonly lane: U32
  readonly thread: U32
  /** 0, which the assembler does not know. */
  readonly zero: U32
  /** lane / 4: the row, or column of a tile, that a lane brings to a product; and its place among four. */
  readonly row: U32
  readonly quarter: U32
  /** Bytes of the table before this layer's row, and before those of the next two (or the last one's). */
  readonly layer: U32
  readonly next: U32
  readonly later: U32
  readonly work: U64
  /** Of what this layer writes; that of the layer before is one less. */
  readonly tag: U32
  /** 0 and 1 in turn: which of two places the next sums go to. */
  readonly turn: U32
  readonly pages: U64
  /** Per sequence: positions before this one, and units of attention with it (0: no sequence). */
  readonly lengths: readonly U32[]
  readonly units: readonly U32[]
  /** The most of `units`. */
  readonly most: U32
}

/** Address number `name` of the layer whose row begins `layer` bytes behind the first; behind the last one, those of the last norm. */
export function addressOf({ k, places, layer }: Frame, name: Address, row: U32 = layer): U64 {
  const made = k.register("u64")
  const at = [...LAYER, ...LAST].indexOf(name) % LAYER.length
  k.loadSharedLong(made, { base: row, bytes: places.table + 8 * at })
  return made
}

/** Nanoseconds that a number takes from block to block at least; who asks before delays it. */
const ON_ITS_WAY = 300
export const rest = ({ k }: Frame): void => k.sleep(ON_ITS_WAY)

/** Repeats `load` until all words of `tags` are `tag`. */
export function awaitAll({ k }: Frame, tag: U32, tags: readonly U32[], load: () => void): void {
  const again = k.label("AWAIT")
  k.place(again)
  load()
  const difference = tags.map((one) => k.xor(one, tag)).reduce((all, one) => k.or(all, one))
  k.jump(again, k.compare("ne", difference, 0))
}

/** The one of `values` that belongs to sequence b. */
export const ofSequence = ({ k }: Frame, values: readonly U32[], b: U32): U32 =>
  values.slice(1).reduce((found, value, i) => k.select(k.compare("eq", b, i + 1), value, found, "u32"), values[0]!)
