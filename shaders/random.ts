/** Counter-based random numbers in kernels: the Philox4x32-10 of src/base-random.ts, the same bits. */
import type { Body, F32, U32, U64 } from "../src/spirv.ts"

/** Multipliers and key increments of Philox4x32. */
const [M0, M1, W0, W1] = [0xd2511f53, 0xcd9e8d57, 0x9e3779b9, 0xbb67ae85]

/** The four random words of a block, in index order. */
export type Words = readonly [U32, U32, U32, U32]

/** Four random words of a counter under a key. About 60 instructions. Source: Salmon, Moraes, Dror, Shaw 2011. */
export function philox(counter: Words, key: readonly [U32, U32]): Words {
  let [x0, x1, x2, x3] = counter
  let [key0, key1] = key
  for (let round = 0; round < 10; round++) {
    const [high0, low0, high1, low1] = [x0.mulHigh(M0), x0.mul(M0), x2.mulHigh(M1), x2.mul(M1)]
    ;[x0, x1, x2, x3] = [high1.xor(x1).xor(key0), low1, high0.xor(x3).xor(key1), low0]
    ;[key0, key1] = [key0.add(W0), key1.add(W1)]
  }
  return [x0, x1, x2, x3]
}

/** What a random value depends on beside its index; the numbers of an op are live i32 scalars: `seed.toU32()`. */
export interface Source {
  readonly seed: U32
  readonly stream: U32
  readonly step: U32
}

/** The words of values 4·block … 4·block + 3, block = low + 2^32·high. */
export const randomBlock = (k: Body, { seed, stream, step }: Source, low: U32, high: U32): Words =>
  philox([low, high, step, k.u32(0)], [seed, stream])

/** The words of values 4·(block + offset) …: so that a lane near `block`, which is the same for all, needs no 64-bit sums of its own. */
export function randomBlockAfter(k: Body, source: Source, block: U64, offset: U32): Words {
  const first = block.toU32()
  const low = first.add(offset)
  return randomBlock(
    k,
    source,
    low,
    block
      .shr(32)
      .toU32()
      .add(low.lt(first).select(k.u32(1), 0)),
  )
}

/** The word of value `index` alone: a whole block's work. */
export function randomBits(k: Body, source: Source, index: U64): U32 {
  const [w0, w1, w2, w3] = randomBlock(k, source, index.shr(2).toU32(), index.shr(34).toU32())
  const word = index.toU32()
  const isOdd = word.and(1).eq(1)
  return word.and(2).eq(2).select(isOdd.select(w3, w2), isOdd.select(w1, w0))
}

/** Uniform in [0, 1), a multiple of 2^-24. Dropout with probability p keeps where the 24 bits behind it are ≥ ⌈p·2^24⌉: `bits.shr(8).ge(threshold)`. */
export const uniform = (bits: U32): F32 =>
  bits
    .shr(8)
    .toF32()
    .mul(2 ** -24)

/** Standard normals of a block, by Box–Muller on words (0, 1) and (2, 3): even values cosine, odd ones sine. */
export function normals(k: Body, [w0, w1, w2, w3]: Words): readonly [F32, F32, F32, F32] {
  return [...pair(k, w0, w1), ...pair(k, w2, w3)]
}

function pair(k: Body, first: U32, second: U32): readonly [F32, F32] {
  const radius = log(
    k,
    first
      .shr(8)
      .add(1)
      .toF32()
      .mul(2 ** -24),
  )
    .mul(-2)
    .sqrt()
  const turn = uniform(second)
  return [radius.mul(cosTurn(k, turn)), radius.mul(cosTurn(k, turn.sub(0.25)))]
}

const horner = (k: Body, q: F32, coefficients: readonly number[]): F32 =>
  coefficients.slice(1).reduce((sum, c) => sum.mul(q).add(c), k.f32(coefficients[0]!))

/** ln x for normal positive x, ≤ 2 ulp (a device's own may be off by 2^-21 near 1): x = 2^e·m, m in [√½, √2), ln m = 2·atanh((m − 1)/(m + 1)). */
function log(k: Body, x: F32): F32 {
  const e = x.bits().toI32().sub(0x3f3504f3).shr(23)
  const m = x.bits().sub(e.toU32().shl(23)).asF32()
  const s = m.sub(1).div(m.add(1))
  const q = s.mul(s)
  const p = horner(k, q, [2 / 9, 2 / 7, 2 / 5, 2 / 3])
  return e
    .toF32()
    .mul(Math.LN2)
    .add(s.mul(q).mul(p).add(s.mul(2)))
}

/** cos 2πt for |t| ≤ 1, absolute error below 2e-7 (a device's own: 2^-11): folded to a quarter turn, then the series of the cosine. */
function cosTurn(k: Body, t: F32): F32 {
  const half = t.abs().gt(0.5).select(k.f32(1).sub(t.abs()), t.abs())
  const isBeyond = half.gt(0.25)
  const x = isBeyond.select(k.f32(0.5).sub(half), half).mul(2 * Math.PI)
  const p = horner(k, x.mul(x), [2.0876757e-9, -2.75573192e-7, 2.48015873e-5, -1.38888889e-3, 4.16666667e-2, -0.5, 1])
  return isBeyond.select(p.neg(), p)
}
