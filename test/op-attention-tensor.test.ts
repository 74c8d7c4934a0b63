/** The matrix kernels of attention in the simulator, against the f64 reference: whole and partial tiles, shared key heads, large scores. */
import { expect, test } from "bun:test"
import { attention, attentionBackward, checkCase } from "../src/op.ts"
import { counters } from "../src/op-attention-heads.ts"
import type { Op } from "../src/program.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

const TILES = [
  { B: 1, T: 128, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, about: "whole tiles" },
  { B: 2, T: 70, nHead: 2, nKvHead: 1, headDim: 32, scale: 0.2, about: "partial tiles, shared key heads, two sequences" },
  { B: 1, T: 3, nHead: 1, nKvHead: 1, headDim: 96, scale: 0.1, about: "few rows, wider heads" },
  { B: 1, T: 66, nHead: 1, nKvHead: 1, headDim: 160, scale: 0.1, about: "widest heads" },
  { B: 2, T: 67, nHead: 2, nKvHead: 2, headDim: 32, scale: 0.2, dropout: 0.4, about: "dropout, rows of bits that are not aligned" },
  { B: 1, T: 128, nHead: 2, nKvHead: 1, headDim: 32, scale: 0.2, dropout: 0.2, about: "dropout, whole tiles" },
  { B: 1, T: 130, nHead: 1, nKvHead: 1, headDim: 32, scale: 12, about: "scores that pass the first reference" },
]
const FRAGMENTS = [
  { B: 1, T: 256, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, about: "fragments" },
  { B: 2, T: 128, nHead: 2, nKvHead: 1, headDim: 128, scale: 0.09, about: "fragments of the widest heads, shared key heads" },
  { B: 1, T: 128, nHead: 1, nKvHead: 1, headDim: 96, scale: 0.1, about: "fragments of wide heads" },
  { B: 1, T: 256, nHead: 2, nKvHead: 2, headDim: 32, scale: 0.2, dropout: 0.3, about: "fragments of narrow heads, dropout" },
  { B: 1, T: 256, nHead: 1, nKvHead: 1, headDim: 64, scale: 6, about: "fragments, large scores" },
]
const cases = (path: "nv2" | "khr", list: readonly (Omit<(typeof TILES)[number], "dropout"> & { readonly dropout?: number })[]) =>
  list.map((given) => ({ ...given, path }))
for (const { path, B, T, about, dropout = 0, ...heads } of [...cases("nv2", TILES), ...cases("khr", FRAGMENTS)]) {
  const device = simulatedDevice(32, path)
  const { nHead: H, nKvHead: K, headDim: D } = heads
  const attrs = { ...heads, T, dropout, site: 3 }
  const qkv = [B * T, (H + 2 * K) * D]
  const run = (op: unknown, given: Record<string, number[]>) => {
    const inputs = { ...given, ...(dropout > 0 ? counters : {}) }
    const { worst, tensor } = checkCase(device, { op: op as Op, opCase: { inputs, attrs }, index: 1, act: "bf16", beta: 0 })
    expect(worst, tensor).toBeLessThanOrEqual(1)
  }
  test(`attention, ${about}`, () => run(attention, { qkv }), 60_000)
  if (heads.scale < 1)
    test(
      `attention_backward, ${about}`,
      () => run(attentionBackward, { qkv, y: [B * T, H * D], lse: [B * T, H], dy: [B * T, H * D] }),
      60_000,
    )
}
