/** A matrix product of the decode kernel: the rows of x lie in shared memory, a warp takes 8 columns and sums all of K in order. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { chunkOf, type Frame, pitchOf, TILE, tilesAtOnce, tilesOf, visit, waitFull } from "./ptx-decode-frame.ts"

/** Steps of 16 of K whose x is loaded before the weights are there. */
const AHEAD = 4

/** What a lane does with two neighbouring columns of a row. */
export interface Columns {
  readonly row: U32
  readonly column: U32
}

export interface Product {
  readonly N: number
  readonly K: number
  /** Undefined: none. */
  readonly bias: U64 | undefined
  /** Reads what `finish` needs of these columns and does not depend on the sums. */
  early?(at: Columns): void
  finish(at: Columns, sums: readonly [F32, F32]): void
}

/** Begins a product before its x is known: what the epilogue reads is on its way. Returns the rest, x being in shared memory. */
export function product(f: Frame, { N, K, bias, early, finish }: Product): () => void {
  const { k, stack, places, warp, lane, block, visits } = f
  const atOnce = tilesAtOnce(places)
  const count = tilesOf(f, N)
  const base = k.variable("u32", 0)
  const row = k.shr(lane, 2)
  const isRow = k.compare("lt", row, stack.rows)
  const column = k.register("u32")
  const biases = [k.variable("f32", 0), k.variable("f32", 0)] as const
  const prepare = () => {
    const tile = k.add(base, warp)
    k.copy(column, k.mad(k.mad(tile, stack.blocks, block), TILE, k.shl(k.and(lane, 3), 1)))
    k.if(k.both(k.both(k.compare("lt", tile, count), k.compare("lt", warp, atOnce)), isRow), () => {
      if (bias !== undefined) k.load("f32", biases, k.madWide(column, 4, bias))
      early?.({ row, column })
    })
  }
  k.comment(`${N} columns of ${K}`)
  prepare()
  return () => {
    k.while(
      "GROUP",
      () => k.compare("lt", base, count),
      () => {
        const size = k.min(k.sub(count, base), atOnce)
        k.if(k.compare("lt", warp, size), () => {
          const sums = sumTile(f, K, size)
          k.if(isRow, () => finish({ row, column }, [k.addFloat(sums[0]!, biases[0]), k.addFloat(sums[1]!, biases[1])]))
        })
        k.add(visits, k.mul(size, K / chunkOf(K)), visits)
        k.add(base, atOnce, base)
        prepare()
      },
    )
  }
}

/** One matrix instruction after the other along K; lane (g, c) has row g, columns 2c and 2c + 1. */
function sumTile(f: Frame, K: number, size: U32): readonly F32[] {
  const { k, stack, places, warp, lane, visits, zero } = f
  const chunk = chunkOf(K)
  const sums = Array.from({ length: 4 }, () => k.variable("f32", 0))
  const line = k.and(lane, 7)
  // The lower half of the matrix repeats the upper one: rows beyond 7 are not wanted.
  const x = k.mad(k.min(line, stack.rows - 1), pitchOf(K), k.add(k.shl(k.shr(lane, 4), 4), places.x))
  const part = k.shl(k.shr(lane, 3), 4)
  const left = k.variable("u32", K / chunk)
  const number = k.add(visits, warp)
  k.while(
    "PART",
    () => k.compare("gt", left, 0),
    () => {
      const at = visit(f, number)
      const xs = Array.from({ length: chunk / 16 }, () => k.registers("u32", 4))
      const loadX = (i: number) => k.loadMatrix(xs[i]!, { base: x, bytes: 32 * i }, false)
      for (let i = 0; i < AHEAD; i++) loadX(i)
      waitFull(f, at)
      const place = k.mad(line, pitchOf(chunk), k.add(at.base, part))
      const w = k.registers("u32", 4)
      xs.forEach((a, i) => {
        if (i >= AHEAD) loadX(i)
        if (i % 2 === 0) k.loadMatrix(w, { base: place, bytes: 32 * i }, false)
        k.multiplyWarp(sums, a, w.slice(2 * (i % 2), 2 * (i % 2) + 2))
      })
      k.syncWarp()
      // The place is free when its last load is there, not when it is under way.
      const empty = { base: k.add(at.empty.base, k.and(w[3]!, zero)), bytes: at.empty.bytes }
      k.when(k.compare("eq", lane, 0), () => k.arrive(empty))
      k.add(x, 2 * chunk, x)
      k.add(number, size, number)
      k.sub(left, 1, left)
    },
  )
  return sums
}
