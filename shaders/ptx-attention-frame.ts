/** What the kernels of Hopper's attention share: who does what, products of fragments with units, weights, masks, dropout, stores. */
import type { F32, Predicate, Ptx, U32, U64 } from "../src/ptx.ts"
import { initRing, type Slot } from "./ptx-attention-ring.ts"
import { type ALONG_COLUMNS, type ALONG_ROWS, type AttentionTile, COLUMNS, registersOf, rowsOf } from "./ptx-attention-tile.ts"

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** What every warp that multiplies knows. */
export interface Role {
  readonly tile: AttentionTile
  /** Number of the warpgroup, of the warp in it, of the lane in that. */
  readonly warpgroup: U32
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
  k.if(k.compare("eq", thread, 0), () => initRing(k, 4 * tile.groups))
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

/** First position of the block when late ones, which see most, come first; and of the warpgroup. */
export const lateFirst = (k: Ptx, tile: AttentionTile): U32 =>
  k.mul(k.sub(k.sub(k.special("%nctaid.x"), 1), k.special("%ctaid.x")), rowsOf(tile))

/**
 * Left factors (64, columns of a head) straight from memory: for every 16 columns four registers. `row` gives the address of the head's first
 * column at one of the lane's two rows.
 */
export function fragments(k: Ptx, { tile, column }: Role, row: (which: 0 | 1) => U64): readonly (readonly U32[])[] {
  const starts = ([0, 1] as const).map((which) => k.addLong(row(which), k.long(k.shl(column, 1))))
  return range(tile.D / 16).map((step) => {
    const to = k.registers("u32", 4)
    to.forEach((register, i) => k.load("u32", [register], starts[i & 1]!, 32 * step + 16 * (i >> 1)))
    return to
  })
}

/**
 * Call it in a loop where no product is under way, for left factors that the loop only reads: ptxas (12.8, 13.0, and the driver's) gives the registers
 * of those to other left factors of the loop, and the next turn multiplies what is there. What the loop writes keeps its place; T is never 0.
 */
export function keepApart(k: Ptx, left: readonly (readonly U32[])[], T: U32): void {
  k.if(k.compare("eq", T, 0), () => left.flat().forEach((register) => k.copy(register, 0)))
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

/** Writes sums (64, columns) · factors as bf16 to the rows whose address `row` gives, where `has`. */
export function storeRows(
  k: Ptx,
  { column }: Role,
  sums: readonly (readonly F32[])[],
  factors: readonly [F32, F32],
  row: (which: 0 | 1) => { readonly address: U64; readonly has: Predicate },
): void {
  for (const which of [0, 1] as const) {
    const { address, has } = row(which)
    const start = k.addLong(address, k.long(k.shl(column, 1)))
    sums.forEach((part, p) => {
      for (const block of range(part.length / 4)) {
        const [low, high] = [0, 1].map((e) => k.mulFloat(part[4 * block + 2 * which + e]!, factors[which]))
        const pair = k.packBf16(low!, high!)
        k.when(has, () => k.store("u32", start, 2 * (COLUMNS * p + 8 * block), [pair]))
      }
    })
  }
}
