/** Matrix products that perf/gemm.ts times. */
import type { Gemm } from "../src/op-matmul-request.ts"

export interface Shape {
  readonly layout: Gemm["layout"]
  readonly M: number
  readonly N: number
  readonly K: number
  readonly out: "f32" | "bf16"
  readonly what?: "bias" | "bias gelu" | "factor" | "beta" | "sums"
}

const LAYOUTS = ["nt", "nn", "tn"] as const
const square = (size: number, out: Shape["out"]): Shape[] => LAYOUTS.map((layout) => ({ layout, M: size, N: size, K: size, out }))

/** A layer forward, its input's gradient and its weight's. */
function layer(rows: number, input: number, output: number, forward?: Shape["what"], backward?: Shape["what"]): Shape[] {
  return [
    { layout: "nt", M: rows, N: output, K: input, out: "bf16", ...(forward && { what: forward }) },
    { layout: "nn", M: rows, N: input, K: output, out: "bf16", ...(backward && { what: backward }) },
    { layout: "tn", M: output, N: input, K: rows, out: "f32" },
  ]
}

/** All products of a GPT's training step; the logits are made `chunk` rows at a time. */
function step(rows: number, C: number, vocabulary: number, chunk: number): Shape[] {
  return [
    ...layer(rows, C, 3 * C, "bias"),
    ...layer(rows, C, C, "bias"),
    ...layer(rows, C, 4 * C, "bias gelu"),
    ...layer(rows, 4 * C, C, "bias", "factor"),
    { layout: "nt", M: chunk, N: vocabulary, K: C, out: "bf16" },
    { layout: "nn", M: chunk, N: C, K: vocabulary, out: "bf16" },
    { layout: "tn", M: vocabulary, N: C, K: chunk, out: "f32", what: "beta" },
  ]
}

/** A step of gpt2-124m and one of shakespeare-char at 16,384 rows. */
const train = [...square(4096, "bf16"), ...step(16384, 768, 50304, 8192), ...step(16384, 384, 65, 16384)]

/** Linear layers of gpt2-124m, in → out. */
const LAYERS = [
  [768, 2304],
  [768, 768],
  [768, 3072],
  [3072, 768],
  [768, 50304],
] as const

const BAR = [
  [65536, 2304, 768],
  [65536, 768, 768],
  [65536, 3072, 768],
  [65536, 768, 3072],
  [65536, 768, 2304],
  [16384, 50304, 768],
  [16384, 768, 50304],
] as const

export const SHAPES = {
  train,
  large: [
    ...square(4096, "bf16"),
    ...square(4096, "f32"),
    ...square(8192, "bf16"),
    ...step(65536, 768, 50304, 8192),
    ...step(16384, 1600, 50304, 8192),
  ],
  /** What a peer is compared by: y = x·wᵀ of gpt2-124m at 65,536 rows, its classifier, and squares. */
  bar: [
    ...[4096, 8192].map((size): Shape => ({ layout: "nt", M: size, N: size, K: size, out: "bf16" })),
    ...BAR.map(([M, N, K]): Shape => ({ layout: "nt", M, N, K, out: "bf16" })),
  ],
  /** Weights' gradients that bring the sums of the output's gradient along. */
  sums: [
    { layout: "tn", M: 2304, N: 768, K: 65536, out: "f32", what: "sums" },
    { layout: "tn", M: 768, N: 3072, K: 65536, out: "f32", what: "sums" },
    { layout: "tn", M: 3072, N: 1024, K: 16384, out: "f32", what: "sums" },
  ],
  /** Widths of 1,024 and 1,280. */
  wide: [...step(16384, 1024, 50304, 8192), ...step(8192, 1280, 50304, 8192)],
  decode: [1, 16, 32, 64, 256, 1024].flatMap((M) => LAYERS.map(([K, N]): Shape => ({ layout: "nt", M, N, K, out: "bf16" }))),
  /** Edges, rows that are not aligned to 16 bytes, long sums. */
  edges: [
    { layout: "nt", M: 1000, N: 50257, K: 768, out: "bf16" },
    { layout: "nn", M: 1000, N: 768, K: 50257, out: "bf16" },
    { layout: "tn", M: 50257, N: 768, K: 1000, out: "f32" },
    { layout: "nn", M: 333, N: 129, K: 77, out: "f32" },
    { layout: "nt", M: 5, N: 24, K: 40, out: "bf16", what: "bias" },
    { layout: "nt", M: 520, N: 416, K: 616, out: "bf16", what: "bias" },
    { layout: "nt", M: 1001, N: 1000, K: 520, out: "bf16", what: "bias gelu" },
    { layout: "nt", M: 1001, N: 1024, K: 520, out: "bf16", what: "bias gelu" },
    { layout: "nn", M: 777, N: 1000, K: 520, out: "bf16", what: "factor" },
    { layout: "nn", M: 777, N: 1024, K: 616, out: "bf16", what: "factor" },
    { layout: "tn", M: 1000, N: 776, K: 4104, out: "f32", what: "beta" },
    { layout: "nt", M: 512, N: 384, K: 65536, out: "bf16" },
    { layout: "tn", M: 512, N: 384, K: 65536, out: "f32" },
  ],
  /** For trying this program. */
  tiny: [...square(128, "bf16"), ...step(256, 64, 65, 256)],
} as const satisfies Readonly<Record<string, readonly Shape[]>>
