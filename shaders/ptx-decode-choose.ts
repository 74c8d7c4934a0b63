/** The end of the decode kernel where it chooses tokens: each block tells what it saw of its logits, a block for each row waits for all, and chooses. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { type DecodeStack, type Frame, THREADS, workOf } from "./ptx-decode-frame.ts"
import type { Layout } from "./ptx-decode-product.ts"
import { canSample, sample, type sampleBuffers } from "./ptx-sample.ts"
import { type Block, NONE } from "./ptx-sample-block.ts"
import type { Known } from "./ptx-sample-cut.ts"
import { addLogits, addPart, factsOfParts, LOWEST, nothing, type Part } from "./ptx-sample-facts.ts"
import type { Spots } from "./ptx-sample-list.ts"

/** Addresses of the logits and of what sampling is given. */
export type Choosing = { readonly [N in keyof typeof sampleBuffers | "logits"]: U64 }

/** Whether tokens can be chosen of the logits: a block for each row. */
export const canChoose = ({ rows, blocks }: DecodeStack, allowed: number): boolean => rows <= blocks && canSample(THREADS, allowed)

/** What a thread that finishes columns of a row has seen of its logits, and the lowest token with the largest. */
interface Seen {
  readonly part: Part
  readonly id: U32
}
export const seenOf = ({ k }: Frame): Seen => ({ part: nothing(k), id: k.variable("u32", NONE) })

/** Two neighbours more. */
export function see({ k, stack }: Frame, { part, id }: Seen, column: U32, sums: readonly [F32, F32]): void {
  const { classes, allowed = classes } = stack
  const none = Number.NEGATIVE_INFINITY
  /** −∞ in place of those from a class on. */
  const upTo = (end: number) =>
    sums.map((z, e) => (end % 2 === 0 && end === classes ? z : k.select(k.compare("lt", column, end - e), z, none, "f32"))) as [F32, F32]
  const all = upTo(classes)
  addLogits(k, part, all, k.maxNumber(k.maxNumber(...all), part.most))
  const choosable = allowed === classes ? all : upTo(allowed)
  const top = k.maxNumber(...choosable)
  const isMore = k.compare("gt", top, part.top)
  const lower = k.select(k.compare("eq", choosable[0], top), column, k.add(column, 1), "u32")
  k.select(isMore, lower, id, "u32", id)
  k.select(isMore, top, part.top, "f32", part.top)
}

/** Threads that finish the columns of a row. */
const perRowOf = ({ step }: Layout): number => step / 2
/** Where a row's parts begin in the work memory; 16 bytes each, by block, then by thread. */
const partsAt = ({ k, stack, work }: Frame, row: U32, layout: Layout): U64 =>
  k.madWide(row, 16 * stack.blocks * perRowOf(layout), k.addLong(work, workOf(stack).parts))

/** Stores what this thread has seen, where it finishes columns. */
export function tell(f: Frame, { part: { most, sum, top }, id }: Seen, layout: Layout): void {
  const { k, stack, thread, block } = f
  const perRow = perRowOf(layout)
  k.if(k.compare("lt", thread, stack.rows * perRow), () => {
    const to = k.madWide(k.mad(block, perRow, k.rem(thread, perRow)), 16, partsAt(f, k.div(thread, perRow), layout))
    k.storeVolatile(to, 0, [most, sum, top, id])
  })
}

/** What is known of row number `block`, by what all blocks have told; a spot is what one thread of a block has seen. */
function told(f: Frame, block: Block, layout: Layout): Known {
  const { k, stack } = f
  const { thread } = block
  const perRow = perRowOf(layout)
  const all = stack.blocks * perRow
  const from = k.madWide(thread, 16, partsAt(f, f.block, layout))
  const parts = Array.from({ length: Math.ceil(all / THREADS) }, (_, i) => {
    const found = [k.variable("f32", LOWEST), k.variable("f32", 0), k.variable("f32", LOWEST)] as const
    const id = k.variable("u32", NONE)
    k.when(k.compare("lt", thread, all - THREADS * i), () => k.loadFar([...found, id], from, 16 * THREADS * i))
    return { part: { most: found[0], sum: found[1], top: found[2] }, id }
  })
  const [part, id] = [nothing(k), k.variable("u32", NONE)]
  for (const other of parts) {
    addPart(k, part, other.part)
    const isMore = k.compare("gt", other.part.top, part.top)
    k.select(isMore, other.id, id, "u32", id)
    k.select(isMore, other.part.top, part.top, "f32", part.top)
  }
  const spots: Spots = {
    reaching: (bound, use) =>
      parts.forEach(({ part: { top } }, i) => k.if(k.compare("ge", top, bound), () => use(k.add(thread, THREADS * i)))),
    ids(spot) {
      const pair = k.shl(k.rem(spot, perRow), 1)
      const first = k.mad(k.div(spot, perRow), layout.columns, pair)
      return Array.from({ length: Math.ceil(layout.columns / layout.step) }, (_, round) => layout.step * round).flatMap((before) => {
        const isThere = k.compare("lt", pair, layout.columns - before)
        return [0, 1].map((e) => k.select(isThere, k.add(first, before + e), NONE, "u32"))
      })
    },
  }
  return { facts: factsOfParts(block, part, id), spots }
}

/**
 * Each row's token, chosen by a block of its own as soon as all blocks have stored their logits. What it writes may be where the embeddings' tokens were read:
 * nobody reads those any more, for all logits depend on them.
 */
export function choose(f: Frame, sync: U64, launch: U32, layout: Layout, given: Choosing): void {
  const { k, stack, thread, block } = f
  const { rows, classes, blocks, allowed = classes } = stack
  const next = k.add(launch, 1)
  const isFirst = k.compare("eq", thread, 0)
  k.syncBlock()
  k.when(isFirst, () => k.emit("red.release.gpu.global.add.u32", `[${sync.name}]`, 1))
  k.if(k.compare("lt", block, rows), () => {
    k.if(isFirst, () => {
      const [again, seen] = [k.label("LOGITS"), k.register("u32")]
      k.place(again)
      k.loadAcquire(seen, sync)
      k.jump(again, k.compare("ne", seen, k.mul(next, blocks)))
    })
    k.when(k.both(isFirst, k.compare("eq", block, 0)), () => k.store("u32", sync, 4, [next]))
    k.syncBlock()
    const sampling = { k, threads: THREADS, thread, shared: 0, classes, allowed }
    sample(sampling, k.madWide(block, 4 * classes, given.logits), block, given, (own) => told(f, own, layout))
  })
}
