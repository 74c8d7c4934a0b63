/** What the kernels of Hopper's attention share: who does what, products of fragments with units, weights, masks, dropout, stores. */
import type { F32, Predicate, Ptx, U32, U64 } from "../src/ptx.ts"
import { bring, giveBack, initRing, type Position, pass, type Slot, take } from "./ptx-attention-ring.ts"
import {
  type ALONG_COLUMNS,
  type ALONG_ROWS,
  type AttentionTile,
  COLUMNS,
  partsOf,
  ROWS,
  registersOf,
  slotsOf,
} from "./ptx-attention-tile.ts"
import type { Turn } from "./ptx-attention-turn.ts"
import { quadOf, transposeQuad } from "./ptx-quad.ts"

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** What every warp that multiplies knows. */
export interface Role {
  readonly tile: AttentionTile
  /** Number of the warpgroup, of the warp in it, of the lane in that. */
  readonly warpgroup: U32
  /** Which 64 positions of a turn are its: as those of a turn see more and fewer units, they go round from turn to turn. */
  readonly rank: U32
  readonly warp: U32
  readonly lane: U32
  /** lane mod 4, times 2: the first column of the lane's pairs. */
  readonly column: U32
  /** 16·warp + lane div 4: the lane's first row of the warpgroup's 64; its second is 8 further. */
  readonly row: U32
  readonly isFirstLane: Predicate
  readonly always: Predicate
}

/** Splits the block: the last warpgroup's first lane runs `produce`, the others `consume`. */
export function roles(k: Ptx, tile: AttentionTile, produce: () => void, consume: (role: Role) => void): void {
  const thread = k.special("%tid.x")
  const warpgroup = k.uniform(k.shr(thread, 7))
  const warp = k.uniform(k.and(k.shr(thread, 5), 3))
  const lane = k.and(thread, 31)
  const registers = registersOf(tile)
  k.if(k.compare("eq", thread, 0), () => initRing(k, slotsOf(tile), 4 * tile.groups))
  k.syncBlock()
  k.if(
    k.compare("eq", warpgroup, tile.groups),
    () => {
      k.comment("---- the warpgroup that brings: one lane of it")
      k.registerBudget("dec", registers.producer)
      k.if(k.compare("eq", k.and(thread, 127), 0), produce)
    },
    () => {
      k.comment("---- the warpgroups that multiply")
      k.registerBudget("inc", registers.consumer)
      consume({
        tile,
        warpgroup,
        rank: k.variable("u32", warpgroup),
        warp,
        lane,
        column: k.shl(k.and(lane, 3), 1),
        row: k.add(k.shl(warp, 4), k.shr(lane, 2)),
        isFirstLane: k.compare("eq", lane, 0),
        always: k.compare("eq", k.variable("u32", 0), 0),
      })
    },
  )
  k.emit("ret")
}

/** After a turn: the next 64 positions in the next. */
export function endTurn(k: Ptx, { tile, rank }: Role): void {
  k.add(rank, 1, rank)
  k.when(k.compare("eq", rank, tile.groups), () => k.copy(rank, 0))
}

/** Positions of a warpgroup's own rows come as units, those of the first 64 first: of each of `wholes`, a head's width. */
export function bringRows(
  k: Ptx,
  tile: AttentionTile,
  at: Position,
  { first, b }: Turn,
  wholes: readonly { readonly map: U64; readonly column: U32 }[],
): void {
  for (const group of range(tile.groups)) {
    const position = k.add(first, ROWS * group)
    for (const { map, column } of wholes)
      for (const part of range(partsOf(tile))) bring(k, at, map, [k.add(column, COLUMNS * part), position, b])
  }
}

/**
 * The warpgroup's own rows as left factors (64, columns of a head), one after another: for every 16 columns four registers. The other warpgroups' units
 * are passed. Its own go back at once: the fence holds the copy that comes next until they have been read.
 */
export function takeRows(k: Ptx, role: Role, at: Position, wholes: readonly (readonly (readonly U32[])[])[]): void {
  const { tile, rank, warp, lane, isFirstLane } = role
  const line = k.add(k.shl(warp, 4), k.and(lane, 15))
  const start = k.shl(line, 7)
  const turn = k.xor(k.shr(lane, 4), k.and(lane, 7))
  const each = COLUMNS / 16
  for (const group of range(tile.groups))
    k.if(
      k.compare("eq", rank, group),
      () => {
        const slots = wholes.flatMap((whole) =>
          range(partsOf(tile)).map((part) => {
            const slot = take(k, at)
            const begin = k.add(slot.memory, start)
            range(each).forEach((step) => {
              const base = k.add(begin, k.shl(k.xor(turn, 2 * step), 4))
              k.loadMatrix(whole[each * part + step]!, { base, bytes: 0 }, false)
            })
            return slot
          }),
        )
        k.fenceCopies()
        for (const slot of slots) giveBack(k, slot, isFirstLane)
      },
      () => pass(k, at, wholes.length * partsOf(tile), isFirstLane),
    )
}

