/** The tokens that cuts are made of: the few largest, gathered in shared memory, or where they are too many, the row itself. */
import type { F32, U32 } from "../src/ptx.ts"
import { type Block, overBlock } from "./ptx-sample-block.ts"
import type { Facts } from "./ptx-sample-facts.ts"
import { keyOf, LAST, PER_NAT } from "./ptx-sample-key.ts"
import { eachOf, eachSlice, joined, type Row, sliceOf } from "./ptx-sample-row.ts"

/** Entries of the list, and its bytes: a key and an id each. */
export const CAPACITY = 2048
export const LIST_BYTES = 8 * CAPACITY
/** Groups of threads whose largest logits give a bound for the topK-th largest of all. */
export const GROUPS = 128
/** Logits of a lane whose largest is compared. */
const TOGETHER = 8
/** Numbers of a lane on their way while as many are counted, where the row itself is. */
const COUNTED = 8

/** Spots of a row: some tokens each, of which the largest logit is compared; where it counts, they are looked at again. */
export interface Spots {
  /** `use` with the number of every spot of this thread that reaches a bound. */
  reaching(bound: F32, use: (spot: U32) => void): void
  /** Ids of a spot's tokens, or what is no id. */
  ids(spot: U32): readonly U32[]
}

/** The spots of a row that is read for them, by their first ids. */
export function spotsOf(row: Row): Spots {
  const { k, threads, lane } = row.block
  return {
    reaching: (bound, use) =>
      eachSlice(row, eachOf(threads), (slice, logits) => {
        for (let from = 0; from < logits.length; from += TOGETHER) {
          const most = joined(logits.slice(from, from + TOGETHER), (a, b) => k.maxNumber(a, b))
          k.if(k.compare("ge", most, bound), () => use(k.add(k.mad(slice, sliceOf(threads), lane), 32 * from)))
        }
      }),
    ids: (first) => Array.from({ length: TOGETHER }, (_, i) => k.add(first, 32 * i)),
  }
}

export interface Tokens {
  readonly row: Row
  readonly spots: Spots
  readonly facts: Facts
  readonly sharpness: F32
  /** Bytes of the list, and of its counters, in shared memory. */
  readonly list: number
  readonly counters: number
  /** Entries of the list; 0: it is not used. */
  readonly listed: U32
}

/** `use` for every token that weighs something, in turns of this thread: its key, and its id. */
export function eachToken({ row, facts, sharpness, list, listed }: Tokens, use: (key: U32, id: U32) => void): void {
  const { block } = row
  const { k, threads, thread, lane } = block
  k.if(
    k.compare("ne", listed, 0),
    () => {
      const i = k.variable("u32", thread)
      k.while(
        "TOKEN",
        () => k.compare("lt", i, listed),
        () => {
          const entry = k.registers("u32", 2)
          k.loadSharedWords(entry, { base: k.shl(i, 3), bytes: list })
          use(entry[0]!, entry[1]!)
          k.add(i, threads, i)
        },
      )
    },
    () =>
      eachSlice(row, COUNTED, (slice, logits) =>
        logits.forEach((z, i) => {
          const key = keyOf(block, facts.top, z, sharpness)
          const id = k.add(k.mad(slice, 32 * COUNTED, lane), 32 * i)
          use(k.select(k.compare("le", z, facts.top), key, LAST, "u32"), id)
        }),
      ),
  )
}

/** A bound that at least topK tokens reach, topK ≤ 128, and not many more: the topK-th largest of the groups' largest logits. `at`: 512 free bytes. */
export function boundOf({ row: { block }, facts }: Tokens, topK: U32, at: number): F32 {
  const { k, threads, thread } = block
  const perGroup = threads / GROUPS
  let own = facts.own
  for (let mask = 1; mask < perGroup; mask *= 2) own = k.maxNumber(own, k.exchangeFloat(own, mask))
  const group = k.div(thread, perGroup)
  k.when(k.compare("eq", k.and(thread, perGroup - 1), 0), () => k.storeShared({ base: k.shl(group, 2), bytes: at }, [own]))
  k.syncBlock()
  const larger = k.variable("u32", 0)
  for (let i = 0; i < GROUPS; i += 4) {
    const four = k.registers("f32", 4)
    k.loadShared(four, at + 4 * i)
    for (const one of four) k.when(k.compare("gt", one, own), () => k.add(larger, 1, larger))
  }
  const reached = k.select(k.compare("lt", larger, topK), own, Number.POSITIVE_INFINITY, "f32")
  return overBlock(block, reached, (a, b) => k.select(k.compare("lt", a, b), a, b, "f32"))
}

/** A bound that all tokens with keys below this one reach, and hardly others. */
export function boundBelow({ row: { block }, facts: { top }, sharpness }: Tokens, key: U32): F32 {
  const { k } = block
  const distance = k.mulFloat(k.mulFloat(k.toFloat(key), 1 / PER_NAT), k.unary("rcp.rn.f32", sharpness))
  const slack = k.mulFloat(k.addFloat(distance, k.unary("abs.f32", top)), 2 ** -20)
  return k.subFloat(k.subFloat(top, distance), slack)
}

/** Lists the tokens whose logits reach `bound`, in any order; nothing is listed where they are too many. `free`: 4 · CAPACITY free bytes at a multiple of 4. */
export function gather({ row, spots, facts, sharpness, list, counters, listed }: Tokens, bound: F32, free: number): void {
  const { block, logits, allowed } = row
  const { k, threads, thread } = block
  const zero = k.variable("u32", 0)
  k.when(k.compare("eq", thread, 0), () => k.storeShared(counters, [zero, zero]))
  k.syncBlock()
  spots.reaching(bound, (spot) => {
    const at = k.fetchAddShared(counters, 1)
    k.when(k.compare("lt", at, CAPACITY), () => k.storeShared({ base: k.shl(at, 2), bytes: free }, [spot]))
  })
  const reached = counted(block, counters)
  const i = k.variable("u32", thread)
  k.while(
    "SPOT",
    () => k.compare("lt", i, k.min(reached, CAPACITY)),
    () => {
      const spot = k.register("u32")
      k.loadSharedWords([spot], { base: k.shl(i, 2), bytes: free })
      const some = spots.ids(spot).map((id) => {
        const [z, from] = [k.variable("f32", Number.NEGATIVE_INFINITY), k.madWide(id, 4, logits)]
        k.when(k.compare("lt", id, allowed), () => k.load("f32", [z], from))
        return { z, id }
      })
      for (const { z, id } of some)
        k.if(k.compare("ge", z, bound), () => {
          const at = k.fetchAddShared(counters + 4, 1)
          const entry = [keyOf(block, facts.top, z, sharpness), id]
          k.when(k.compare("lt", at, CAPACITY), () => k.storeShared({ base: k.shl(at, 3), bytes: list }, entry))
        })
      k.add(i, threads, i)
    },
  )
  const count = counted(block, counters + 4)
  k.select(k.both(k.compare("le", reached, CAPACITY), k.compare("le", count, CAPACITY)), count, 0, "u32", listed)
}

/** What all threads have counted. */
function counted({ k }: Block, counter: number): U32 {
  const count = k.register("u32")
  k.syncBlock()
  k.loadSharedWords([count], counter)
  return count
}
