/** The token that a random number takes of a list no longer than the block has threads: sorted by counting who comes before, then cut and summed at once. */
import type { F32, U32 } from "../src/ptx.ts"
import { firstHit, NONE, overBlock, scan } from "./ptx-sample-block.ts"
import { weightOf } from "./ptx-sample-key.ts"
import type { Tokens } from "./ptx-sample-list.ts"

/** Entries of the list that a thread compares with its own at a time. */
const TOGETHER = 4

export interface Few {
  readonly topK: U32
  readonly topP: F32
  readonly minP: F32
  readonly uniform: F32
  /** Weight of all tokens that the cut by top k leaves, where that is known; else the list has them all, and this is 0. */
  readonly total: F32
}

/** Changes `token` to the drawn one. `free`: 8 bytes a thread of shared memory, from a multiple of 4 on. */
export function few({ row: { block }, list, listed }: Tokens, { topK, topP, minP, uniform, total }: Few, free: number, token: U32): void {
  const { k, threads, thread } = block
  const [weights, ids] = [free, free + 4 * threads]
  const end = [0, 0].map(() => k.variable("u32", NONE))
  const behind = k.shl(k.add(listed, thread), 3)
  k.when(k.compare("lt", thread, TOGETHER - 1), () => k.storeShared({ base: behind, bytes: list }, end))
  k.syncBlock()
  k.if(k.compare("lt", thread, listed), () => {
    const [key, id] = k.registers("u32", 2) as [U32, U32]
    k.loadSharedWords([key, id], { base: k.shl(thread, 3), bytes: list })
    const [before, i] = [k.variable("u32", 0), k.variable("u32", 0)]
    k.while(
      "BEFORE",
      () => k.compare("lt", i, listed),
      () => {
        const at = k.shl(i, 3)
        const others = Array.from({ length: TOGETHER / 2 }, (_, j) => {
          const two = k.registers("u32", 4)
          k.loadSharedWords(two, { base: at, bytes: list + 16 * j })
          return [two.slice(0, 2), two.slice(2)]
        }).flat() as [U32, U32][]
        for (const [otherKey, otherId] of others) {
          const isEqual = k.both(k.compare("eq", otherKey, key), k.compare("lt", otherId, id))
          k.when(k.either(isEqual, k.compare("lt", otherKey, key)), () => k.add(before, 1, before))
        }
        k.add(i, TOGETHER, i)
      },
    )
    const to = k.shl(before, 2)
    k.storeShared({ base: to, bytes: weights }, [weightOf(block, key)])
    k.storeShared({ base: to, bytes: ids }, [id])
  })
  k.syncBlock()
  const own = k.variable("f32", 0)
  const at = k.shl(thread, 2)
  k.when(k.compare("lt", thread, listed), () => k.loadShared([own], { base: at, bytes: weights }))
  const { before } = scan(block, k.variable("u32", 0), own).weight
  const upTo = k.addFloat(before, own)
  const larger = (a: F32, b: F32) => k.maxNumber(a, b)
  const isInK = k.compare("lt", thread, k.min(topK, listed))
  const ofList = overBlock(block, k.select(isInK, upTo, 0, "f32"), larger)
  const limit = k.mulFloat(k.select(k.compare("gt", total, 0), total, ofList, "f32"), topP)
  const isInP = k.either(k.either(k.compare("ge", topP, 1), k.compare("lt", before, limit)), k.compare("eq", thread, 0))
  const isKept = k.both(k.both(isInK, isInP), k.compare("ge", own, minP))
  const target = k.mulFloat(overBlock(block, k.select(isKept, upTo, 0, "f32"), larger), uniform)
  const place = firstHit(block, [{ number: thread, isHit: k.both(isKept, k.compare("gt", upTo, target)), isFilled: isKept }])
  const found = k.shl(place, 2)
  k.when(k.compare("ne", place, NONE), () => k.loadSharedWords([token], { base: found, bytes: ids }))
}
