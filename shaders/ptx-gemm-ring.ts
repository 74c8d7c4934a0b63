/** Rings of places in shared memory that go round: the place and parity of each visit, counted in registers. */
import type { Operand, Ptx, Shared, U32, U64 } from "../src/ptx.ts"
import { PIECE } from "./ptx-gemm-tile.ts"

/** One visit of a place. */
export interface Slot {
  /** The place's barrier in the row of barriers that begins at `bytes`. */
  barrier(bytes: number): Shared
  /** The parity that this visit waits for. */
  readonly parity: U32
  /** Address of the place, `base` being that of place 0. */
  at(base: U32): Shared
  /** Descriptor of the place, `zero` being that of place 0. */
  descriptor(zero: bigint): U64
}

/** A position that registers count: 8·place (from `start` on, for one of several rings), 4096·place, parity. */
export interface Counter {
  readonly barrier: U32
  readonly memory: U32
  readonly parity: U32
}

export function counter(k: Ptx, parity: 0 | 1, start: Operand<"u32"> = 0): Counter {
  return { barrier: k.variable("u32", start), memory: k.variable("u32", 0), parity: k.variable("u32", parity) }
}

/** The position after this one; the parity turns where the ring begins again. */
export function next(k: Ptx, { memory, barrier, parity }: Counter, ring: number, start: Operand<"u32"> = 0): Counter {
  const isRound = k.compare("eq", memory, PIECE * (ring - 1))
  return {
    barrier: k.select(isRound, start, k.add(barrier, 8), "u32"),
    memory: k.select(isRound, 0, k.add(memory, PIECE), "u32"),
    parity: k.xor(parity, k.select(isRound, 1, 0, "u32")),
  }
}

/** Keeps a position for the next turn of a loop. */
export function keep(k: Ptx, to: Counter, from: Counter): void {
  k.copy(to.barrier, from.barrier)
  k.copy(to.memory, from.memory)
  k.copy(to.parity, from.parity)
}

/** The visit of a counted position. */
export const slotOf = (k: Ptx, { barrier, memory, parity }: Counter): Slot => ({
  barrier: (bytes) => ({ base: barrier, bytes }),
  parity,
  at: (base) => ({ base: k.add(base, memory), bytes: 0 }),
  descriptor: (zero) => k.addLong(k.long(k.shr(k.add(k.base, memory), 4)), zero),
})
