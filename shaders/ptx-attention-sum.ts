/** The sum of a row's weights in Hopper's attention over pages, in the order of the kernels in SPIR-V. */
import type { F32, Ptx, U32 } from "../src/ptx.ts"

/** Σ of 64 f32 in shared memory: four keys 16 apart, neighbours by twos and fours, the fours in order. `lane16`: address of the lane's, lane mod 16. */
export function sumOfWeights(k: Ptx, lane16: U32, bytes: number): F32 {
  const four = [0, 1, 2, 3].map((j) => {
    const one = k.register("f32")
    k.loadShared([one], { base: lane16, bytes: bytes + 64 * j })
    return one
  })
  let sum = four.reduce((a, c) => k.addFloat(a, c))
  for (const mask of [1, 2]) sum = k.addFloat(sum, k.exchangeFloat(sum, mask))
  const fours = [0, 4, 8, 12].map((from) => {
    const one = k.register("f32")
    k.emit("shfl.sync.idx.b32", one, sum, from, 31, -1)
    return one
  })
  return fours.reduce((a, c) => k.addFloat(a, c))
}
