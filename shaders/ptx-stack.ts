/** The launches that take a token of up to 64 sequences through a whole model: the kernel of a stack, and those that the pack holds. */
import type { PtxKernel } from "../src/ptx.ts"
import { batchWork, isBatch, ptxBatch } from "./ptx-batch.ts"
import { canChoose, type DecodeStack, hasRoom, ptxDecode, workOf } from "./ptx-decode.ts"

/** Sequences, and channels, up to which the kernel of a few is taken (perf/LOG.md, "Generation with all layers in one launch of PTX, 1 to 64 sequences"). */
const MOST_ROWS = 4
const MOST_CHANNELS = 1024

/** A stack's kernel and its bytes of work memory. */
export interface StackKernel {
  readonly kernel: PtxKernel
  readonly workBytes: number
}

/** The kernel of a few sequences, or of many; undefined where neither does such a stack. */
export function stackKernel(stack: DecodeStack): StackKernel | undefined {
  const { rows, C, F, allowed } = stack
  const name = `decode_${Bun.hash(JSON.stringify(stack)).toString(16).padStart(16, "0")}`
  const of = (kernel: unknown, workBytes: number) => ({ kernel: Object.assign(kernel as PtxKernel, { isMade: true }), workBytes })
  const isFew = rows <= MOST_ROWS && C % 256 === 0 && C <= MOST_CHANNELS && F % 256 === 0 && hasRoom(stack)
  if (isFew) return allowed === undefined || canChoose(stack, allowed) ? of(ptxDecode(name, stack), workOf(stack).bytes) : undefined
  return isBatch(stack) ? of(ptxBatch(name, stack), batchWork(stack).bytes) : undefined
}

/** A stack's fields in the order in which its kernel's name has them. */
export const stackOf = ({
  rows,
  C,
  F,
  layers,
  hasBias,
  blocks,
  maxPages,
  classes,
  allowed,
  embeds,
  activation,
  scale,
  eps,
}: DecodeStack): DecodeStack => ({
  ...{ rows, C, F, layers, hasBias, blocks, maxPages, classes, activation, scale, eps },
  ...(allowed === undefined ? {} : { allowed }),
  ...(embeds === undefined ? {} : { embeds }),
})

/** GPT-2 of 124M parameters on an H100 or H200, as it is and with the vocabulary that nanoGPT pads: machine code of the build spares the first token 0.8 s. */
const COMMON: readonly DecodeStack[] = [50_257, 50_304].flatMap((classes) =>
  [1, 2, 4, 8, 16, 32, 64].map((rows) =>
    stackOf({
      ...{ rows, C: 768, F: 3072, layers: 12, hasBias: true, blocks: 132, maxPages: 16, classes, allowed: classes, embeds: true },
      ...{ activation: "gelu_tanh", scale: 0.125, eps: 1e-5 },
    }),
  ),
)
export const ptxStackKernels: readonly PtxKernel[] = COMMON.map((stack) => stackKernel(stack)!.kernel)
