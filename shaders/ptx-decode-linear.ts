/** A matrix product of the decode kernel: the rows of x lie in shared memory, a warp takes 8 columns and sums all of K in order. */
import type { F32, Predicate, U32, U64 } from "../src/ptx.ts"
import { CHUNK, type Frame, pitchOf, TILE, tilesAtOnce, tilesOf, visit, waitFull } from "./ptx-decode-frame.ts"

/** Steps of 16 in a part of K; those whose x is loaded before the weights are there; the one from which on the next part is looked for. */
const STEPS = CHUNK / 16
const AHEAD = 2
const TURN = 8

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

/** Begins a product before its x is known: what the epilogue reads is on its way. Returns whether this block has any columns, and the rest, x being in shared memory. */
export function product(f: Frame, { N, K, bias, early, finish }: Product): { readonly isWanted: Predicate; readonly run: () => void } {
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
  const isWanted = k.compare("gt", count, 0)
  const run = () =>
    k.while(
      "GROUP",
      () => k.compare("lt", base, count),
      () => {
        const size = k.min(k.sub(count, base), atOnce)
        k.if(k.compare("lt", warp, size), () => {
          const sums = sumTile(f, K, size)
          k.if(isRow, () => finish({ row, column }, [k.addFloat(sums[0]!, biases[0]), k.addFloat(sums[1]!, biases[1])]))
        })
        k.add(visits, k.mul(size, K / CHUNK), visits)
        k.add(base, atOnce, base)
        prepare()
      },
    )
  return { isWanted, run }
}

/** What a warp multiplies first in a part of K. */
interface First {
  readonly xs: readonly (readonly U32[])[]
  readonly w: readonly U32[]
}

/** One matrix instruction after the other along K; lane (g, c) has row g, columns 2c and 2c + 1. */
function sumTile(f: Frame, K: number, size: U32): readonly F32[] {
  const { k, stack, places, warp, lane, visits, zero } = f
  const sums = Array.from({ length: 4 }, () => k.variable("f32", 0))
  const line = k.and(lane, 7)
  // The lower half of the matrix repeats the upper one: rows beyond 7 are not wanted.
  const x = k.mad(k.min(line, stack.rows - 1), pitchOf(K), k.add(k.shl(k.shr(lane, 4), 4), places.x))
  const inPlace = k.mad(line, pitchOf(CHUNK), k.shl(k.shr(lane, 3), 4))
  const left = k.variable("u32", K / CHUNK)
  const number = k.add(visits, warp)
  const [empty, place] = [k.register("u32"), k.register("u32")]
  const first: First = { xs: Array.from({ length: AHEAD }, () => k.registers("u32", 4)), w: k.registers("u32", 4) }
  const loadX = (to: readonly U32[], i: number) => k.loadMatrix(to, { base: x, bytes: 32 * i }, false)
  const loadW = (to: readonly U32[], i: number) => k.loadMatrix(to, { base: place, bytes: 32 * i }, false)
  /** Waits for a part, and loads what comes first. */
  const begin = (from: number) => {
    first.xs.forEach((to, i) => loadX(to, from + i))
    const at = visit(f, number)
    waitFull(f, at)
    k.copy(empty, at.empty.base)
    k.add(at.base, inPlace, place)
    loadW(first.w, 0)
  }
  begin(0)
  k.while(
    "PART",
    () => k.compare("gt", left, 0),
    () => {
      const held = Array.from({ length: STEPS }, () => k.registers("u32", 4))
      first.xs.forEach((from, i) => from.forEach((word, j) => k.copy(held[i]![j]!, word)))
      let w: readonly U32[] = k.registers("u32", 4)
      w.forEach((to, j) => k.copy(to, first.w[j]!))
      for (let i = AHEAD; i < STEPS; i++) loadX(held[i]!, i)
      const ws = [w]
      for (let i = 2; i < STEPS; i += 2) {
        w = k.registers("u32", 4)
        loadW(w, i)
        ws.push(w)
      }
      held.slice(0, TURN).forEach((a, i) => k.multiplyWarp(sums, a, ws[i >> 1]!.slice(2 * (i % 2), 2 * (i % 2) + 2)))
      k.syncWarp()
      // The place is free when its last load is there, not when it is under way.
      const done = { base: k.add(empty, k.and(w[3]!, zero)), bytes: places.empty }
      k.when(k.compare("eq", lane, 0), () => k.arrive(done))
      k.add(number, size, number)
      k.sub(left, 1, left)
      // The next part is looked for while this one is still multiplied.
      k.if(k.compare("gt", left, 0), () => begin(STEPS))
      held.slice(TURN).forEach((a, i) => k.multiplyWarp(sums, a, ws[(TURN + i) >> 1]!.slice(2 * (i % 2), 2 * (i % 2) + 2)))
      k.add(x, 2 * CHUNK, x)
    },
  )
  return sums
}
