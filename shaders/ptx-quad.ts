/** Exchanges between the four lanes that hold a row of a sum's columns. */
import type { Predicate, Ptx, U32 } from "../src/ptx.ts"

/** Which of the four a lane is. */
export interface Quad {
  readonly isOdd: Predicate
  readonly isUpper: Predicate
}
export const quadOf = (k: Ptx, lane: U32): Quad => ({
  isOdd: k.compare("ne", k.and(lane, 1), 0),
  isUpper: k.compare("ne", k.and(lane, 2), 0),
})

/** 4 × 4 words of a quad of lanes: lane t's word j becomes lane j's word t. */
export function transposeQuad(k: Ptx, { isOdd, isUpper }: Quad, words: readonly U32[]): readonly U32[] {
  const swap = (a: U32, b: U32, p: Predicate, mask: number): [U32, U32] => {
    const other = k.exchange(k.select(p, a, b, "u32"), mask)
    return [k.select(p, other, a, "u32"), k.select(p, b, other, "u32")]
  }
  const [a, b, c, d] = words as [U32, U32, U32, U32]
  const [[a1, b1], [c1, d1]] = [swap(a, b, isOdd, 1), swap(c, d, isOdd, 1)]
  const [[a2, c2], [b2, d2]] = [swap(a1, c1, isUpper, 2), swap(b1, d1, isUpper, 2)]
  return [a2, b2, c2, d2]
}
