/** The end of a Hopper matrix product: from a thread's sums through bias, activation, factor and addend to rows of c. */
import type { F32, Predicate, Ptx, U32, U64 } from "../src/ptx.ts"
import { type PtxFunction, ptxActivations } from "./ptx-activation.ts"
import type { Finish, Frame, Place, PtxActivation, Sums } from "./ptx-gemm-frame.ts"
import { CHUNK_COLUMNS } from "./ptx-gemm-tile.ts"
import { endWhole, PIECE_COLUMNS, type Piece, piecesOf } from "./ptx-gemm-whole.ts"
import { quadOf, transposeQuad } from "./ptx-quad.ts"

/** Addresses, and the numbers of the push and live blocks. */
export interface EpilogueMemory {
  readonly bias: U64
  readonly kept: U64
  readonly addend: U64
  readonly c: U64
  /** Address of beta. */
  readonly params: U64
  readonly ldc: U32
  readonly scale: F32
}

export const finishName = (finish: Finish): string => (finish === "none" ? "" : `_${finish}`)

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Items whose sums' registers serve others, once they are stored. */
const FREED = 4

interface StoredRow {
  readonly address: U64
  readonly values: readonly F32[]
  readonly isThere: Predicate
  /** Pairs that the result's are multiplied by. */
  readonly factors?: readonly U32[]
}

/** What a thread knows of its part of a tile. */
interface Part {
  /** Address of its first element in c, in the upper or lower row of a unit. */
  address(unit: number, h: 0 | 1): U64
  /** How many rows and columns there are from its first on; columns also where it stores, which differs after an exchange. */
  readonly rowsLeft: U32
  readonly columnsLeft: U32
  readonly storeLeft: U32
  readonly bias: U64
}

