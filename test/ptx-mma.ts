/** A warp's product of 16 × 8 × 16, as mma.sync gives it. */
const word = new DataView(new ArrayBuffer(4))

const floatOf = (bits: number): number => {
  word.setUint32(0, bits)
  return word.getFloat32(0)
}
const half = (pair: number, k: number): number => floatOf(k & 1 ? pair & 0xffff0000 : pair << 16)

/** Registers of a, b and the sum before, each with a value per lane; the same of the sum after. All of K is summed at once, then rounded. */
export function multiplyWarp(left: readonly Uint32Array[], right: readonly Uint32Array[], sum: readonly Uint32Array[]): Uint32Array[] {
  return sum.map((before, i) =>
    before.map((bits, lane) => {
      const [row, column] = [lane >> 2, 2 * (lane & 3) + (i & 1)]
      let total = floatOf(bits)
      for (let k = 0; k < 16; k++) {
        const x = left[(i >> 1) + 2 * (k >> 3)]![4 * row + ((k & 7) >> 1)]!
        total += half(x, k) * half(right[k >> 3]![4 * column + ((k & 7) >> 1)]!, k)
      }
      word.setFloat32(0, total)
      return word.getUint32(0)
    }),
  )
}
