/** The end of a Hopper matrix product in bf16 where all rows of a warp are there: nothing is asked on the way but where the columns end. */
import type { F32, Predicate, Ptx, U32, U64 } from "../src/ptx.ts"
import type { PtxFunction } from "./ptx-activation.ts"
import type { Frame, Sums } from "./ptx-gemm-frame.ts"
import { type Quad, transposeQuad } from "./ptx-quad.ts"

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
const ROWS = [0, 1] as const
/**
 * Sums of one row that are finished together, 32 columns by a quad of lanes: their places in the accumulator of a 64 × 64 chunk (the upper of a lane's
 * two rows; the lower's are 2 further on), and their columns beyond the lane's first one.
 */
export interface Piece {
  readonly values: readonly number[]
  readonly columns: readonly number[]
}
export const PIECE_COLUMNS = 32

/**
 * Value 4·b + 2·h + e of lane c = lane mod 4 lies in column 8·b + 2·c + e; where b was permuted, 16·G + 4·j + 2·h + e lies in 32·G + 8·c + 2·j + e.
 */
export const piecesOf = (isPermuted: boolean): readonly Piece[] =>
  [0, 1].map((G) => ({
    values: range(4).flatMap((i) => [16 * G + 4 * i, 16 * G + 4 * i + 1]),
    columns: range(8).map((i) => PIECE_COLUMNS * G + (isPermuted ? i : 8 * (i >> 1) + (i & 1))),
  }))

/** Rows of factors of a lane that are read before the first is used, and at most ahead of the one that is. */
const [AHEAD_FIRST, AHEAD] = [4, 12]

interface Whole {
  readonly sums: Sums
  /** Of this lane's first column in its rows of c, by unit and half. */
  readonly addresses: readonly (readonly U64[])[]
  readonly columnsLeft: U32
  readonly stored: ReturnType<Ptx["label"]>
  readonly withBias: Predicate
  readonly bias: U64
  readonly hasBias: boolean
  readonly toKept: U64
  readonly lanes: Quad
  readonly activation: PtxFunction | undefined
}

/** Stores a tile; the columns that are left are a multiple of 32. */
export function endWhole(k: Ptx, frame: Frame, whole: Whole): void {
  const { layout, tile, finish } = frame.gemm
  const { sums, addresses, columnsLeft, stored, withBias, bias, hasBias, toKept, lanes, activation } = whole
  const isPermuted = layout === "ntp"
  const [keepsSlope, isFactor] = [finish.endsWith("_slope"), finish === "factor"]
  const pieces = piecesOf(isPermuted)
  const rows = range(2 * tile.chunks).flatMap((group) => range(tile.units).flatMap((unit) => ROWS.map((h) => ({ group, unit, h }))))
  const hasGroup = (group: number): Predicate | undefined => (group === 0 ? undefined : k.compare("gt", columnsLeft, PIECE_COLUMNS * group))

  /** Biases are read a group ahead. */
  const biasesOf = (group: number): readonly F32[] => {
    const columns = pieces[group & 1]!.columns.map((column) => column + PIECE_COLUMNS * (group - (group & 1)))
    const to = columns.map(() => k.variable("f32", 0))
    const together = isPermuted ? 4 : 2
    const has = hasGroup(group)
    const p = has === undefined ? withBias : k.both(withBias, has)
    for (let i = 0; i < columns.length; i += together) k.when(p, () => k.load("f32", to.slice(i, i + together), bias, 4 * columns[i]!))
    return to
  }
  /** Factors are read some rows ahead. */
  const factors: (readonly U32[])[] = []
  const ask = (until: number): void => {
    for (let i = factors.length; i < Math.min(until, rows.length); i++) {
      const { group, unit, h } = rows[i]!
      const to = k.registers("u32", 4)
      const from = k.addLong(addresses[unit]![h]!, toKept)
      k.load("u32", to, from, 2 * PIECE_COLUMNS * group, "wide")
      factors.push(to)
    }
  }

  const pack = (row: readonly F32[]): readonly U32[] => range(4).map((j) => k.packBf16(row[2 * j]!, row[2 * j + 1]!))

  if (isFactor) ask(AHEAD_FIRST)
  let [biases, next] = hasBias ? [biasesOf(0), biasesOf(1)] : []
  rows.forEach(({ group, unit, h }, i) => {
    if (i > 0 && i % (2 * tile.units) === 0) {
      // Also where it is never so: ptxas mixes only what it finds between two jumps.
      k.jump(stored, k.compare("le", columnsLeft, PIECE_COLUMNS * group))
      biases = next
      if (hasBias && group + 1 < 2 * tile.chunks) next = biasesOf(group + 1)
    }
    const summed = pieces[group & 1]!.values.map((at) => sums[unit]![group >> 1]![at + 2 * h]!)
    const values = biases === undefined ? summed : summed.map((one, n) => k.addFloat(one, biases![n]!))
    const address = addresses[unit]![h]!
    const store = (to: U64, words: readonly U32[]) => k.store("u32", to, 2 * PIECE_COLUMNS * group, words)
    if (activation !== undefined && keepsSlope) {
      const both = values.map((one) => activation.both(k, one))
      store(address, pack(both.map(({ value }) => value)))
      store(k.addLong(address, toKept), pack(both.map(({ slope }) => slope)))
      return
    }
    const words = pack(activation === undefined ? values : values.map((one) => activation.value(k, one)))
    const moved = isPermuted ? words : transposeQuad(k, lanes, words)
    // A factor multiplies what is rounded, so that both are pairs.
    store(address, isFactor ? moved.map((word, j) => k.mulBf16(word, factors[i]![j]!)) : moved)
    if (isFactor) ask(i + 1 + Math.min(AHEAD_FIRST + i, AHEAD))
  })
}
