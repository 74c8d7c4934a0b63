/** Random numbers of kernels against those of base-random.ts: the same bits for every counter. */
import { expect, test } from "bun:test"
import { normals, philox, randomBits, randomBlockAfter } from "../shaders/random.ts"
import { randomBits as bitsOf, normal } from "../src/base-random.ts"
import { f32, kernel, read, simulate, u32, write } from "../src/spirv.ts"

test("philox: the known answers of Random123", () => {
  const one = kernel({
    name: "philox",
    workgroup: 4,
    buffers: { from: read(u32), y: write(u32) },
    body(k, { from, y }) {
      const word = (i: number) => from.at(k.lane.mul(6).add(i))
      philox([word(0), word(1), word(2), word(3)], [word(4), word(5)]).forEach((bits, i) => y.set(k.lane.mul(4).add(i), bits))
    },
  })
  const ones = Array(6).fill(0xffffffff) as number[]
  const pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0]
  const y = new Uint32Array(16)
  simulate(one, { grid: [1], subgroupSize: 4, buffers: { from: Uint32Array.from([...Array(6).fill(0), ...ones, ...pi, ...pi]), y } })
  expect([...y.subarray(0, 12)]).toEqual([
    ...[0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ...[0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ...[0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ])
})

test("values by index, beyond 32 bits too", () => {
  const values = kernel({
    name: "values",
    workgroup: 64,
    buffers: { bits: write(u32), alone: write(u32), y: write(f32) },
    push: { seed: u32, stream: u32, step: u32, low: u32, high: u32 },
    body(k, { bits, alone, y, seed, stream, step, low, high }) {
      const source = { seed, stream, step }
      const first = high.toU64().shl(32).add(low.toU64())
      const words = randomBlockAfter(k, source, first.shr(2), k.lane)
      words.forEach((word, i) => {
        const at = k.lane.mul(4).add(i)
        bits.set(at, word)
        alone.set(at, randomBits(k, source, first.add(at.toU64())))
      })
      normals(k, words).forEach((value, i) => y.set(k.lane.mul(4).add(i), value))
    },
  })
  for (const [seed, step, first] of [
    [7, 0, 0],
    [0xfffffffb, 9, 2 ** 34 - 128],
    [1, 0xffffffff, 2 ** 40 + 4],
  ] as const) {
    const [bits, alone, y] = [new Uint32Array(256), new Uint32Array(256), new Float32Array(256)]
    const push = { seed, stream: 65537, step, low: first >>> 0, high: Math.floor(first / 2 ** 32) }
    simulate(values, { grid: [1], buffers: { bits, alone, y }, push })
    const want = Array.from(bits, (_, i) => bitsOf(seed, 65537, step, first + i))
    expect([...bits]).toEqual(want)
    expect([...alone]).toEqual(want)
    y.forEach((value, i) => void expect(Math.abs(value - normal(seed, 65537, step, first + i))).toBeLessThan(2e-6))
  }
})
