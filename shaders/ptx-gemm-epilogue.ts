/** The end of a Hopper matrix product: from a thread's sums through bias, activation and addend to rows of c. */
import type { F32, Predicate, Ptx, U32, U64 } from "../src/ptx.ts"
import { ptxActivations } from "./ptx-activation.ts"
import type { Finish, Frame, Place, PtxActivation } from "./ptx-gemm-frame.ts"
import { CHUNK_COLUMNS } from "./ptx-gemm-tile.ts"

/** Addresses, and the numbers of the push and live blocks. */
export interface EpilogueMemory {
  readonly bias: U64
  readonly pre: U64
  readonly addend: U64
  readonly c: U64
  /** Address of beta. */
  readonly params: U64
  readonly ldc: U32
  readonly scale: F32
}

export const finishName = (finish: Finish): string => (finish === "none" ? "" : `_${finish}`)

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/**
 * Sums of one row that are finished together: their places in the accumulator of a 64 × 64 chunk (the upper of a lane's two rows; the lower's are
 * 2 further on), and their columns beyond the lane's first one.
 */
interface Piece {
  readonly values: readonly number[]
  readonly columns: readonly number[]
}

/** Value 4·b + 2·h + e of lane c = lane mod 4 lies in column 8·b + 2·c + e; where b was permuted, 16·G + 4·j + 2·h + e lies in 32·G + 8·c + 2·j + e. */
function piecesOf(isPermuted: boolean, out: "f32" | "bf16"): readonly Piece[] {
  const pairs = (from: number, count: number) => range(count).flatMap((i) => [4 * (from + i), 4 * (from + i) + 1])
  if (isPermuted) return [0, 1].map((G) => ({ values: pairs(4 * G, 4), columns: range(8).map((i) => 32 * G + i) }))
  const columns = (from: number, count: number) => range(count).flatMap((i) => [8 * (from + i), 8 * (from + i) + 1])
  const size = out === "f32" ? 1 : 4
  return range(8 / size).map((i) => ({ values: pairs(size * i, size), columns: columns(size * i, size) }))
}

/** What a thread knows of its part of a tile. */
interface Part {
  /** Address of its first element, for each of its rows, in c. */
  readonly rows: readonly (readonly U64[])[]
  /** How many rows and columns there are from its first on; columns also where it stores, which differs after an exchange. */
  readonly rowsLeft: U32
  readonly columnsLeft: U32
  readonly storeLeft: U32
  readonly bias: U64
}

