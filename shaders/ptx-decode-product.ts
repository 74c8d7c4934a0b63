/** A matrix product of the decode kernel: a block has a few columns, each warp a part of K; weights go from memory to registers, ahead of their step. */
import type { F32, Predicate, U32, U64 } from "../src/ptx.ts"
import { type Address, addressOf, type Frame, GROUP, MOST_TILES, sumsBytes, THREADS, TILE, WARPS } from "./ptx-decode-frame.ts"
import type { Part } from "./ptx-decode-stage.ts"

/** Registers for the weights of a product. */
const HELD = 48
/** Rounds that the L2 cache is ahead of them. */
const PREFETCHED = 2

/** What a thread does with two neighbouring columns of a row. */
interface Columns {
  readonly row: U32
  readonly column: U32
}

interface ProductSpec {
  readonly N: number
  readonly K: number
  readonly weights: Address
  /** None where the stack has none. */
  readonly bias?: Address
  /** Reads what `finish` needs of these columns and does not depend on the sums. */
  early?(at: Columns): void
  finish(at: Columns, sums: readonly [F32, F32]): void
}

/** Columns of a block, and how many of them it has at a time: as often, half as many threads finish two each of a row; those of row 0 come first. */
export interface Layout {
  readonly columns: number
  readonly step: number
}

interface Product {
  /** Whether this block has columns. */
  readonly isWanted: Predicate
  readonly layout: Layout
  /** The last of its weights. */
  readonly newest: U32
  /**
   * Has the weights brought to registers, ahead of `run`, and those of the layer after to the L2 cache; when `since` is there, or the assembler would
   * have whoever waits for that wait for these too.
   */
  load(row: U32, after?: U32, since?: U32): void
  /** Reads what the epilogue needs; then x is awaited. */
  prepare(): void
  run(x: Part): void
}

/** Columns of a block: an even number. */
const columnsOf = (N: number, blocks: number): number => 2 * Math.ceil(N / blocks / 2)

export function product(f: Frame, { N, K, weights, bias, early, finish }: ProductSpec): Product {
  const { k, stack, thread, block, row, zero } = f
  const groups = K / WARPS / GROUP
  const columns = columnsOf(N, stack.blocks)
  const tiles = Math.min(Math.ceil(columns / TILE), MOST_TILES, Math.max(1, Math.floor(HELD / 4 / groups)))
  const rounds = Math.ceil(columns / TILE / tiles)
  const first = k.mul(block, columns)
  const isWanted = k.compare("lt", first, N)
  const end = k.min(k.add(first, columns), N)
  const base = k.variable("u32", first)
  // where a block has more columns than it holds at a time, the next are on their way while some are multiplied
  const sets = Array.from({ length: Math.min(rounds, 2) }, () =>
    Array.from({ length: tiles }, () => Array.from({ length: groups }, () => k.registers("u32", 4))),
  )
  const biases = [k.variable("f32", 0), k.variable("f32", 0)] as const
  const own = k.mul(k.mad(f.warp, K / WARPS, k.shl(f.quarter, 3)), 2)
  // the pair of columns that a thread finishes
  const perRow = (tiles * TILE) / 2
  const pair = k.rem(thread, perRow)
  const at = { row: k.div(thread, perRow), column: k.register("u32") }
  const isFinisher = k.compare("lt", thread, stack.rows * perRow)
  const isOwn = k.register("pred")

  const bring = (from: U64, set: number, ahead: number) =>
    sets[set]!.forEach((tile, t) => {
      // columns beyond the last repeat it
      const line = k.min(k.add(k.add(base, (ahead * tiles + t) * TILE), row), k.sub(end, 1))
      const source = k.addLong(k.madWide(line, 2 * K, from), k.long(own))
      tile.forEach((to, j) => k.loadVolatile(to, source, 2 * GROUP * j))
    })
  /** Has the columns of a later round brought to the L2 cache. */
  const prefetch = (from: U64, ahead: number) => {
    const line = k.add(base, ahead * tiles * TILE)
    const isThere = k.compare("le", k.add(line, tiles * TILE), end)
    k.if(k.both(isThere, k.compare("eq", thread, THREADS - 32)), () => k.prefetchBytes(k.madWide(line, 2 * K, from), 2 * K * tiles * TILE))
  }
  const prepare = () => {
    k.copy(at.column, k.mad(pair, 2, base))
    k.compare("lt", at.column, end, isOwn)
    k.copy(isOwn, k.both(isOwn, isFinisher))
    k.if(isOwn, () => {
      if (stack.hasBias && bias !== undefined) k.load("f32", biases, k.madWide(at.column, 4, addressOf(f, bias)))
      early?.(at)
    })
  }
  return {
    ...{ isWanted, layout: { columns, step: tiles * TILE } },
    newest: sets.at(-1)!.at(-1)!.at(-1)!.at(-1)!,
    load(layer, after, since) {
      k.comment(`weights ${N} x ${K}`)
      // a block without columns loads the last one, so that no register is held from one step to a later one
      k.copy(base, since === undefined ? first : k.add(first, k.and(since, zero)))
      sets.forEach((_, set) => bring(addressOf(f, weights, layer), set, set))
      if (after === undefined || N % columns !== 0) return
      k.if(k.both(isWanted, k.compare("eq", thread, THREADS - 32)), () =>
        k.prefetchBytes(k.madWide(first, 2 * K, addressOf(f, weights, after)), 2 * K * columns),
      )
    },
    prepare,
    run(x) {
      const round = (set: number) => {
        const sums = multiplied(f, sets[set]!, x)
        if (rounds > sets.length) {
          bring(addressOf(f, weights), set, sets.length)
          prefetch(addressOf(f, weights), sets.length + PREFETCHED)
        }
        finished(f, sums, {
          tiles,
          row: at.row,
          pair,
          isOwn,
          give: (two) => finish(at, [k.addFloat(two[0], biases[0]), k.addFloat(two[1], biases[1])]),
        })
      }
      k.comment(`${N} columns of ${K}`)
      if (rounds === 1) return round(0)
      k.while(
        "ROUND",
        () => k.compare("lt", base, end),
        () =>
          sets.forEach((_, set) => {
            round(set)
            k.add(base, tiles * TILE, base)
            prepare()
          }),
      )
    },
  }
}

