/** Rounding of cooperative matrices. */
import type { FloatMatrix } from "../src/spirv.ts"

/**
 * The nearest numbers that bf16 has, halves to even; NaN stays NaN. For before .convert(): drivers may cut the low bits off there (NVIDIA's does).
 * Needs cooperative matrix 2.
 */
export const rounded = (sum: FloatMatrix<"accumulator">): FloatMatrix<"accumulator"> =>
  sum.map((_row, _column, x) => {
    const bits = x.bits()
    const nearest = bits.add(bits.shr(16).and(1).add(0x7fff)).and(0xffff0000)
    return bits.and(0x7fffffff).gt(0x7f800000).select(bits.or(0x400000), nearest).asF32()
  })
