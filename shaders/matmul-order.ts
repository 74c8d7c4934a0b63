/** The order in which forward products are summed. */

/**
 * The order of the sum in "nt" products, the forward ones: Σ over chunks of so many k, one after another, of Σ over the k of a chunk, one
 * after another, each by a fused multiply-add. All kernels for "nt" follow it, so that the bits of a row do not depend on which one ran.
 */
export const CHUNK = 32
