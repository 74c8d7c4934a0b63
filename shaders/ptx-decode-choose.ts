/** The end of the decode kernel where it chooses tokens: who waits for all logits, and takes a row. */
import type { U32, U64 } from "../src/ptx.ts"
import { type DecodeStack, type Frame, THREADS } from "./ptx-decode-frame.ts"
import { canSample, sample, type sampleBuffers } from "./ptx-sample.ts"

/** Addresses of the logits and of what sampling is given. */
export type Choosing = { readonly [N in keyof typeof sampleBuffers | "logits"]: U64 }

/** Whether tokens can be chosen of the logits: a block for each row. */
export const canChoose = ({ rows, blocks }: DecodeStack, allowed: number): boolean => rows <= blocks && canSample(THREADS, allowed)

/**
 * Each row's token, chosen by a block of its own as soon as all blocks have stored their logits. What it writes may be where the embeddings' tokens were read:
 * nobody reads those any more, for all logits depend on them.
 */
export function choose({ k, stack, thread, block }: Frame, sync: U64, launch: U32, given: Choosing): void {
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
    sample({ k, threads: THREADS, thread, shared: 0, classes, allowed }, k.madWide(block, 4 * classes, given.logits), block, given)
  })
}
