/** The ring of units of Hopper's attention: one lane fills it by tensor maps, all warps that multiply read every unit and give it back. */
import type { Operand, Predicate, Ptx, U32, U64 } from "../src/ptx.ts"
import { PITCH, PLACES, STATISTICS, UNIT } from "./ptx-attention-tile.ts"

/** Where a warp is in the ring: number of the slot, and the parity to wait for. */
export interface Position {
  readonly slot: U32
  readonly parity: U32
  readonly slots: number
}

/** The first slot; who fills it waits for parity 1, which a new barrier has behind it. */
export function begin(k: Ptx, parity: 0 | 1, slots: number): Position {
  return { slot: k.variable("u32", 0), parity: k.variable("u32", parity), slots }
}

/** Goes on by a unit. */
function advance(k: Ptx, { slot, parity, slots }: Position): void {
  k.add(slot, 1, slot)
  const isRound = k.compare("eq", slot, slots)
  k.when(isRound, () => {
    k.copy(slot, 0)
    k.xor(parity, 1, parity)
  })
}

/** Thread 0, before the block's barrier: one arrival and all bytes fill a slot, a lane of each of `warps` empties it. */
export function initRing(k: Ptx, slots: number, warps: number): void {
  for (let i = 0; i < slots; i++) {
    k.barrierInit(PLACES.full + 8 * i, 1)
    k.barrierInit(PLACES.empty + 8 * i, warps)
  }
  k.fenceBarrierInit()
}

/** A unit's memory and barriers. */
export interface Slot {
  readonly memory: U32
  readonly barriers: U32
}

/** A register of its own for each address, since the position goes on. */
const slotOf = (k: Ptx, { slot }: Position): Slot => ({
  memory: k.mad(slot, PITCH, PLACES.slots),
  barriers: k.shl(slot, 3),
})

/** Brings the unit at `coordinates` of a map, and 512 bytes from `statistics` on. */
export function bring(k: Ptx, at: Position, map: U64, coordinates: readonly Operand<"u32">[], statistics?: U64): void {
  const slot = slotOf(k, at)
  const full = { base: slot.barriers, bytes: PLACES.full }
  k.wait({ base: slot.barriers, bytes: PLACES.empty }, at.parity)
  k.expect(full, UNIT + (statistics === undefined ? 0 : STATISTICS))
  k.copyBox({ base: slot.memory, bytes: 0 }, map, full, coordinates)
  if (statistics !== undefined) k.copyBytes({ base: slot.memory, bytes: UNIT }, statistics, STATISTICS, full)
  advance(k, at)
}

/** A unit's place in registers that change, and what puts another there. */
export const heldSlot = (k: Ptx): Slot => {
  const [memory, barriers] = k.registers("u32", 2)
  return { memory: memory!, barriers: barriers! }
}
export function hold(k: Ptx, to: Slot, from: Slot): void {
  for (const of of ["memory", "barriers"] as const) k.copy(to[of], from[of])
}

/** Waits for the next unit. */
export function take(k: Ptx, at: Position): Slot {
  const slot = slotOf(k, at)
  k.wait({ base: slot.barriers, bytes: PLACES.full }, at.parity)
  advance(k, at)
  return slot
}

/** The warp has read the unit. */
export function giveBack(k: Ptx, slot: Pick<Slot, "barriers">, isFirstLane: Predicate): void {
  k.syncWarp()
  k.when(isFirstLane, () => k.arrive({ base: slot.barriers, bytes: PLACES.empty }))
}

/** Passes `count` units that this warpgroup does not need. */
export function pass(k: Ptx, at: Position, count: number, isFirstLane: Predicate): void {
  for (let i = 0; i < count; i++) giveBack(k, take(k, at), isFirstLane)
}

/** Passes as many units as a register says. */
export function passAll(k: Ptx, at: Position, count: U32, isFirstLane: Predicate): void {
  const left = k.variable("u32", count)
  k.while(
    "PASS",
    () => k.compare("ne", left, 0),
    () => {
      pass(k, at, 1, isFirstLane)
      k.sub(left, 1, left)
    },
  )
}