/**
 * Call it in a loop where no product is under way, for left factors that the loop only reads: ptxas (12.8, 13.0, and the driver's) gives the registers
 * of those to other left factors of the loop, and the next turn multiplies what is there. What the loop writes keeps its place; T is never 0.
 */
export function keepApart(k: Ptx, left: readonly (readonly U32[])[], T: U32): void {
  k.if(k.compare("eq", T, 0), () => left.flat().forEach((register) => k.copy(register, 0)))
}

/** A jump that is never taken, as T is never 0: without it ptxas 13.0 has a unit's products wait for each other (C7514), and says so when it builds. */
export function settle(k: Ptx, T: U32): void {
  k.if(k.compare("eq", T, 0), () => {
    const never = k.label("NEVER")
    k.place(never)
    k.jump(never)
  })
}

/** sum ← left · units (or + where `adds`), 16 of the summed extent at a time. */
export function multiply(
  k: Ptx,
  sum: readonly F32[],
  left: readonly (readonly U32[])[],
  units: readonly Slot[],
  { zero, next, isAlongN }: typeof ALONG_COLUMNS | typeof ALONG_ROWS,
  adds: Predicate,
  always: Predicate,
): void {
  const each = left.length / units.length
  units.forEach((unit, u) => {
    const first = k.addLong(k.long(k.shr(unit.memory, 4)), zero)
    for (const step of range(each)) {
      const descriptor = step === 0 ? first : k.addLong(first, next * BigInt(step))
      k.multiply(sum, left[u * each + step]!, descriptor, u === 0 && step === 0 ? adds : always, isAlongN)
    }
  })
}

/** Sums (64, 64) as left factors: for every 16 columns four registers of bf16 pairs. */
export const asLeft = (k: Ptx, sums: readonly F32[], into: readonly (readonly U32[])[]): void =>
  into.forEach((to, step) => to.forEach((register, i) => k.packBf16(sums[8 * step + 2 * i]!, sums[8 * step + 2 * i + 1]!, register)))

/** Place i of the lane's sums (64, 64): which of its two rows, and its column less `column`. */
export const rowAt = (i: number): 0 | 1 => ((i >> 1) & 1) as 0 | 1
export const columnAt = (i: number): number => 8 * (i >> 2) + (i & 1)

/** Less than any score. */
const LOWEST = -1.7e38
/** Scores of the diagonal unit: LOWEST where the key comes after the query. `rows` are the queries', else the columns are. */
export function maskDiagonal(k: Ptx, { row, column }: Role, scores: readonly F32[], rows: "queries" | "keys"): void {
  // 8 more, so that nothing is below 0
  const bounds = [0, 8].map((more) => k.sub(k.add(row, more + 8), column))
  scores.forEach((score, i) => {
    const p = k.compare(rows === "queries" ? "lt" : "gt", bounds[rowAt(i)]!, columnAt(i) + 8)
    k.select(p, LOWEST, score, "f32", score)
  })
}

/** Σ over the four lanes of a row. */
export function quadSum(k: Ptx, x: F32): F32 {
  let sum = x
  for (const mask of [1, 2]) sum = k.addFloat(sum, k.exchangeFloat(sum, mask))
  return sum
}

/** Writes sums (64, columns) · factors as bf16 to the rows whose address `row` gives, where `has`: 16 bytes at once, for which the quad exchanges. */
export function storeRows(
  k: Ptx,
  { lane, column }: Role,
  sums: readonly (readonly F32[])[],
  factors: readonly [F32, F32],
  row: (which: 0 | 1) => { readonly address: U64; readonly has: Predicate },
): void {
  const quad = quadOf(k, lane)
  for (const which of [0, 1] as const) {
    const { address, has } = row(which)
    const start = k.addLong(address, k.long(k.shl(column, 3)))
    sums.forEach((part, p) => {
      for (const half of range(2)) {
        const words = range(4).map((j) => {
          const [low, high] = [0, 1].map((e) => k.mulFloat(part[16 * half + 4 * j + 2 * which + e]!, factors[which]))
          return k.packBf16(low!, high!)
        })
        const wide = transposeQuad(k, quad, words)
        k.when(has, () => k.store("u32", start, 2 * (COLUMNS * p + 32 * half), wide))
      }
    })
  }
}
