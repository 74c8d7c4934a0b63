/** A matrix product of the kernel for many sequences: x in registers straight from the L2 cache, tiles of weights in shared memory, the first before anybody has x. */
import type { F32, U32 } from "../src/ptx.ts"
import {
  addressOf,
  BLOCK,
  type Frame,
  mostTiles,
  pitchOf,
  ROUND,
  range,
  type Spread,
  slicesOf,
  spreadBlocks,
  stagesOf,
  stripsOf,
  TILE,
  tilesOf,
  WARPS,
} from "./ptx-batch-frame.ts"
import type { LAYER } from "./ptx-decode-frame.ts"

const QUADS = (ROUND * TILE) / 4

type Weights = "qkvW" | "projW" | "upW" | "downW"

/** A block's part of K and its tiles: all parts have the same blocks' number of neighbouring tiles, or one less. */
function own({ k, stack, block }: Frame, spread: Spread): { part: U32; first: U32; count: U32 } {
  const blocks = spreadBlocks(stack, spread)
  const part = k.div(block, blocks)
  const index = k.sub(block, k.mul(part, blocks))
  const first = k.div(k.mul(index, tilesOf(spread)), blocks)
  const count = k.sub(k.div(k.mul(k.add(index, 1), tilesOf(spread)), blocks), first)
  const isOne = k.compare("lt", part, spread.parts)
  return { part, first, count: k.select(isOne, count, 0, "u32") }
}

/** Has a row of the block's tile number `tile` brought to shared memory, by one lane. */
function bringRow(f: Frame, name: Weights, spread: Spread, tile: U32, row: U32, layersOn: number): void {
  const { k, stack, places } = f
  const { part, first } = own(f, spread)
  const bytes = (2 * spread.K) / spread.parts
  const column = k.mad(k.add(first, tile), TILE, row)
  const from = k.madWide(part, bytes, k.madWide(column, 2 * spread.K, addressOf(f, name, layersOn)))
  const stage = k.rem(tile, stagesOf(stack))
  const full = { base: k.mad(stage, 8, k.base), bytes: places.full }
  k.expect(full, bytes)
  const to = k.mad(stage, places.stage, k.mad(row, pitchOf(spread), k.base))
  k.copyBytes({ base: to, bytes: places.factors }, from, bytes, full)
}

/** Has the first tiles of a product brought to shared memory, which nobody reads any more. */
export function bring(f: Frame, name: Weights, spread: Spread, layersOn = 0): void {
  const { k, stack, warp, lane } = f
  const { count } = own(f, spread)
  const stages = Math.min(stagesOf(stack), mostTiles(stack, spread))
  k.if(k.compare("eq", lane, 0), () => {
    k.fenceCopies()
    for (let row = 0; row < stages * TILE; row += WARPS) {
      const at = k.add(warp, row)
      const tile = k.shr(at, 3)
      const isThere = [k.compare("lt", tile, count), k.compare("lt", at, stages * TILE)].reduce((a, b) => k.both(a, b))
      k.if(isThere, () => bringRow(f, name, spread, tile, k.and(at, TILE - 1), layersOn))
    }
  })
}

interface Product {
  readonly weights: Weights
  readonly spread: Spread
  /** x in work memory, as matrix instructions take it. */
  readonly x: number
  /** Added to the sums where it is told. */
  readonly bias?: (typeof LAYER)[number] | undefined
  /** What becomes of 4 neighbouring columns of a row of a part of K. */
  finish(at: { readonly row: U32; readonly column: U32; readonly part: U32 }, sums: readonly F32[]): void
}

