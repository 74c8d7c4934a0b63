/** Numbers for tests of kernels: bf16 as 16 bits and back, uniform ones by a seed, and the small Hopper device that the PTX runner plays. */
import type { GpuTarget } from "../src/program.ts"

const word = new Uint32Array(1)
const float = new Float32Array(word.buffer)

/** The nearest bf16, ties to even. */
export const toBf16 = (x: number): number => {
  float[0] = x
  return (word[0]! + 0x7fff + ((word[0]! >>> 16) & 1)) >>> 16
}
export const fromBf16 = (bits: number): number => {
  word[0] = bits << 16
  return float[0]!
}

/** Uniform in [−1, 1), the same for the same seed. */
export function uniforms(start: number): () => number {
  let seed = start
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    return seed / 2 ** 31 - 1
  }
}

/** A whole number from such a source, to start another. */
export const seedFrom = (random: () => number): number => Math.floor((random() + 1) * 2 ** 31)

/** Hopper with two processors. */
export const HOPPER: GpuTarget = {
  subgroupSize: 32,
  matrix: "nv2",
  ptx: true,
  hasMatrixFunctions: true,
  units: 2,
  sharedBytes: 49152,
}
