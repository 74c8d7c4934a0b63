/** Code points in UTF-8 bytes: decoding, general categories. */

/** What `decodeAt` gives as code point of a byte that is not part of valid UTF-8: no letter, number or space. */
export const INVALID = 0x110000

/** Category bits of `categoryOf`. A code point has at most one of LETTER, NUMBER, SPACE. */
export const LETTER = 1 // \p{L}
export const NUMBER = 2 // \p{N}
export const SPACE = 4 // \p{White_Space}: what \s is in Rust and Oniguruma; JavaScript's \s adds U+FEFF and lacks U+0085
export const UPPER = 8 // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
export const LOWER = 16 // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
const KNOWN = 128

const isLetter = /^\p{L}/u
const isNumber = /^\p{N}/u
const isSpace = /^\p{White_Space}/u
const isUpper = /^[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]/u
const isLower = /^[\p{Ll}\p{Lm}\p{Lo}\p{M}]/u

/** Bits by code point; 0 = not asked for yet, so that start-up does not pay for 1.1 million code points. */
const categories = new Uint8Array(INVALID + 1)
categories[INVALID] = KNOWN

function classify(codePoint: number): number {
  const text = String.fromCodePoint(codePoint)
  let bits = KNOWN
  if (isLetter.test(text)) bits |= LETTER
  if (isNumber.test(text)) bits |= NUMBER
  if (isSpace.test(text)) bits |= SPACE
  if (isUpper.test(text)) bits |= UPPER
  if (isLower.test(text)) bits |= LOWER
  categories[codePoint] = bits
  return bits
}

/** Category bits of a code point, from the runtime's own Unicode tables. */
export function categoryOf(codePoint: number): number {
  return categories[codePoint]! || classify(codePoint)
}

/** `categoryOf` for ASCII, without the bookkeeping bit. */
export const asciiCategories = Uint8Array.from({ length: 128 }, (_, byte) => classify(byte) & ~KNOWN)

/**
 * The code point at `at` and its length in bytes, packed as codePoint · 8 + length. A byte that does not begin a valid
 * sequence within [at, end) (stray, overlong, surrogate, beyond U+10FFFF, cut off) is INVALID with length 1.
 */
export function decodeAt(bytes: Uint8Array, at: number, end: number): number {
  const b0 = bytes[at]!
  if (b0 < 0x80) return (b0 << 3) | 1
  if (b0 < 0xc2 || b0 > 0xf4 || at + 1 >= end) return (INVALID << 3) | 1
  const b1 = bytes[at + 1]! ^ 0x80
  if (b1 > 0x3f) return (INVALID << 3) | 1
  if (b0 < 0xe0) return (((b0 & 0x1f) << 6) | b1) * 8 + 2
  if (at + 2 >= end) return (INVALID << 3) | 1
  const b2 = bytes[at + 2]! ^ 0x80
  if (b2 > 0x3f) return (INVALID << 3) | 1
  if (b0 < 0xf0) {
    const codePoint = ((b0 & 0x0f) << 12) | (b1 << 6) | b2
    if (codePoint < 0x800 || (codePoint >= 0xd800 && codePoint < 0xe000)) return (INVALID << 3) | 1
    return (codePoint << 3) | 3
  }
  if (at + 3 >= end) return (INVALID << 3) | 1
  const b3 = bytes[at + 3]! ^ 0x80
  if (b3 > 0x3f) return (INVALID << 3) | 1
  const codePoint = ((b0 & 0x07) << 18) | (b1 << 12) | (b2 << 6) | b3
  if (codePoint < 0x10000 || codePoint > 0x10ffff) return (INVALID << 3) | 1
  return (codePoint << 3) | 4
}
