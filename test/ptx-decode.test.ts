/** Few sequences through all layers in one launch, run on the CPU instruction by instruction against f64. */
import { test } from "bun:test"
import { type DecodeStack, ptxDecode, workOf } from "../shaders/ptx-decode.ts"
import { checkStack, type StackKernel } from "./ptx-stack.ts"

const MS = 300_000
/** Where tokens are chosen, arrivals are counted on. */
const counters = ({ allowed, blocks }: DecodeStack, launches: number) => [allowed === undefined ? 0 : launches * blocks, launches] as const
const few: StackKernel = { make: ptxDecode, bytes: (stack) => workOf(stack).bytes, counters }
const stack: DecodeStack = {
  ...{ rows: 1, C: 256, F: 512, layers: 2, activation: "gelu_tanh", scale: 0.125, eps: 1e-5, hasBias: true },
  ...{ maxPages: 5, blocks: 5, classes: 0 },
}

for (const [about, own, lengths, timing] of [
  ["one sequence, three units of attention", {}, [290], "random"],
  ["the first position of all, by blocks of which some have no columns", { layers: 1, hasBias: false, F: 256, blocks: 14 }, [0], "late"],
  [
    "3 sequences of which each is sampled in another way, a last pair of logits of which one is none",
    { ...{ rows: 4, layers: 1, hasBias: false, F: 256, blocks: 5 }, classes: 333, allowed: 301 },
    [3, 64, 5, undefined],
    "random",
  ],
  ["4 sequences, lengths around units and warps' parts, one missing", { rows: 4, blocks: 7 }, [127, undefined, 128, 15], "random"],
] as const)
  test(about, () => void checkStack(few, { ...stack, ...own }, lengths, timing), MS)
