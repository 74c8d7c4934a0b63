/** Cached keys and values on their way to the registers of the kernel for many sequences: half a page by a warp at a time. */
import type { U32, U64 } from "../src/ptx.ts"
import { addressOf, CHUNK, type Frame, ROW, range } from "./ptx-batch-frame.ts"
import { FRESH, type Share } from "./ptx-batch-share.ts"

/** Keys that an instruction of a warp loads, and instructions per half page. */
export const KEYS = 4
const LOADS = CHUNK / KEYS
/** Bytes of an instruction's keys. */
const STEP = KEYS * ROW

/** Keys and values of a chunk on their way: registers that are loaded again as soon as they have been used. */
export class Pieces {
  readonly keys: readonly (readonly U32[])[]
  readonly values: readonly (readonly U32[])[]
  readonly #room: U32
  readonly #addresses: Readonly<Record<"keys" | "values", U64>>
  readonly #at: Readonly<Record<"keys" | "values", U64>>
  readonly #group: U32

  constructor(
    readonly f: Frame,
    readonly share: Share,
  ) {
    const { k, lane } = f
    const make = () => range(LOADS).map(() => k.registers("u32", 4))
    this.keys = make()
    this.values = make()
    this.#addresses = { keys: addressOf(f, "kPages"), values: addressOf(f, "vPages") }
    this.#at = { keys: k.register("u64"), values: k.register("u64") }
    this.#room = k.register("u32")
    this.#group = k.shr(lane, 3)
  }

  /** From here on the chunk number `index` of the warp is meant. */
  aim(index: U32): void {
    const { k, lane } = this.f
    k.copy(this.#room, k.pick(this.share.room, index))
    const offset = k.madWide(k.pick(this.share.row, index), ROW, k.long(k.shl(lane, 4)))
    for (const what of ["keys", "values"] as const) k.addLong(this.#addresses[what], offset, this.#at[what])
  }

  /** What lies behind the newest position may be anything, also no number: it is not asked for. Without `fresh` the newest is not either. */
  load(what: "keys" | "values", fresh: "fresh" | ""): void {
    const { k } = this.f
    const positions = k.and(this.#room, FRESH - 1)
    const limit = fresh === "fresh" ? positions : k.sub(positions, k.shr(this.#room, 8))
    this[what].forEach((words, j) => {
      const isThere = k.compare("lt", k.add(this.#group, KEYS * j), limit)
      for (const word of words) k.copy(word, 0)
      k.when(isThere, () => k.loadOnce(words, this.#at[what], STEP * j))
    })
  }

  /** The newest position, where the chunk has it. */
  loadFresh(): void {
    const { k } = this.f
    k.if(k.compare("ge", this.#room, FRESH), () => {
      const newest = k.sub(this.#room, FRESH + 1)
      for (const what of ["keys", "values"] as const)
        this[what].forEach((words, j) => {
          const isNewest = k.compare("eq", k.add(this.#group, KEYS * j), newest)
          k.when(isNewest, () => k.loadOnce(words, this.#at[what], STEP * j))
        })
    })
  }
}
