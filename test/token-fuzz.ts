/** Seeded random text for the tokenizer tests: the characters that split patterns treat differently, and arbitrary bytes. */

/** Random integers below n, the same for the same seed (Numerical Recipes' linear congruential generator, upper bits). */
export function randomSource(seed: number): (n: number) => number {
  let state = seed | 0
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return Math.floor(((state >>> 8) / 2 ** 24) * n)
  }
}

const POOLS = [
  "abcdefgXYZ",
  "'sdmtlvreSDMTLVRE\u017f",
  "0123456789\u0663\u2167\u00bd",
  " \t\n\r\u00a0\u2003\u2028\u3000",
  "     \n\r\n",
  "\u0085\ufeff",
  "!?.,/#-_()[]<|>",
  "\u00e9\u00df\u00c0\u0152\u00f1\u0414\u0436\u05e9\u01c5\u02b0\u00aa\u00ba",
  "\u4e2d\u6587\u65e5\u672c\u8a9e\ud55c\uad6d\uc5b4",
  "\u0301\u0308\u093e\u20dd",
  "\u{1f600}\u{1f44d}\u{1f3fd}\u200d\u{1f1e9}\u{1f1ea}",
  "\u{1d49c}\u{10400}\u{10428}\u{1d7d8}\u{10ffff}\u{e000}\u0378",
].map((pool) => Array.from(pool))

/** Text of up to 30 runs of 1 to 4 characters, each run from one pool, without the characters in `without`. */
export function randomText(random: (n: number) => number, without = ""): string {
  let text = ""
  for (let runs = random(30) + 1; runs > 0; runs--) {
    const pool = POOLS[random(POOLS.length)]!
    for (let length = random(4) + 1; length > 0; length--) {
      const character = pool[random(pool.length)]!
      if (!without.includes(character)) text += character
    }
  }
  return text
}

/** Bytes: random ones, text, or text with bytes of it cut out or replaced, so that every kind of broken UTF-8 occurs. */
export function randomBytes(random: (n: number) => number): Uint8Array {
  if (random(4) === 0) return Uint8Array.from({ length: random(40) }, () => random(256))
  const bytes = Array.from(new TextEncoder().encode(randomText(random)))
  for (let damage = random(6); damage > 0; damage--) {
    const at = random(bytes.length)
    if (random(2) === 0) bytes.splice(at, 1)
    else bytes[at] = random(256)
  }
  return Uint8Array.from(bytes)
}
