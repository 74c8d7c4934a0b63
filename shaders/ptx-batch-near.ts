/** A half page of each warp, of the next layer, on its way to shared memory while products run: what a block has room for beyond 48 KiB. */
import type { Predicate, Ptx, U32 } from "../src/ptx.ts"
import { addressOf, CHUNK, type Frame, ROW, WARPS } from "./ptx-batch-frame.ts"
import type { Share } from "./ptx-batch-share.ts"

/** Keys or values of a half page. */
const HALF = CHUNK * ROW
/** Requests come in so many turns, each behind the weights of a product: together they would hold these up. */
const TURNS = 3
/** Bit of the frame's parity that a layer turns over. */
const BIT = 4

/** Barriers of the warps, each with one arrival. */
export function beginNear(k: Ptx, places: Frame["places"]): void {
  for (let warp = 0; warp < WARPS; warp++) k.barrierInit(places.near + 8 * warp, 1)
}

/** Whether the warp's first half page is one that no new position belongs to, and whole. */
const isWhole = ({ k }: Frame, room: U32): Predicate => k.compare("eq", room, CHUNK)

/** Has the first half pages of a turn's warps brought, or of all; nobody reads what lies there any more. */
export function bringNear(f: Frame, { row, room }: Share, layersOn: number, turn?: number, when?: Predicate): void {
  const { k, places, lane, warp } = f
  if (places.near === 0) return
  const turns = turn === undefined ? [] : [k.compare("eq", k.rem(warp, TURNS), turn)]
  const isWanted = [isWhole(f, room), k.compare("eq", lane, 0), ...turns, ...(when === undefined ? [] : [when])].reduce((a, b) =>
    k.both(a, b),
  )
  k.if(isWanted, () => {
    const full = { base: k.shl(warp, 3), bytes: places.near }
    k.fenceCopies()
    k.expect(full, 2 * HALF)
    const to = k.mul(warp, 2 * HALF)
    for (const [i, pages] of (["kPages", "vPages"] as const).entries())
      k.copyBytes({ base: to, bytes: places.nearRows + i * HALF }, k.madWide(row, ROW, addressOf(f, pages, layersOn)), HALF, full)
  })
}

/** 1 where the warp's first half page is there, else 0. */
export function countNear(f: Frame, { room }: Share): U32 {
  const { k, places } = f
  if (places.near === 0) return k.variable("u32", 0)
  return k.select(isWhole(f, k.pick(room, 0)), 1, 0, "u32")
}

/** Waits for it. */
export function awaitNear({ k, places, warp, parity }: Frame): void {
  k.wait({ base: k.shl(warp, 3), bytes: places.near }, k.and(k.shr(parity, BIT), 1))
  k.xor(parity, 1 << BIT, parity)
}

/** Four neighbouring keys or values of it, 16 bytes for each lane. */
export function loadNear({ k, places, warp, lane }: Frame, what: "keys" | "values", step: number): U32[] {
  const words = k.registers("u32", 4)
  const base = k.mad(warp, 2 * HALF, k.shl(lane, 4))
  k.loadSharedWords(words, { base, bytes: places.nearRows + (what === "keys" ? 0 : HALF) + step })
  return words
}
