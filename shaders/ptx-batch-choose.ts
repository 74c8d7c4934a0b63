/** The end of the kernel for many sequences where it chooses tokens: who waits for all logits, and takes a row. */
import type { U64 } from "../src/ptx.ts"
import { awaitAll, type Frame, signal, THREADS } from "./ptx-batch-frame.ts"
import { sample, type sampleBuffers } from "./ptx-sample.ts"

/** Addresses of the logits and of what sampling is given. */
export type Choosing = { readonly [N in keyof typeof sampleBuffers | "logits"]: U64 }

/** Each row's token, chosen by a block of its own when all blocks have stored their logits. */
export function choose(f: Frame, given: Choosing): void {
  const { k, stack, thread, block } = f
  const { rows, classes, allowed = classes } = stack
  signal(f)
  k.if(k.compare("lt", block, rows), () => {
    awaitAll(f)
    sample({ k, threads: THREADS, thread, shared: 0, classes, allowed }, k.madWide(block, 4 * classes, given.logits), block, given)
  })
}
