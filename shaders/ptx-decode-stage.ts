/** Rows of x on their way to a product: each warp awaits its part of K by neighbouring words, and hands it to its lanes through shared memory. */
import type { U32, U64 } from "../src/ptx.ts"
import { awaitAll, type Frame, GROUP, pitchOf, stageBytes, stagedGroups, WARPS } from "./ptx-decode-frame.ts"

/** The 8 numbers of each group of a warp's part of K that a lane has of its row of x, in bf16. */
export type Part = readonly (readonly U32[])[]

/** Where this warp's rows lie, so many groups of each. */
export const stageOf = ({ k, stack, places, warp }: Frame, groups: number): U32 => k.mad(warp, stageBytes(stack, groups), places.stage)

/** What lies in this warp's place, as the lanes of a product want it. */
export function fromStage(f: Frame, groups: number): U32[][] {
  const { k, stack, row, quarter } = f
  k.syncWarp()
  // rows beyond the last repeat it: nobody wants their sums
  const from = k.mad(k.min(row, stack.rows - 1), pitchOf(groups), k.mad(quarter, 16, stageOf(f, groups)))
  const words = Array.from({ length: groups }, (_, j) => {
    const four = k.registers("u32", 4)
    k.loadSharedWords(four, { base: from, bytes: 2 * GROUP * j })
    return four
  })
  k.syncWarp()
  return words
}

/** bf16 numbers with their tags, when they are there: this warp's part of K of each row. */
export function awaitPart(f: Frame, from: U64, K: number): Part {
  const { k, stack, warp, lane, tag } = f
  const groups = stagedGroups(stack, K)
  const perRow = (GROUP * groups) / 4
  const all = stack.rows * perRow
  const pieces = Array.from({ length: Math.ceil(all / 32) }, (_, i) => {
    const own = k.add(lane, 32 * i)
    // lanes without a piece ask for the last one: a load that all lanes make waits for no other loads
    const at = k.min(own, all - 1)
    const [row, piece] = [k.div(at, perRow), k.rem(at, perRow)]
    const source = k.madWide(k.mad(row, K, k.mad(warp, K / WARPS, k.shl(piece, 2))), 4, from)
    const to = k.mad(row, pitchOf(groups), k.mad(piece, 8, stageOf(f, groups)))
    return { isThere: k.compare("lt", own, all), source, to }
  })
  return Array.from({ length: K / WARPS / GROUP / groups }, (_, phase) => {
    const [words, tags] = [0, 1].map(() => pieces.map(() => k.registers("u32", 2))) as [U32[][], U32[][]]
    awaitAll(f, tag, tags.flat(), () =>
      pieces.forEach(({ source }, i) => {
        k.loadVolatile([words[i]![0]!, tags[i]![0]!, words[i]![1]!, tags[i]![1]!], source, 4 * GROUP * groups * phase)
      }),
    )
    k.syncWarp()
    pieces.forEach(({ isThere, to }, i) => k.when(isThere, () => k.storeShared({ base: to, bytes: 0 }, words[i]!)))
    return fromStage(f, groups)
  }).flat()
}
