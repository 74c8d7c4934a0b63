/** The head in the kernel for many sequences: a warp has all of K of its own columns, weights straight to registers, x from the L1 cache. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { addressOf, BLOCK, type Frame, range, stripsOf, HEAD_TILE as TILE, WARPS, workOf } from "./ptx-batch-frame.ts"
import { HEAD } from "./ptx-decode-frame.ts"

/** Matrix instructions of a warp for a tile's columns. */
const BLOCKS = TILE / 8
/** Channels of a step: whole lines of 128 bytes of each column. */
const STEP = HEAD
/** Steps under way: the weights of one are 96 bytes a thread, so two are 96 KB a processor, thrice what 4.26 TB/s for 132 of them bring in 1 us. */
const DEPTH = 2

/** Byte of 4 columns of a row, such that a lane has its 8 neighbours of K in two matrix instructions; the next two columns are 8 bytes further. */
function placeOf({ k }: Frame, row: U32, column: U32, K: number): U32 {
  const group = k.add(k.shl(k.shr(column, 5), 1), k.and(k.shr(column, 2), 1))
  const lane = k.add(k.shl(k.and(row, 7), 2), k.and(k.shr(column, 3), 3))
  const word = k.and(k.shr(row, 3), 1)
  return k.mad(k.mad(k.shr(row, 4), K / 16, group), BLOCK, k.add(k.shl(lane, 4), k.shl(word, 2)))
}

/** Stores 4 columns of the last norm where the head looks for them. */
export function storeLast(f: Frame, row: U32, column: U32, words: readonly [U32, U32]): void {
  const { k, stack, work } = f
  const address = k.madWide(placeOf(f, row, column, stack.C), 1, k.addLong(work, workOf(stack).x))
  words.forEach((word, i) => k.store("u32", address, 8 * i, [word]))
}

/** Has the first weights brought, which do not depend on x; logits (rows, classes) = x·headWᵀ follow when x is there. */
export function head(f: Frame, logits: U64): () => void {
  const { k, stack, warp, lane, block, work } = f
  const { C, classes, blocks } = stack
  const [steps, strips] = [C / STEP, stripsOf(stack)]
  const tiles = Math.ceil(classes / TILE)
  const [row, quarter] = [k.shr(lane, 2), k.and(lane, 3)]
  const own = k.madWide(row, 2 * C, k.madWide(quarter, 16, addressOf(f, "headW", 1)))
  /** The last tile ends with the last column: what it shares with the one before has equal bits in both. */
  const firstOf = (tile: U32): U32 => k.min(k.mul(tile, TILE), classes - TILE)
  const aim = (tile: U32): U64 => k.madWide(firstOf(tile), 2 * C, own)
  const held = range(DEPTH).map(() => range(2).map(() => range(BLOCKS).map(() => k.registers("u32", 4))))
  /** 32 channels of a lane's columns, half a step. */
  const load = (step: number, half: number): void =>
    held[step]![half]!.forEach((words, j) => k.loadOnce(words, from, 16 * j * C + 2 * STEP * step + STEP * half, "wide"))

  k.comment(`---- head: ${classes} x ${C}`)
  const tile = k.mad(warp, blocks, block)
  const from = k.variable("u64", aim(tile))
  k.if(k.compare("lt", tile, tiles), () => {
    for (const step of range(DEPTH)) for (const half of [0, 1]) load(step, half)
  })
  return () => {
    k.while(
      "COLUMNS",
      () => k.compare("lt", tile, tiles),
      () => {
        const first = firstOf(tile)
        k.add(tile, WARPS * blocks, tile)
        const hasNext = k.compare("lt", tile, tiles)
        const next = aim(tile)
        const sums = range(strips).map(() => range(BLOCKS).map(() => range(4).map(() => k.variable("f32", 0))))
        const x = k.madWide(lane, 16, k.addLong(work, workOf(stack).x))
        const left = k.variable("u32", steps / DEPTH)
        k.while(
          "STEPS",
          () => k.compare("gt", left, 0),
          () => {
            k.comment("what is used is loaded again, at the end for the next tile")
            k.sub(left, 1, left)
            const isEnd = k.compare("eq", left, 0)
            k.select(isEnd, next, k.addLong(from, 2 * STEP * DEPTH), "u64", from)
            const isMore = k.either(k.not(isEnd), hasNext)
            for (const step of range(DEPTH))
              for (const half of [0, 1]) {
                const rows = range(strips).map((strip) =>
                  range(2).map((part) => {
                    const words = k.registers("u32", 4)
                    k.load("u32", words, x, (BLOCK * strip * C) / 16 + BLOCK * (4 * step + 2 * half + part))
                    return words
                  }),
                )
                held[step]![half]!.forEach((words, j) => {
                  for (const part of [0, 1])
                    for (const strip of range(strips))
                      k.multiplyWarp(sums[strip]![j]!, rows[strip]![part]!, words.slice(2 * part, 2 * part + 2))
                })
                k.when(isMore, () => load(step, half))
              }
            k.addLong(x, BLOCK * 4 * DEPTH, x)
          },
        )
        tell(f, logits, first, sums)
      },
    )
  }
}

/** Stores a tile: a lane has two neighbouring columns of rows 8 apart. */
function tell({ k, stack, lane }: Frame, logits: U64, first: U32, sums: readonly (readonly (readonly F32[])[])[]): void {
  const { rows, classes } = stack
  const row = k.shr(lane, 2)
  const to = k.madWide(row, 4 * classes, k.madWide(k.add(first, k.shl(k.and(lane, 3), 1)), 4, logits))
  const isRow = k.compare("lt", row, Math.min(rows, 8))
  sums.forEach((blocks, strip) => {
    for (const half of [0, 1]) {
      const above = 16 * strip + 8 * half
      if (above >= rows) continue
      blocks.forEach((sum, j) => {
        const [low, high] = sum.slice(2 * half, 2 * half + 2) as [F32, F32]
        const byte = 4 * (above * classes + 8 * j)
        k.when(isRow, () => {
          // rows of an odd length: every other one begins between two places of 8 bytes
          if (classes % 2 === 0) k.store("f32", to, byte, [low, high])
          else [low, high].forEach((one, e) => k.store("f32", to, byte + 4 * e, [one]))
        })
      })
    }
  })
}