/** Returns what writes the sums of a tile. */
export function epilogueOf(k: Ptx, frame: Frame, warpgroup: U32, memory: EpilogueMemory) {
  const { layout, out, tile, finish } = frame.gemm
  const isPermuted = layout === "ntp"
  const size = out === "f32" ? 4 : 2
  const pieces = piecesOf(isPermuted, out)
  const exchanges = !isPermuted && out === "bf16"
  const [isActivation, isDerivative] = [finish in ptxActivations, finish.startsWith("d_")]
  const hasBias = isActivation || finish === "bias" || finish === "add"
  k.comment("rows of a thread: 16*warp + lane div 4, and 8 below; its columns begin at 2 or, permuted, 8 times lane mod 4")
  const quad = k.and(frame.lane, 3)
  const warpRow = k.add(k.mul(warpgroup, 64 * tile.units), k.shl(frame.warp, 4))
  const row = k.add(warpRow, k.shr(frame.lane, 2))
  const column = k.shl(quad, isPermuted ? 3 : 1)
  const storeColumn = k.shl(quad, 3)
  const [isOdd, isUpper] = [k.compare("ne", k.and(quad, 1), 0), k.compare("ne", k.and(quad, 2), 0)]
  const [withBias, withPre] = [k.compare("ne", memory.bias, 0), k.compare("ne", memory.pre, 0)]
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
    const below = (rows: number) => k.madWide(rowBytes, rows, first)
    return {
      rows: range(tile.units).map((unit) => [0, 8].map((h) => (unit + h === 0 ? first : below(64 * unit + h)))),
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

  /** 4 × 4 words of a quad of lanes: lane t's word j becomes lane j's word t. */
  const transpose = (words: readonly U32[]): readonly U32[] => {
    const swap = (a: U32, b: U32, p: Predicate, mask: number): [U32, U32] => {
      const other = k.exchange(k.select(p, a, b, "u32"), mask)
      return [k.select(p, other, a, "u32"), k.select(p, b, other, "u32")]
    }
    const [a, b, c, d] = words as [U32, U32, U32, U32]
    const [[a1, b1], [c1, d1]] = [swap(a, b, isOdd, 1), swap(c, d, isOdd, 1)]
    const [[a2, c2], [b2, d2]] = [swap(a1, c1, isUpper, 2), swap(b1, d1, isUpper, 2)]
    return [a2, b2, c2, d2]
  }

  /** Stores a piece that begins at column `first`; beyond N nothing is written. */
  const store = (address: U64, values: readonly F32[], first: number, hasRow: Predicate, part: Part): void => {
    const byte = first * size
    if (isPermuted) {
      const p = k.both(hasRow, k.compare("gt", part.storeLeft, first))
      if (out === "bf16") {
        const words = range(4).map((i) => k.packBf16(values[2 * i]!, values[2 * i + 1]!))
        k.when(p, () => k.store("u32", address, byte, words))
      } else for (const half of [0, 4]) k.when(p, () => k.store("f32", address, byte + 4 * half, values.slice(half, half + 4)))
      return
    }
    if (out === "f32") {
      const [one, two] = [0, 1].map((i) => k.both(hasRow, k.compare("gt", part.storeLeft, first + i))) as [Predicate, Predicate]
      k.when(two, () => k.store("f32", address, byte, values))
      const only = k.register("pred")
      k.emit("xor.pred", only, one, two)
      k.when(only, () => k.store("f32", address, byte, values.slice(0, 1)))
      return
    }
    const words = transpose(range(4).map((i) => k.packBf16(values[2 * i]!, values[2 * i + 1]!)))
    const [all, some] = [7, 0].map((i) => k.both(hasRow, k.compare("gt", part.storeLeft, first + i))) as [Predicate, Predicate]
    // The exchange moved this lane's columns from 2·c to 8·c.
    const moved = k.madWide(quad, 6 * size, address)
    k.when(all, () => k.store("u32", moved, byte, words))
    const [edge, end] = [k.register("pred"), k.label("WHOLE")]
    k.emit("xor.pred", edge, all, some)
    k.jump(end, edge, false)
    range(7).forEach((i) => {
      const word = i % 2 === 0 ? words[i >> 1]! : k.shr(words[i >> 1]!, 16)
      k.when(k.compare("gt", part.storeLeft, first + i), () => k.store("u16", moved, byte + 2 * i, [word]))
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

  /** Address in another matrix of c's shape. */
  const beside = (address: U64, other: U64): U64 => {
    const offset = k.register("u64")
    k.emit("sub.u64", offset, address, memory.c)
    return k.addLong(offset, other)
  }

  return (sums: readonly (readonly (readonly F32[])[])[], place: Place): void => {
    k.comment("---- epilogue")
    const part = partOf(place)
    const [columnsLeft, end] = [remaining(frame.N, place.column), k.label("STORED")]
    const warpRowsLeft = remaining(frame.M, k.add(place.row, warpRow))
    range(tile.chunks).forEach((chunk) => {
      for (const piece of pieces) {
        const first = CHUNK_COLUMNS * chunk + piece.columns[0]!
        // Also keeps the assembler from working on many pieces at once, for which there are no registers.
        k.jump(end, k.compare("le", columnsLeft, first))
        const biases = hasBias ? biasesOf(part, piece, first) : undefined
        range(tile.units).forEach((unit) => {
          ;[0, 1].forEach((h) => {
            const address = part.rows[unit]![h]!
            const hasRow = k.compare("gt", part.rowsLeft, 64 * unit + 8 * h)
            const skip = k.label("ROW")
            k.jump(skip, k.compare("le", warpRowsLeft, 64 * unit + 8 * h)) // all lanes or none, as an exchange needs all
            let z: readonly F32[] = piece.values.map((i) => sums[unit]![chunk]![i + 2 * h]!)
            if (finish === "add") z = z.map((one) => k.mulFloat(one, memory.scale))
            if (biases !== undefined) z = z.map((one, i) => k.addFloat(one, biases[i]!))
            if (isActivation) {
              store(beside(address, memory.pre), z, first, k.both(hasRow, withPre), part)
              z = z.map((one) => ptxActivations[finish as PtxActivation].value(k, one))
            }
            if (isDerivative) {
              const before = load(beside(address, memory.pre), piece, first, hasRow, part)
              z = z.map((one, i) => k.mulFloat(one, ptxActivations[finish.slice(2) as PtxActivation].derivative(k, before[i]!)))
            }
            if (beta !== undefined) {
              const p = k.both(k.compare("ne", beta, 0), hasRow)
              const before = load(beside(address, memory.addend), piece, first, p, part)
              z = z.map((one, i) => k.fma(before[i]!, beta, one))
            }
            store(address, z, first, hasRow, part)
            k.place(skip)
          })
        })
      }
    })
    k.place(end)
    k.syncWarp()
  }
}