/** Sums of a warp's part of K by tile; lane (row, quarter) has two columns of its row. */
function multiplied({ k }: Frame, held: readonly (readonly (readonly U32[])[])[], x: Part): readonly (readonly F32[])[] {
  const zero = k.variable("u32", 0) // rows from 8 on
  const chains = held.length > 1 ? 2 : 4
  return held.map((tile) => {
    const sums = Array.from({ length: Math.min(chains, 2 * tile.length) }, () => Array.from({ length: 4 }, () => k.variable("f32", 0)))
    tile.forEach((w, j) => {
      for (const half of [0, 1]) {
        const [low, high] = [2 * half, 2 * half + 1]
        const a = [x[j]![low]!, zero, x[j]![high]!, zero]
        k.multiplyWarp(sums[(2 * j + half) % sums.length]!, a, [w[low]!, w[high]!])
      }
    })
    return sums.reduce((all, one) => all.map((sum, i) => k.addFloat(sum, one[i]!)))
  })
}

interface Finish {
  readonly tiles: number
  readonly row: U32
  readonly pair: U32
  readonly isOwn: Predicate
  give(sums: readonly [F32, F32]): void
}

/** The warps' sums are added in a fixed order, each pair of columns by one thread. */
function finished(f: Frame, sums: readonly (readonly F32[])[], { tiles, row, pair, isOwn, give }: Finish): void {
  const { k, stack, places, warp, turn } = f
  const perTile = 4 * TILE * stack.rows
  const perWarp = perTile * tiles
  const place = k.mul(turn, sumsBytes(stack))
  k.xor(turn, 1, turn)
  const to = k.add(k.mad(warp, perWarp, place), k.mad(f.row, 4 * TILE, k.shl(f.quarter, 3)))
  k.if(k.compare("lt", f.row, stack.rows), () => {
    sums.forEach((sum, t) => k.storeShared({ base: to, bytes: places.sums + t * perTile }, [sum[0]!, sum[1]!]))
  })
  k.syncBlock()
  k.if(isOwn, () => {
    const from = k.add(k.mad(k.shr(pair, 2), perTile, place), k.mad(row, 4 * TILE, k.shl(k.and(pair, 3), 3)))
    let parts = Array.from({ length: WARPS }, (_, w) => {
      const two = k.registers("f32", 2)
      k.loadShared(two, { base: from, bytes: places.sums + w * perWarp })
      return two
    })
    while (parts.length > 1)
      parts = Array.from({ length: parts.length / 2 }, (_, i) => [0, 1].map((e) => k.addFloat(parts[2 * i]![e]!, parts[2 * i + 1]![e]!)))
    give([parts[0]![0]!, parts[0]![1]!])
  })
}
