/** A matrix product of the kernel for many sequences: x in registers straight from the L2 cache, weights in shared memory before anybody has x. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { addressOf, BLOCK, type Frame, pitchOf, range, type Spread, slicesOf, stripsOf, TILE, tilesOf, WARPS } from "./ptx-batch-frame.ts"
import type { LAYER } from "./ptx-decode-frame.ts"

const QUADS = TILE / 4
const BLOCKS = TILE / 8

type Weights = "qkvW" | "projW" | "upW" | "downW"

/** Which columns and which part of K a tile is. */
function tileAt({ k }: Frame, { N, parts }: Spread, tile: U32): { column: U32; part: U32 } {
  const across = N / TILE
  if (parts === 1) return { column: k.mul(tile, TILE), part: k.variable("u32", 0) }
  const part = k.div(tile, across)
  return { column: k.mul(k.sub(tile, k.mul(part, across)), TILE), part }
}

/** Rows of a tile that a warp brings: its first lane asks for one after the other, and each request takes its time. */
const TURNS = Math.ceil(TILE / WARPS)

/** `body` in the first lane of every warp for each of the tile's rows that it brings, where there is such a tile; `begin` once before. */
function eachRow(f: Frame, spread: Spread, tile: U32, begin: () => void, body: (row: U32) => void): void {
  const { k, warp, lane } = f
  k.if(k.both(k.compare("eq", lane, 0), k.compare("lt", tile, tilesOf(spread))), () => {
    begin()
    for (const i of range(TURNS)) {
      const row = k.add(warp, WARPS * i)
      if (WARPS * (i + 1) <= TILE) body(row)
      else k.if(k.compare("lt", row, TILE), () => body(row))
    }
  })
}

/** Has the weights of a tile brought to shared memory, which nobody reads any more; nothing where there is no such tile. */
export function bring(f: Frame, name: Weights, spread: Spread, tile: U32, layersOn = 0): void {
  const { k, places } = f
  const bytes = (2 * spread.K) / spread.parts
  const from = (row: U32) => weightsOf(f, name, spread, tile, row, layersOn)
  eachRow(
    f,
    spread,
    tile,
    () => k.fenceCopies(),
    (row) => {
      k.expect(places.full, bytes)
      k.copyBytes({ base: k.mad(row, pitchOf(spread), k.base), bytes: places.factors }, from(row), bytes, places.full)
    },
  )
}

/** Address of a row of a tile. */
function weightsOf(f: Frame, name: Weights, spread: Spread, tile: U32, row: U32, layersOn: number): U64 {
  const { k } = f
  const { column, part } = tileAt(f, spread, tile)
  return k.madWide(part, (2 * spread.K) / spread.parts, k.madWide(k.add(column, row), 2 * spread.K, addressOf(f, name, layersOn)))
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
  const { k, stack, places, thread, warp, lane, block, work, parity } = f
  const { K, parts } = spread
  const [slices, strips] = [slicesOf(stack), stripsOf(stack)]
  const steps = K / 16 / parts / slices
  const tile = k.variable("u32", block)
  const [row, quad] = [k.div(thread, QUADS), k.rem(thread, QUADS)]
  const isEnd = k.compare("lt", thread, stack.rows * QUADS)
  const biases = range(4).map(() => k.variable("f32", 0))
  const isThere = () => k.compare("lt", tile, tilesOf(spread))
  const prepare = () => {
    if (bias === undefined || !stack.hasBias) return
    const from = k.madWide(k.add(tileAt(f, spread, tile).column, k.shl(quad, 2)), 4, addressOf(f, bias))
    k.when(k.both(isEnd, isThere()), () => k.load("f32", biases, from))
  }
  prepare()
  return () => {
    k.comment(`---- ${weights}: ${spread.N} x ${K}`)
    k.while("TILE", isThere, () => {
      const { column, part } = tileAt(f, spread, tile)
      const slice = k.div(warp, strips)
      const strip = k.sub(warp, k.mul(slice, strips))
      const first = k.add(k.mad(strip, K / 16, k.mul(part, K / 16 / parts)), k.mul(slice, steps))
      const from = k.madWide(k.mad(first, BLOCK / 16, lane), 16, k.addLong(work, x))
      const left = range(steps).map((i) => {
        const words = k.registers("u32", 4)
        k.loadFar(words, from, BLOCK * i)
        return words
      })
      const sums = range(BLOCKS).map(() => range(4).map(() => k.variable("f32", 0)))
      k.wait(places.full, parity)
      k.xor(parity, 1, parity)
      const right = k.mad(k.and(lane, 7), pitchOf(spread), k.mad(slice, 32 * steps, k.shl(k.shr(lane, 3), 4)))
      for (let i = 0; i < steps; i += 2) {
        sums.forEach((sum, j) => {
          const b = k.registers("u32", 4)
          k.loadMatrix(b, { base: right, bytes: places.factors + 8 * j * pitchOf(spread) + 32 * i }, false)
          k.multiplyWarp(sum, left[i]!, b.slice(0, 2))
          if (i + 1 < steps) k.multiplyWarp(sum, left[i + 1]!, b.slice(2, 4))
        })
      }
      k.comment("the sums of the slices of K meet where the weights were")
      k.syncBlock()
      const mine = k.mad(k.mad(slice, 16 * strips, k.mad(strip, 16, k.shr(lane, 2))), 4 * TILE, k.shl(k.and(lane, 3), 3))
      sums.forEach((sum, j) => {
        for (const h of [0, 1])
          k.storeShared({ base: mine, bytes: places.factors + 32 * j + 8 * h * 4 * TILE }, sum.slice(2 * h, 2 * h + 2))
      })
      k.syncBlock()
      k.if(isEnd, () => {
        const at = k.mul(thread, 16)
        const all = range(slices).map((i) => {
          const four = k.registers("f32", 4)
          k.loadShared(four, { base: at, bytes: places.factors + i * 16 * strips * 4 * TILE })
          return four
        })
        const total = range(4).map((e) => all.slice(1).reduce((sum, four) => k.addFloat(sum, four[e]!), all[0]![e]!))
        const out = bias === undefined || !stack.hasBias ? total : total.map((one, e) => k.addFloat(one, biases[e]!))
        finish({ row, column: k.add(column, k.shl(quad, 2)), part }, out)
      })
      k.add(tile, stack.blocks, tile)
      k.if(isThere(), () => {
        k.syncBlock()
        bring(f, weights, spread, tile)
        prepare()
      })
    })
  }
}
