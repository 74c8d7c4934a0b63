/** The end of a Hopper matrix product of few rows: a thread's sums with bias and activation to pairs of columns of c. */
import type { F32, Predicate, Ptx, U32, U64 } from "../src/ptx.ts"
import { ptxActivations } from "./ptx-activation.ts"

/** Addresses, the row length of c, and the activation's number as in activation-kind.ts. */
export interface FewMemory {
  readonly bias: U64
  readonly c: U64
  readonly ldc: U32
  readonly activation: U32
  readonly out: "f32" | "bf16"
}

interface Place {
  readonly lane: U32
  readonly M: U32
  readonly N: U32
  /** First of the warp's 16 rows and of its columns. */
  readonly row: U32
  readonly column: U32
}

/** Asks for the biases of so many blocks of 8 columns; returns what stores the sums, [block][2·h + e]: row lane div 4 + 8·h, column 2·(lane mod 4) + e. */
export function storeFew(k: Ptx, { lane, M, N, row, column }: Place, blocks: number, memory: FewMemory) {
  const { out, ldc } = memory
  const size = out === "f32" ? 4 : 2
  const first = k.add(column, k.shl(k.and(lane, 3), 1))
  const hasBias = k.compare("ne", memory.bias, 0)
  const bias = k.madWide(first, 4, memory.bias)
  const left = k.sub(N, k.min(first, N))
  const blocksOf = Array.from({ length: blocks }, (_, j) => {
    const isThere = [0, 1].map((e) => k.compare("gt", left, 8 * j + e))
    const biases = isThere.map((there, e) => {
      const one = k.variable("f32", 0)
      k.when(k.both(there, hasBias), () => k.load("f32", [one], bias, 4 * (8 * j + e)))
      return one
    })
    return { isThere: isThere as [Predicate, Predicate], biases }
  })

  return (sums: readonly (readonly F32[])[]): void => {
    k.comment("---- epilogue")
    blocksOf.forEach(({ biases }, j) => {
      k.when(hasBias, () => sums[j]!.forEach((sum, i) => k.addFloat(sum, biases[i & 1]!, sum)))
    })
    const stored = k.label("STORE")
    k.jump(stored, k.compare("eq", memory.activation, 0))
    Object.values(ptxActivations).forEach(({ value }, i) => {
      k.if(k.compare("eq", memory.activation, i + 1), () => {
        for (const sum of sums.flat()) k.copy(sum, value(k, sum))
      })
    })
    k.place(stored)
    const isEven = k.compare("eq", k.and(ldc, 1), 0)
    for (const h of [0, 1]) {
      const mine = k.add(k.add(row, 8 * h), k.shr(lane, 2))
      const hasRow = k.compare("lt", mine, M)
      const address = k.register("u64")
      k.emit("mad.lo.u64", address, k.long(mine), k.long(k.mul(ldc, size)), k.madWide(first, size, memory.c))
      blocksOf.forEach(({ isThere }, j) => {
        const [low, high] = [sums[j]![2 * h]!, sums[j]![2 * h + 1]!]
        const isPair = k.both(k.both(hasRow, isThere[1]), isEven)
        const alone = isThere.map((there) => k.both(k.both(hasRow, there), k.not(isPair)))
        const byte = 8 * j * size
        if (out === "f32") {
          k.when(isPair, () => k.store("f32", address, byte, [low, high]))
          for (const e of [0, 1]) k.when(alone[e]!, () => k.store("f32", address, byte + 4 * e, [e === 0 ? low : high]))
          return
        }
        const pair = k.packBf16(low, high)
        k.when(isPair, () => k.store("u32", address, byte, [pair]))
        k.when(alone[0]!, () => k.store("u16", address, byte, [pair]))
        const upper = k.shr(pair, 16)
        k.when(alone[1]!, () => k.store("u16", address, byte + 2, [upper]))
      })
    }
  }
}
