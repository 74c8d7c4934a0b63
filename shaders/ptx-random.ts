/** Counter-based random numbers in PTX: the Philox4x32-10 of src/base-random.ts, the same bits. */
import type { F32, Ptx, U32 } from "../src/ptx.ts"

/** Multipliers and key increments of Philox4x32. */
const [M0, M1, W0, W1] = [0xd2511f53, 0xcd9e8d57, 0x9e3779b9, 0xbb67ae85]

/** Uniform in [0, 1): value 0 of a stream at a step. Source: Salmon, Moraes, Dror, Shaw 2011. */
export function uniformAt(k: Ptx, seed: U32, stream: number, step: U32): F32 {
  const zero = k.variable("u32", 0)
  let [x0, x1, x2, x3]: [U32, U32, U32, U32] = [zero, zero, step, zero]
  let [key0, key1] = [seed, k.variable("u32", stream)]
  for (let round = 0; round < 10; round++) {
    const [high0, low0, high1, low1] = [k.mulHigh(x0, M0), k.mul(x0, M0), k.mulHigh(x2, M1), k.mul(x2, M1)]
    ;[x0, x1, x2, x3] = [k.xor(k.xor(high1, x1), key0), low1, k.xor(k.xor(high0, x3), key1), low0]
    ;[key0, key1] = [k.add(key0, W0), k.add(key1, W1)]
  }
  return k.mulFloat(k.toFloat(k.shr(x0, 8)), 2 ** -24)
}
