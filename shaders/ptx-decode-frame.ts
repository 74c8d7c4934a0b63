/** What the parts of the decode kernel share: sizes, shared memory, the ring of places that the weights come through, numbers that carry their step. */
import type { Ptx, Shared, U32, U64 } from "../src/ptx.ts"
import type { PtxActivation } from "./ptx-gemm-frame.ts"

/** A stack of equal layers of the GPT-2 family, and the sequences that grow by one token each. */
export interface DecodeStack {
  /** Sequences, up to 4. */
  readonly rows: number
  /** Channels: a multiple of 256, up to 1024; heads of 64 each. */
  readonly C: number
  /** Channels between the two products of the MLP. */
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
}

export const HEAD = 64
export const PAGE = 64
/** Columns of a tile: those of one matrix instruction. */
export const TILE = 8
/** Warps that multiply; one more brings the weights. */
export const WORKERS = 7
export const THREADS = 32 * (WORKERS + 1)
/** The barrier of all workers; from the next on, those of pairs of warps. */
export const ALL_WORKERS = 1

/** Addresses of a layer, 8 bytes each, in this order. */
export const LAYER = [
  ...["attnNormW", "attnNormB", "qkvW", "qkvB", "kPages", "vPages", "projW", "projB"],
  ...["mlpNormW", "mlpNormB", "upW", "upB", "downW", "downB"],
] as const
/** Behind the layers: those of the last norm. */
export const LAST = ["normW", "normB"] as const

/** Numbers of a row that a place of the ring holds; its 8 rows have 16 bytes between them, so that they begin in different banks. */
export const CHUNK = 256
const PLACE = 8 * (2 * CHUNK + 16)
/** Places that the keys of a unit of attention take, and its values. */
export const PAGE_PLACES = 2
const SHARED = 49152
/** Bytes for attention's scores, which lie where the rows of x lie in other steps. */
const SCORES = 4096

/** Bytes from one row of x to the next. */
export const pitchOf = (K: number): number => 2 * K + 16
export interface Places {
  readonly count: number
  readonly x: number
  readonly full: number
  readonly empty: number
  /** The addresses of all layers, and of the last norm. */
  readonly table: number
  readonly bytes: number
}

/** Addresses in the table. */
export const addressesOf = ({ layers }: DecodeStack): number => LAYER.length * layers + LAST.length

/** Places of the ring beside the rows of x and the addresses. */
function ringOf(stack: DecodeStack) {
  const { rows, F, C } = stack
  const x = Math.max(rows * pitchOf(Math.max(F, C)), SCORES)
  const table = 8 * addressesOf(stack)
  return { x, table, count: Math.floor((SHARED - x - table) / (PLACE + 16)) }
}

/** Whether shared memory holds a unit of attention beside the rest. */
export const hasRoom = (stack: DecodeStack): boolean => ringOf(stack).count >= 2 * PAGE_PLACES

/** Shared memory: the ring, the rows of x, the ring's barriers, the addresses. */
export function placesOf(stack: DecodeStack): Places {
  const { x, table, count } = ringOf(stack)
  const full = count * PLACE + x
  return { count, x: count * PLACE, full, empty: full + 8 * count, table: full + 16 * count, bytes: full + 16 * count + table }
}

/**
 * Work memory between the steps: offsets in bytes. Every word of 32 bits has a tag behind it, which says of which layer and launch it is: who needs
 * it asks until it is there. Nothing is written again before all have read it, for what they make of it is waited for in turn.
 */
export function workOf({ rows, C, F, maxPages }: DecodeStack) {
  const [branch, stream] = [0, 8 * rows * C] // after attention, after the MLP
  const qkv = stream + 8 * rows * C
  const hidden = qkv + 12 * rows * C
  const outputs = hidden + 4 * rows * F
  const statistics = outputs + 8 * rows * maxPages * C
  return { branch, stream, qkv, hidden, outputs, statistics, bytes: statistics + (16 * rows * maxPages * C) / HEAD }
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
  /** Bytes of the table before this layer's row. */
  readonly layer: U32
  readonly work: U64
  /** Of what this layer writes; that of the layer before is one less. */
  readonly tag: U32
  /** Visits of the ring so far, by this block. */
  readonly visits: U32
  readonly pages: U64
  /** Per sequence: positions before this one, and blocks of 64 of them with it (0: no sequence). */
  readonly lengths: readonly U32[]
  readonly blocks: readonly U32[]
  /** The most of `blocks`. */
  readonly most: U32
}

