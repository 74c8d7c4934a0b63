/** Arithmetic of 64 bits in two words. */
import type { Work } from "./ptx-compile.ts"
import { LANES, type Registers } from "./ptx-registers.ts"
import type { Instruction, Value } from "./ptx-text.ts"

/** The last result of multiplyAdd. */
export const wide = { low: 0, high: 0 }

/** x·y + (high, low): no sum on the way needs more than the 53 bits of a number. */
export function multiplyAdd(x: number, y: number, low: number, high: number): void {
  const upper = (x >>> 16) * y
  const sum = (x & 0xffff) * y + (upper % 0x10000) * 0x10000 + low
  wide.low = sum >>> 0
  wide.high = (Math.floor(sum / 2 ** 32) + Math.floor(upper / 0x10000) + high) >>> 0
}

const LONG: Record<string, (x: bigint, y: bigint, z: bigint) => bigint> = {
  sub: (x, y) => x - y,
  mad: (x, y, z) => x * y + z,
  or: (x, y) => x | y,
  shl: (x, y) => x << (y & 63n),
  shr: (x, y) => x >> (y & 63n),
}

/** An instruction on 64-bit registers; shifts go by 32-bit ones. */
export function ofLongs({ parts: [verb = ""], operands }: Instruction, r: Registers): Work {
  const [first, second, third, fourth] = operands as readonly [Value, Value, Value, Value]
  const [to, x] = [r.long(first), r.long(second)]
  if (verb === "mov")
    return (_, { words }, lanes) => {
      for (const lane of lanes) {
        words[to + lane] = words[x + lane]!
        words[to + LANES + lane] = words[x + LANES + lane]!
      }
    }
  const isShift = verb === "shl" || verb === "shr"
  const y = isShift ? r.word(third) : r.long(third)
  if (verb === "add")
    return (_, { words }, lanes) => {
      for (const lane of lanes) {
        const low = words[x + lane]! + words[y + lane]!
        words[to + LANES + lane] = words[x + LANES + lane]! + words[y + LANES + lane]! + (low >= 2 ** 32 ? 1 : 0)
        words[to + lane] = low
      }
    }
  const compute = LONG[verb]
  if (compute === undefined) throw new Error("unknown instruction")
  const z = fourth === undefined ? x : r.long(fourth)
  const of = (words: Uint32Array, at: number) => (BigInt(words[at + LANES]!) << 32n) | BigInt(words[at]!)
  return (_, { words }, lanes) => {
    for (const lane of lanes) {
      const by = isShift ? BigInt(words[y + lane]!) : of(words, y + lane)
      const value = compute(of(words, x + lane), by, of(words, z + lane))
      words[to + lane] = Number(value & 0xffffffffn)
      words[to + LANES + lane] = Number((value >> 32n) & 0xffffffffn)
    }
  }
}
