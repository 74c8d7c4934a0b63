/** Cases of attention and of its gradient on a simulated device, against the f64 reference. */
import { expect, test } from "bun:test"
import { attention, attentionBackward, checkCase } from "../src/op.ts"
import { counters } from "../src/op-attention-heads.ts"
import type { Device, Op } from "../src/program.ts"

export interface AttentionCase {
  readonly B: number
  readonly T: number
  readonly nHead: number
  readonly nKvHead: number
  readonly headDim: number
  readonly scale: number
  readonly dropout?: number
  readonly about: string
}

/** A test for each, and for its gradient where the scores are not large. */
export function testAttention(device: Device, cases: readonly AttentionCase[], timeout: number): void {
  for (const { B, T, about, dropout = 0, ...heads } of cases) {
    const { nHead: H, nKvHead: K, headDim: D } = heads
    const attrs = { ...heads, T, dropout, site: 3 }
    const qkv = [B * T, (H + 2 * K) * D]
    const run = (op: unknown, given: Record<string, number[]>) => {
      const inputs = { ...given, ...(dropout > 0 ? counters : {}) }
      const { worst, tensor } = checkCase(device, { op: op as Op, opCase: { inputs, attrs }, index: 1, act: "bf16", beta: 0 })
      expect(worst, tensor).toBeLessThanOrEqual(1)
    }
    test(`attention, ${about}`, () => run(attention, { qkv }), timeout)
    if (heads.scale < 1)
      test(
        `attention_backward, ${about}`,
        () => run(attentionBackward, { qkv, y: [B * T, H * D], lse: [B * T, H], dy: [B * T, H * D] }),
        timeout,
      )
  }
}