/** A place of the ring on its visit number n. */
export interface Visit {
  readonly base: U32
  readonly full: Exclude<Shared, number>
  readonly empty: Exclude<Shared, number>
  readonly parity: U32
}

export function visit({ k, places }: Frame, n: U32): Visit {
  const place = k.rem(n, places.count)
  const barrier = k.shl(place, 3)
  return {
    base: k.add(k.mul(place, PLACE), k.base),
    full: { base: barrier, bytes: places.full },
    empty: { base: barrier, bytes: places.empty },
    parity: k.and(k.div(n, places.count), 1),
  }
}

/**
 * Waits until the place holds what this visit brings. A barrier tells one phase from the next only, and other warps make the visits between: so first
 * the visit before must be over. The one before that is, where a warp makes one of as many visits as there are places, or the step began since.
 */
export function waitFull({ k }: Frame, { full, empty, parity }: Visit): void {
  k.wait(empty, k.xor(parity, 1))
  k.wait(full, parity)
}

/** Tiles that are worked on at the same time, each by a warp, and units of attention, each by two. */
export const tilesAtOnce = ({ count }: Places): number => Math.min(WORKERS, count)
export const unitsAtOnce = ({ count }: Places): number =>
  Math.min(Math.floor(WORKERS / 2), Math.max(1, Math.floor((count + 2 * PAGE_PLACES - 1) / (2 * PAGE_PLACES))))

/** Address number `name` of the layer; behind the last one, those of the last norm. */
export function addressOf({ k, layer, places }: Frame, name: (typeof LAYER)[number] | (typeof LAST)[number]): U64 {
  const made = k.register("u64")
  const at = [...LAYER, ...LAST].indexOf(name) % LAYER.length
  k.loadSharedLong(made, { base: layer, bytes: places.table + 8 * at })
  return made
}

/** Tiles of this block: block, block + blocks, … */
export const tilesOf = ({ k, stack, block }: Frame, N: number): U32 => k.div(k.sub(N / TILE + stack.blocks - 1, block), stack.blocks)

/** The block's workers wait for each other. */
export const syncWorkers = ({ k }: Frame): void => k.syncBlock(ALL_WORKERS, 32 * WORKERS)

/** Repeats `load` until all words of `tags` are `tag`. */
export function awaitAll({ k }: Frame, tag: U32, tags: readonly U32[], load: () => void): void {
  const again = k.label("AWAIT")
  k.place(again)
  load()
  const difference = tags.map((one) => k.xor(one, tag)).reduce((all, one) => k.or(all, one))
  k.jump(again, k.compare("ne", difference, 0))
}

/** body(b, h, page of the sequence) for the units of attention of this block that exist: one head and 64 positions of a sequence each. */
export function eachUnit(f: Frame, body: (unit: { b: U32; h: U32; part: U32; length: U32; number: U32 }) => void): void {
  const { k, stack, block, most, lengths, blocks } = f
  const heads = stack.C / HEAD
  const unit = k.variable("u32", block)
  const number = k.variable("u32", 0)
  const units = k.mul(most, stack.rows * heads)
  const of = (values: readonly U32[], b: U32) =>
    values.slice(1).reduce((found, value, i) => k.select(k.compare("eq", b, i + 1), value, found, "u32"), values[0]!)
  k.while(
    "UNIT",
    () => k.compare("lt", unit, units),
    () => {
      const [h, rest] = [k.rem(unit, heads), k.div(unit, heads)]
      const [b, part] = stack.rows === 1 ? [k.variable("u32", 0), rest] : [k.div(rest, most), k.rem(rest, most)]
      k.if(k.compare("lt", part, of(blocks, b)), () => {
        body({ b, h, part, length: of(lengths, b), number })
        k.add(number, 1, number)
      })
      k.add(unit, stack.blocks, unit)
    },
  )
}
