/** What the warps of Hopper's attention over pages share: sizes, shared memory, rings, the heads that a block does one after the other. */
import type { Predicate, Ptx, Shared, U32, U64 } from "../src/ptx.ts"

/** Size of a head, and positions of a page, which is one block of keys. */
export const HEAD = 64
export const PAGE = 64
/** Bytes of a row. */
export const ROW = 2 * HEAD
/** Rows that a copy brings. */
export const PIECE = 32
export const PIECE_BYTES = ROW * PIECE
/** Two warps find scores, two sum values. */
export const TEAM = 64

export interface Ring {
  readonly count: number
  readonly memory: number
  readonly full: number
  readonly empty: number
}

/** Where everything begins in shared memory. Weights, and the maxima, have two places, which change with every block of keys. */
export const PLACES = (() => {
  const [keyCount, valueCount] = [5, 6]
  const weights = (keyCount + valueCount) * PIECE_BYTES
  const told = weights + 8 * PAGE
  const barriers = told + 32
  const keys: Ring = { count: keyCount, memory: 0, full: barriers, empty: barriers + 8 * keyCount }
  const full = keys.empty + 8 * keyCount
  const values: Ring = { count: valueCount, memory: keyCount * PIECE_BYTES, full, empty: full + 8 * valueCount }
  const ready = values.empty + 8 * valueCount
  return { keys, values, weights, told, top: told + 16, ready, taken: ready + 16, end: ready + 32 }
})()

export interface Frame {
  readonly k: Ptx
  readonly qkv: U64
  readonly kPages: U64
  readonly vPages: U64
  readonly pages: U64
  readonly lengths: U64
  readonly counts: U64
  readonly y: U64
  /** Heads; all heads of all sequences; pages of a sequence at most. */
  readonly H: U32
  readonly items: U32
  readonly maxPages: U32
  readonly thread: U32
  readonly lane: U32
  /** 0, which the assembler does not know. */
  readonly none: U32
}

/** A place in a ring. */
interface Spot {
  readonly memory: U32
  readonly full: Shared
  readonly empty: Exclude<Shared, number>
  readonly parity: U32
}

/** A position in a ring that goes on piece by piece. */
export class Position {
  readonly #memory: U32
  readonly #barrier: U32
  readonly #parity: U32

  constructor(
    readonly k: Ptx,
    readonly ring: Ring,
    parity: 0 | 1,
  ) {
    this.#memory = k.variable("u32", ring.memory)
    this.#barrier = k.variable("u32", 0)
    this.#parity = k.variable("u32", parity)
  }

  /** The place now, and on to the next. */
  next(): Spot {
    const { k, ring } = this
    const [memory, barrier, parity] = [this.#memory, this.#barrier, this.#parity].map((one) => k.variable("u32", one)) as [U32, U32, U32]
    k.add(this.#memory, PIECE_BYTES, this.#memory)
    k.add(this.#barrier, 8, this.#barrier)
    const isRound = k.compare("eq", this.#barrier, 8 * ring.count)
    k.when(isRound, () => {
      k.copy(this.#memory, ring.memory)
      k.copy(this.#barrier, 0)
      k.xor(this.#parity, 1, this.#parity)
    })
    return { memory, full: { base: barrier, bytes: ring.full }, empty: { base: barrier, bytes: ring.empty }, parity }
  }
}

/** Which of the two places weights are in, and the parity of its barriers. */
export class Turn {
  readonly place: U32
  readonly parity: U32
  constructor(readonly k: Ptx) {
    this.place = k.variable("u32", 0)
    this.parity = k.variable("u32", 0)
  }
  barrier(first: number): Shared {
    return { base: this.k.shl(this.place, 3), bytes: first }
  }
  next(): void {
    this.k.xor(this.parity, this.place, this.parity) // after the second place the first begins again
    this.k.xor(this.place, 1, this.place)
  }
}

/** A head of a sequence: what it begins with. */
interface Item {
  readonly b: U32
  readonly h: U32
  /** Positions before the new one, and blocks of keys with it: 0 where nothing is asked. */
  readonly length: U32
  readonly blocks: U32
}

/** What else a part of the block needs of a head: `ask` has it loaded, and `take` keeps it, as the next head's is asked for before this one's work begins. */
interface Ahead {
  ask(b: U32, h: U32, isThere: Predicate): void
  take(): void
}

/** `body(item, next)` for this block's heads. */
export function eachItem(f: Frame, ahead: Ahead, body: (item: Item, next: Item) => void): void {
  const { k, H, items, lengths, counts } = f
  const make = () => ({ b: k.register("u32"), h: k.register("u32"), length: k.register("u32"), blocks: k.register("u32") })
  const [now, next, count] = [make(), make(), k.register("u32")]
  const at = k.special("%ctaid.x")
  const stride = k.special("%nctaid.x")
  const ask = () => {
    const isThere = k.compare("lt", at, items)
    k.copy(next.b, k.div(at, H))
    k.sub(at, k.mul(next.b, H), next.h)
    for (const [to, from] of [[next.length, lengths] as const, [count, counts] as const]) {
      k.copy(to, 0)
      const address = k.madWide(next.b, 4, from)
      k.when(isThere, () => k.load("u32", [to], address))
    }
    ahead.ask(next.b, next.h, isThere)
  }
  const blocksOf = ({ length }: Item): U32 => k.select(k.compare("gt", count, 0), k.add(k.shr(length, 6), 1), 0, "u32")
  ask()
  k.while(
    "HEAD",
    () => k.compare("lt", at, items),
    () => {
      k.copy(now.b, next.b)
      k.copy(now.h, next.h)
      k.copy(now.length, next.length)
      k.copy(now.blocks, blocksOf(next))
      ahead.take()
      k.add(at, stride, at)
      ask()
      body(now, {
        ...next,
        get blocks() {
          return blocksOf(next)
        },
      })
    },
  )
}

/** Arrives after `last` has come, by one lane: the assembler does not know that `none` is 0, and so cannot arrive earlier. */
export function giveBack({ k, lane, none }: Pick<Frame, "k" | "lane" | "none">, { empty }: Spot, last: U32): void {
  const base = k.add(empty.base, k.and(last, none))
  k.syncWarp()
  const isFirst = k.compare("eq", lane, 0)
  k.when(isFirst, () => k.arrive({ base, bytes: empty.bytes }))
}