/** Returns what is done before the first product of a tile, and what writes its sums. */
export function epilogueOf(k: Ptx, frame: Frame, warpgroup: U32, memory: EpilogueMemory) {
  const { layout, out, tile, finish } = frame.gemm
  const isPermuted = layout === "ntp"
  const size = out === "f32" ? 4 : 2
  const pieces = piecesOf(isPermuted)
  const exchanges = !isPermuted && out === "bf16"
  const [keepsSlope, isFactor] = [finish.endsWith("_slope"), finish === "factor"]
  const activation = ptxActivations[finish.replace("_slope", "") as PtxActivation] as PtxFunction | undefined
  const hasBias = activation !== undefined || finish === "bias" || finish === "add"
  k.comment("rows of a thread: 16*warp + lane div 4, and 8 below; its columns begin at 2 or, permuted, 8 times lane mod 4")
  const quad = k.and(frame.lane, 3)
  const warpRow = k.add(k.mul(warpgroup, 64 * tile.units), k.shl(frame.warp, 4))
  const row = k.add(warpRow, k.shr(frame.lane, 2))
  const column = k.shl(quad, isPermuted ? 3 : 1)
  const storeColumn = k.shl(quad, 3)
  const lanes = quadOf(k, quad)
  const withBias = k.compare("ne", memory.bias, 0)
  if (isFactor && !exchanges) throw new TypeError(`ptx gemm: ${finish} is there for nn in bf16 only`)
  /** From an element of c to what is kept (where a lane reads a factor before the exchange), and to that of the addend. */
  const [toKept, toAddend] = [k.register("u64"), k.register("u64")]
  if (keepsSlope || isFactor) k.emit("sub.u64", toKept, memory.kept, memory.c)
  const toMoved = k.madWide(quad, 6 * size, 0)
  if (finish === "add") k.emit("sub.u64", toAddend, memory.addend, memory.c)
  const rowBytes = k.mul(memory.ldc, size)
  const beta = finish === "add" ? k.register("f32") : undefined
  if (beta !== undefined) k.load("f32", [beta], memory.params)

  const remaining = (all: U32, from: U32) => k.sub(all, k.min(from, all))
  const partOf = (place: Place): Part => {
    const [firstRow, firstColumn] = [k.add(place.row, row), k.add(place.column, column)]
    // Rows of one split after another's: the sums of splits are c (splits, M, ldc).
    const stored = k.madWide(place.split, frame.M, k.long(firstRow))
    const first = k.register("u64")
    k.emit("mad.lo.u64", first, stored, k.long(rowBytes), k.madWide(firstColumn, size, memory.c))
    return {
      address: (unit, h) => (unit + h === 0 ? first : k.madWide(rowBytes, 64 * unit + 8 * h, first)),
      rowsLeft: remaining(frame.M, firstRow),
      columnsLeft: remaining(frame.N, firstColumn),
      storeLeft: remaining(frame.N, exchanges ? k.add(place.column, storeColumn) : firstColumn),
      bias: k.madWide(firstColumn, 4, memory.bias),
    }
  }

  /** The values of a piece as f32; 0 where `hasRow` does not hold or the column is none of c. */
  const load = (address: U64, { columns }: Piece, first: number, hasRow: Predicate, part: Part): readonly F32[] => {
    const together = !isPermuted ? 2 : out === "f32" ? 4 : 8 // neighbours in memory
    return range(columns.length / together).flatMap((i) => {
      const column = first + columns[i * together]! - columns[0]!
      const p = k.both(hasRow, k.compare("gt", part.columnsLeft, column))
      if (out === "f32") {
        const to = range(together).map(() => k.variable("f32", 0))
        k.when(p, () => k.load("f32", to, address, column * size))
        return to
      }
      const to = range(together / 2).map(() => k.variable("u32", 0))
      k.when(p, () => k.load("u32", to, address, column * size))
      return to.flatMap((pair) => [k.unpackBf16(pair, 0), k.unpackBf16(pair, 1)])
    })
  }

  /** Stores what lies in the columns from `first` on of two rows; beyond N, of which `columnsLeft` are left, nothing is written. */
  const store = (rows: readonly StoredRow[], first: number, columnsLeft: U32, part: Part): void => {
    const byte = first * size
    if (isPermuted) {
      for (const { address, values, isThere } of rows) {
        const words = range(4).map((i) => (out === "bf16" ? k.packBf16(values[2 * i]!, values[2 * i + 1]!) : undefined))
        if (out === "bf16") k.when(isThere, () => k.store("u32", address, byte, words as U32[]))
        else for (const half of [0, 4]) k.when(isThere, () => k.store("f32", address, byte + 4 * half, values.slice(half, half + 4)))
      }
      return
    }
    const [partly, end] = [k.label("PARTLY"), k.label("WRITTEN")]
    const isWhole = k.compare("ge", columnsLeft, first + PIECE_COLUMNS)
    if (out === "f32") {
      const pairs = rows.flatMap(({ address, values, isThere }) =>
        range(4).map((i) => ({ address, isThere, column: first + 8 * i, values: values.slice(2 * i, 2 * i + 2) })),
      )
      k.jump(partly, isWhole, false)
      for (const { address, isThere, column, values } of pairs) k.when(isThere, () => k.store("f32", address, 4 * column, values))
      k.jump(end)
      k.place(partly)
      for (const { address, isThere, column, values } of pairs)
        values.forEach((value, i) => {
          const p = k.both(isThere, k.compare("gt", part.storeLeft, column + i))
          k.when(p, () => k.store("f32", address, 4 * (column + i), [value]))
        })
      k.place(end)
      return
    }
    // The exchange moves this lane's columns from 2·c to 8·c.
    const moved = rows.map(({ address, values, isThere, factors }) => {
      const packed = range(4).map((i) => k.packBf16(values[2 * i]!, values[2 * i + 1]!))
      const words = transposeQuad(k, lanes, packed)
      return {
        address: k.addLong(address, toMoved),
        words: factors ? words.map((word, i) => k.mulBf16(word, factors[i]!)) : words,
        isThere,
      }
    })
    k.jump(partly, isWhole, false)
    for (const { address, words, isThere } of moved) k.when(isThere, () => k.store("u32", address, byte, words))
    k.jump(end)
    k.place(partly)
    for (const { address, words, isThere } of moved)
      range(8).forEach((i) => {
        const word = i % 2 === 0 ? words[i >> 1]! : k.shr(words[i >> 1]!, 16)
        const p = k.both(isThere, k.compare("gt", part.storeLeft, first + i))
        k.when(p, () => k.store("u16", address, byte + 2 * i, [word]))
      })
    k.place(end)
  }

  /** The biases of a piece's columns; 0 where there is none. */
  const biasesOf = (part: Part, { columns }: Piece, first: number): readonly F32[] => {
    const to = columns.map(() => k.variable("f32", 0))
    const together = isPermuted ? 4 : 1
    range(columns.length / together).forEach((i) => {
      const column = first + columns[i * together]! - columns[0]!
      const p = k.both(withBias, k.compare("gt", part.columnsLeft, column))
      k.when(p, () => k.load("f32", to.slice(i * together, (i + 1) * together), part.bias, 4 * column))
    })
    return to
  }

  const groups = range(tile.chunks).flatMap((chunk) =>
    pieces.map((piece) => ({ chunk, piece, first: CHUNK_COLUMNS * chunk + piece.columns[0]! })),
  )
  const items = groups.flatMap((group) => range(tile.units).map((unit) => ({ ...group, unit })))
  /** Of so many groups the biases are read before they are needed. */
  const groupsAhead = !hasBias || !isPermuted ? 0 : out === "bf16" && !keepsSlope ? 2 : 1
  const ROWS = [0, 1] as const
  const hasWhole = out === "bf16" && finish !== "add"

  const begin = (place: Place): void => {
    if (!isFactor) return
    k.comment("each lane asks for a row of factors, which is in the L2 cache when the last product is done")
    const mine = k.add(k.add(place.row, warpRow), k.add(k.and(frame.lane, 15), k.shl(k.shr(frame.lane, 4), 6)))
    const address = k.register("u64")
    k.emit("mad.lo.u64", address, k.long(mine), k.long(rowBytes), k.madWide(place.column, size, memory.kept))
    const left = remaining(frame.N, place.column)
    const isRow = k.compare("lt", mine, frame.M)
    const has = tile.units === 1 ? k.both(isRow, k.compare("lt", frame.lane, 16)) : isRow
    for (let column = 0; column < CHUNK_COLUMNS * tile.chunks; column += CHUNK_COLUMNS) {
      const p = k.both(has, k.compare("gt", left, column))
      k.when(p, () => k.prefetch(address, column * size))
    }
  }

  /** Factors of 8 columns from `first` on, where a lane stores them. */
  const factorsOf = (address: U64, first: number, isThere: Predicate, part: Part): readonly U32[] => {
    const to = range(4).map(() => k.variable("u32", 0))
    const from = k.addLong(k.addLong(address, toMoved), toKept)
    k.when(k.both(isThere, k.compare("gt", part.storeLeft, first)), () => k.load("u32", to, from, first * size))
    return to
  }

  /** The sums of a's rows, which the tiles of the first column know. */
  const storeRowSums = (rowSums: readonly (readonly F32[])[], place: Place, part: Part): void => {
    const isFirst = k.both(k.compare("eq", place.column, 0), k.compare("eq", quad, 0))
    const byte = k.madWide(k.sub(memory.ldc, 8), size, 0)
    const [isColumn, isApart] = [k.compare("eq", memory.kept, 0), k.compare("ne", memory.kept, 0)]
    const own = k.madWide(k.add(place.row, row), 4, memory.kept)
    rowSums.forEach((sum, unit) =>
      ROWS.forEach((h) => {
        const address = k.addLong(part.address(unit, h), byte)
        const p = k.both(isFirst, k.compare("gt", part.rowsLeft, 64 * unit + 8 * h))
        k.when(k.both(p, isColumn), () => k.store("f32", address, 0, [sum[2 * h]!]))
        k.when(k.both(p, isApart), () => k.store("f32", own, 4 * (64 * unit + 8 * h), [sum[2 * h]!]))
      }),
    )
  }

  const end = (sums: Sums, rowSums: readonly (readonly F32[])[], place: Place): void => {
    k.comment("---- epilogue")
    const part = partOf(place)
    if (rowSums.length > 0) storeRowSums(rowSums, place, part)
    const toEnd = remaining(frame.N, place.column)
    const [columnsLeft, stored] = [place.dealt === undefined ? toEnd : k.min(toEnd, place.dealt.width), k.label("STORED")]
    const warpRowsLeft = remaining(frame.M, k.add(place.row, warpRow))
    if (hasWhole) {
      const partly = k.label("PARTLY")
      k.jump(partly, k.compare("lt", warpRowsLeft, 64 * (tile.units - 1) + 16))
      if (isFactor) k.jump(partly, k.compare("lt", columnsLeft, CHUNK_COLUMNS * tile.chunks))
      else if (!isPermuted) k.jump(partly, k.compare("ne", k.and(columnsLeft, PIECE_COLUMNS - 1), 0))
      const addresses = range(tile.units).map((unit) =>
        ROWS.map((h) => (exchanges ? k.addLong(part.address(unit, h), toMoved) : part.address(unit, h))),
      )
      endWhole(k, frame, { sums, addresses, columnsLeft, stored, withBias, bias: part.bias, hasBias, toKept, lanes, activation })
      k.jump(stored)
      k.place(partly)
    }
    let biases: readonly F32[] | undefined
    const biasesAhead = groups.slice(0, groupsAhead).map(({ piece, first }) => biasesOf(part, piece, first))
    items.forEach(({ chunk, unit, piece, first }, i) => {
      if (unit === 0) {
        k.jump(stored, k.compare("le", columnsLeft, first))
        if (hasBias) biases = biasesAhead.shift() ?? biasesOf(part, piece, first)
        const next = groups[i / tile.units + groupsAhead]
        if (groupsAhead > 0 && next !== undefined) biasesAhead.push(biasesOf(part, next.piece, next.first))
      }
      const skip = k.label("ROWS")
      k.jump(skip, k.compare("le", warpRowsLeft, 64 * unit)) // all lanes or none, as an exchange needs all
      const rows = ROWS.map((h) => {
        const isThere = k.compare("gt", part.rowsLeft, 64 * unit + 8 * h)
        let values: readonly F32[] = piece.values.map((at) => sums[unit]![chunk]![at + 2 * h]!)
        if (finish === "add") values = values.map((one) => k.mulFloat(one, memory.scale))
        if (biases !== undefined) values = values.map((one, n) => k.addFloat(one, biases![n]!))
        const address = part.address(unit, h)
        return { isThere, values, address, ...(isFactor && { factors: factorsOf(address, first, isThere, part) }) }
      })
      const slopes: (readonly F32[])[] = []
      const finished = rows.map(({ isThere, values, address }) => {
        if (activation !== undefined && keepsSlope) {
          const both = values.map((one) => activation.both(k, one))
          slopes.push(both.map(({ slope }) => slope))
          return both.map(({ value }) => value)
        }
        if (activation !== undefined) return values.map((one) => activation.value(k, one))
        if (beta === undefined) return values
        const before = load(k.addLong(address, toAddend), piece, first, k.both(k.compare("ne", beta, 0), isThere), part)
        return values.map((one, n) => k.fma(before[n]!, beta, one))
      })
      const results = rows.map((row, h) => ({ ...row, values: finished[h]! }))
      store(results, first, columnsLeft, part)
      if (keepsSlope) {
        const kept = rows.map((row, h) => ({ ...row, address: k.addLong(row.address, toKept), values: slopes[h]! }))
        store(kept, first, columnsLeft, part)
      }
      k.place(skip)
    })
    k.place(stored)
    if (finish !== "none" && !(finish === "bias" && isPermuted)) {
      k.comment("the first sums hold nothing any more: their registers are free while others are finished")
      for (const { unit, chunk, piece } of items.slice(0, FREED)) {
        for (const at of piece.values) for (const h of ROWS) k.copy(sums[unit]![chunk]![at + 2 * h]!, 0)
      }
    }
    k.syncWarp()
  }
  return { begin, end }
}