/** Loads what does not depend on x; the product follows when x is there. */
export function product(f: Frame, { weights, spread, x, bias, finish }: Product): () => void {
  const { k, stack, places, thread, warp, lane, parity } = f
  const { K, parts } = spread
  const [slices, strips, stages, most] = [slicesOf(stack), stripsOf(stack), stagesOf(stack), mostTiles(stack, spread)]
  const steps = K / 16 / parts / slices
  const { part, first, count } = own(f, spread)
  const [row, quad] = [k.div(thread, QUADS), k.rem(thread, QUADS)]
  const isEnd = k.compare("lt", thread, stack.rows * QUADS)
  const rounds = range(Math.ceil(most / ROUND)).map((round) => {
    const tile = k.add(k.shr(quad, 1), ROUND * round)
    const column = k.mad(k.add(first, ROUND * round), TILE, k.shl(quad, 2))
    const isWanted = k.both(isEnd, k.compare("lt", tile, count))
    const biases = range(4).map(() => k.variable("f32", 0))
    if (bias !== undefined && stack.hasBias) {
      const from = k.madWide(column, 4, addressOf(f, bias))
      k.when(isWanted, () => k.load("f32", biases, from))
    }
    return { column, isWanted, biases }
  })
  const work = () => {
    k.comment(`---- ${weights}: ${spread.N} x ${K}`)
    const slice = k.div(warp, strips)
    const strip = k.sub(warp, k.mul(slice, strips))
    const begin = k.add(k.mad(strip, K / 16, k.mul(part, K / 16 / parts)), k.mul(slice, steps))
    const from = k.madWide(k.mad(begin, BLOCK / 16, lane), 16, k.addLong(f.work, x))
    const left = range(steps).map(() => k.registers("u32", 4))
    left.forEach((words, i) => k.loadFar(words, from, BLOCK * i))
    const right = k.mad(k.and(lane, 7), pitchOf(spread), k.mad(slice, 32 * steps, k.shl(k.shr(lane, 3), 4)))
    const sums = range(most).map(() => range(4).map(() => k.variable("f32", 0)))
    sums.forEach((sum, tile) => {
      const stage = tile % stages
      k.if(k.compare("gt", count, tile), () => {
        k.wait(places.full + 8 * stage, k.and(k.shr(parity, stage), 1))
        k.xor(parity, 1 << stage, parity)
        for (let i = 0; i < steps; i += 2) {
          const b = k.registers("u32", 4)
          k.loadMatrix(b, { base: right, bytes: places.factors + stage * places.stage + 32 * i }, false)
          k.multiplyWarp(sum, left[i]!, b.slice(0, 2))
          if (i + 1 < steps) k.multiplyWarp(sum, left[i + 1]!, b.slice(2, 4))
        }
        if (tile + stages >= most) return
        k.comment("all have read this tile: the next takes its place")
        k.syncBlock()
        const isBringer = [k.compare("eq", lane, 0), k.compare("lt", warp, TILE), k.compare("gt", count, tile + stages)]
        k.if(
          isBringer.reduce((a, b) => k.both(a, b)),
          () => {
            k.fenceCopies()
            bringRow(f, weights, spread, k.variable("u32", tile + stages), warp, 0)
          },
        )
      })
    })
    k.comment("the sums of the slices of K meet where the weights were")
    const mine = k.mad(k.mad(slice, 16 * strips, k.mad(strip, 16, k.shr(lane, 2))), 4 * ROUND * TILE, k.shl(k.and(lane, 3), 3))
    rounds.forEach(({ column, isWanted, biases }, round) => {
      k.syncBlock()
      sums.slice(ROUND * round, ROUND * (round + 1)).forEach((sum, j) => {
        for (const h of [0, 1])
          k.storeShared({ base: mine, bytes: places.factors + 32 * j + 8 * h * 4 * ROUND * TILE }, sum.slice(2 * h, 2 * h + 2))
      })
      k.syncBlock()
      k.if(isWanted, () => {
        const at = k.mul(thread, 16)
        const all = range(slices).map((i) => {
          const four = k.registers("f32", 4)
          k.loadShared(four, { base: at, bytes: places.factors + i * 16 * strips * 4 * ROUND * TILE })
          return four
        })
        const total = range(4).map((e) => all.slice(1).reduce((sum, four) => k.addFloat(sum, four[e]!), all[0]![e]!))
        const out = bias === undefined || !stack.hasBias ? total : total.map((one, e) => k.addFloat(one, biases[e]!))
        finish({ row, column, part }, out)
      })
    })
  }
  return () => k.if(k.compare("gt", count, 0), work)
}
