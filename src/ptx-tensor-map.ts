/** Tensor maps: the 128 bytes that tell Hopper's copy unit where the boxes of a tensor lie and how they are swizzled in shared memory. */

/** How the 16-byte pieces of a row are mixed, so that rows of shared memory are read without bank conflicts. */
type Swizzle = "none" | "32B" | "64B" | "128B"

const SWIZZLES: readonly Swizzle[] = ["none", "32B", "64B", "128B"]
/** Type number and bytes. */
const ELEMENTS = { bf16: [10, 2], f32: [7, 4] } as const
/** Lines of L2 that a request brings: 128 bytes. */
const PROMOTION = 2

export interface TensorMapSpec {
  readonly element: keyof typeof ELEMENTS
  /** Elements along each dimension, the fastest first; what a box has beyond is zeros. At most 5. */
  readonly size: readonly number[]
  /** Bytes from one element to the next along the dimensions after the first; multiples of 16. */
  readonly strides: readonly number[]
  /** Elements of a box along each dimension, at most 256. */
  readonly box: readonly number[]
  readonly swizzle: Swizzle
}

/**
 * The words of a map after the first, which is the tensor's address (aligned to 16 bytes); the whole must be aligned to 64. The layout was read
 * off cuTensorMapEncodeTiled for Hopper. Throws a TypeError for what a map cannot say.
 */
export function tensorMapWords({ element, size, strides, box, swizzle }: TensorMapSpec): readonly bigint[] {
  const rank = size.length
  const [type, bytes] = ELEMENTS[element]
  const row = (box[0] ?? 0) * bytes
  const most = swizzle === "none" ? Number.POSITIVE_INFINITY : 2 ** (SWIZZLES.indexOf(swizzle) + 4)
  if (rank < 1 || rank > 5 || strides.length !== rank - 1 || box.length !== rank) throw new TypeError("tensor map: dimensions do not fit")
  if (strides.some((stride) => stride % 16 !== 0 || stride < 16 || stride >= 2 ** 40))
    throw new TypeError(`tensor map: strides ${strides.join(", ")} must be multiples of 16 below 2^40`)
  if (box.some((length) => length < 1 || length > 256) || row % 16 !== 0 || row > most)
    throw new TypeError(`tensor map: a box of ${box.join(" × ")} does not go with swizzle ${swizzle}`)
  if (size.some((length) => length < 1 || length > 2 ** 32)) throw new TypeError(`tensor map: size ${size.join(" × ")}`)
  const stride = (i: number) => BigInt(strides[i] ?? 0) >> 4n
  const last = (list: readonly number[], i: number) => BigInt((list[i] ?? 1) - 1)
  const flags = BigInt(((rank - 1) << 4) | (type << 7) | (SWIZZLES.indexOf(swizzle) << 13) | (PROMOTION << 17))
  const low = (x: bigint) => x & 0xffffffffn
  const high = [0, 1, 2, 3].reduce((sum, i) => sum | ((stride(i) >> 32n) << BigInt(4 * i)), 0n)
  return [
    flags | (low(stride(0)) << 32n),
    low(stride(1)) | (low(stride(2)) << 32n),
    low(stride(3)) | (high << 32n),
    last(size, 0) | (last(size, 1) << 32n),
    last(size, 2) | (last(size, 3) << 32n),
    last(size, 4) | (last(box, 0) << 56n),
    last(box, 1) | (last(box, 2) << 8n) | (last(box, 3) << 16n) | (last(box, 4) << 24n),
    BigInt(box.reduce((product, length) => product * length, bytes)),
    swizzle === "none" ? 0x10n : 0x80n << BigInt(SWIZZLES.indexOf(swizzle)),
    ...Array.from({ length: 6 }, () => 0n),
  ]
}
