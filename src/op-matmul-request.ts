/** What may be asked of a matrix product on a GPU. */
import type { Activation } from "./op-activation.ts"
import type { Memory } from "./program.ts"
import type { Tensor } from "./tensor.ts"

/**
 * c[m,n] = epilogue(Σ_k A[m,k]·B[k,n]), in this order where present:
 * z = scale·Σ + bias[n];  slope[m,n] = activation'(z);  z = activation(z);  z = z·factor[m,n];  c = z + beta·addend[m,n].
 */
export interface Gemm {
  /** How a and b are stored. nn: a (M, K), b (K, N); nt: a (M, K), b (N, K), as weights are; tn: a (K, M), b (K, N). */
  readonly layout: "nn" | "nt" | "tn"
  /** f32 or bf16, both the same. */
  readonly a: Memory
  readonly b: Memory
  /** f32 or bf16; products are summed in f32. */
  readonly c: Memory
  readonly M: number
  readonly N: number
  readonly K: number
  /** Elements from one stored row to the next; by default the rows follow each other. ldc holds for slope, factor and addend too. */
  readonly lda?: number
  readonly ldb?: number
  readonly ldc?: number
  /** What lies between the rows of a up to lda is zeros. */
  readonly isPadded?: boolean
  readonly scale?: number
  /** f32 (N). */
  readonly bias?: Memory | undefined
  readonly activation?: Activation
  /** Written: the activation's derivative at z; of c's type. Not both this and a factor. */
  readonly slope?: Memory | undefined
  /** Read: slope of the layer below, of c's type; may be c. */
  readonly factor?: Memory | undefined
  /** Number or live scalar; 0 does not read the addend, which is c itself unless given, and of its type. */
  readonly beta?: Tensor | number | undefined
  readonly addend?: Memory
  /**
   * "forward": the bits of a row of c depend on K and the types alone, so that a row alone, in a batch and in a chunk are equal.
   * "any": the order of the sum may depend on M, N and the device too (split over K), but is the same in every run.
   */
  readonly order: "forward" | "any"
}
