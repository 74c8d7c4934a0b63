/** Counter-based random numbers: (seed, stream, step, index) → value, the same bits on every device. */

/** Multipliers and key increments of Philox4x32. */
const M0 = 0xd2511f53
const M1 = 0xcd9e8d57
const W0 = 0x9e3779b9
const W1 = 0xbb67ae85

/**
 * Philox4x32-10: four random 32-bit words of counter (c0, c1, c2, c3) under key (k0, k1), written to out[0..3].
 * Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; checked with Random123's known answers.
 */
export function philox(c0: number, c1: number, c2: number, c3: number, k0: number, k1: number, out: Uint32Array): void {
  let x0 = c0 | 0
  let x1 = c1 | 0
  let x2 = c2 | 0
  let x3 = c3 | 0
  let key0 = k0 | 0
  let key1 = k1 | 0
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(M0, x0)
    const high1 = mulHigh(M1, x2)
    const low0 = Math.imul(M0, x0)
    const low1 = Math.imul(M1, x2)
    x0 = high1 ^ x1 ^ key0
    x1 = low1
    x2 = high0 ^ x3 ^ key1
    x3 = low0
    key0 = (key0 + W0) | 0
    key1 = (key1 + W1) | 0
  }
  out[0] = x0
  out[1] = x1
  out[2] = x2
  out[3] = x3
}

/** High 32 bits of the unsigned 64-bit product, in four 16-bit products because a double holds only 53 bits. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff
  const aHigh = a >>> 16
  const bLow = b & 0xffff
  const bHigh = b >>> 16
  const cross = aHigh * bLow + ((aLow * bLow) >>> 16) // ≤ (2^16 - 1)·2^16 < 2^32
  const middle = aLow * bHigh + (cross & 0xffff) // < 2^32
  return (aHigh * bHigh + (cross >>> 16) + (middle >>> 16)) | 0
}

const lanes = new Uint32Array(4)

/** Fills `lanes` with the block that holds value `index`: counter = (index>>2 low, index>>2 high, step, 0), key = (seed, stream). */
function block(seed: number, stream: number, step: number, index: number): void {
  const group = Math.floor(index / 4)
  philox(group, Math.floor(group / 2 ** 32), step, 0, seed, stream, lanes)
}

/** 32 random bits of value `index` (an integer in [0, 2^53)) of (seed, stream) at `step`. */
export function randomBits(seed: number, stream: number, step: number, index: number): number {
  block(seed, stream, step, index)
  return lanes[index % 4]!
}

/** Uniform in [0, 1), a multiple of 2^-24 and so exact in f32. */
export function uniform(seed: number, stream: number, step: number, index: number): number {
  return (randomBits(seed, stream, step, index) >>> 8) / 2 ** 24
}

/** Standard normal by Box–Muller: lanes (0, 1) and (2, 3) of a block give two values each, even lane cosine, odd lane sine. */
export function normal(seed: number, stream: number, step: number, index: number): number {
  block(seed, stream, step, index)
  const lane = index % 4
  const pair = lane & 2
  const radius = Math.sqrt(-2 * Math.log(((lanes[pair]! >>> 8) + 1) / 2 ** 24))
  const angle = (2 * Math.PI * (lanes[pair + 1]! >>> 8)) / 2 ** 24
  return lane % 2 === 0 ? radius * Math.cos(angle) : radius * Math.sin(angle)
}

/** out[i] = std · normal(seed, stream, 0, i), rounded to out's type; the bulk form of `normal`. */
export function fillNormal(out: Float32Array | Float64Array, seed: number, stream: number, std: number): void {
  for (let start = 0; start < out.length; start += 4) {
    block(seed, stream, 0, start)
    for (let pair = 0; pair < 4; pair += 2) {
      const radius = std * Math.sqrt(-2 * Math.log(((lanes[pair]! >>> 8) + 1) / 2 ** 24))
      const angle = (2 * Math.PI * (lanes[pair + 1]! >>> 8)) / 2 ** 24
      out[start + pair] = radius * Math.cos(angle) // a write past the end of a typed array does nothing
      out[start + pair + 1] = radius * Math.sin(angle)
    }
  }
}
