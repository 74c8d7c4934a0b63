/** What the matrix kernels of attention share: sizes fixed in the pipeline, where heads lie in memory, which weights dropout keeps. */
import { type Body, constant, type F32, f32, type ReadBuffer, read, type U32, u32 } from "../src/spirv.ts"

/** Fixed when the pipeline is made: lanes, query rows and keys of a tile, head size. */
export const constants = { WG: constant(u32, 128), BR: constant(u32, 64), BC: constant(u32, 64), D: constant(u32, 64) }
/** factor: of weights that dropout keeps. */
export const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const

/** Numbers per position and head that the gradients take as factors: −lse/scale in three parts, −δ in three parts, zeros. */
export const STATISTICS = 16

interface Sizes {
  readonly T: U32
  readonly H: U32
  readonly K: U32
  readonly D: U32
}

/** Rows [at, at + length) of head h (queries), of its key head, of that one's values, and of y, in sequence b. */
export function places(k: Body, { T, H, K, D }: Sizes, b: U32, h: U32, isEdge: boolean) {
  const outside = isEdge ? "zero" : "none"
  const width = H.add(K.mul(2)).mul(D)
  const packed = k.tensor({ shape: [T, D], strides: [width, 1], outside })
  const plain = k.tensor({ shape: [T, D], strides: [H.mul(D), 1], outside })
  const statistics = k.tensor({ shape: [T, STATISTICS], strides: [STATISTICS, 1], outside })
  const first = b.mul(T).mul(width)
  const keyHead = H.add(h.mul(K).div(H))
  return {
    query: first.add(h.mul(D)),
    key: first.add(keyHead.mul(D)),
    value: first.add(keyHead.add(K).mul(D)),
    output: b.mul(T).mul(H).add(h).mul(D),
    /** Number of the head's first position among all sequences and heads, head-major. */
    number: b.mul(H).add(h).mul(T),
    packed: (at: U32, length: U32) => packed.slice([at, length], [0, D]),
    plain: (at: U32, length: U32) => plain.slice([at, length], [0, D]),
    statistics: (at: U32, length: U32) => statistics.slice([at, length], [0, STATISTICS]),
  }
}

/** Dropout's bits, word (number of a query among all heads, ⌊key/32⌋): attention_tensor_mask. */
export const masks = { mask: read(u32) } as const
/** 0, or the factor of the weight of a query and a key of the head whose first query has a number. */
export function kept(mask: ReadBuffer<typeof u32>, { T, factor }: { readonly T: U32; readonly factor: F32 }, isEdge: boolean) {
  return (number: U32, query: U32, key: U32): F32 => {
    const words = T.add(31).shr(5)
    const row = number.add(isEdge ? query.min(T.sub(1)) : query)
    const word = isEdge ? key.shr(5).min(words.sub(1)) : key.shr(5)
    return mask.at(row.mul(words).add(word)).shr(key.and(31)).and(1).eq(1).select(factor, 0)
  }
}

/** Which kernel: for any T, and with dropout. */
export interface Kind {
  readonly isEdge: boolean
  readonly drops: boolean
}
/** inside: T a multiple of the tile's sides. */
export const kinds = <T>(make: (kind: Kind) => T) => {
  const places = (drops: boolean) => ({ inside: make({ isEdge: false, drops }), edge: make({ isEdge: true, drops }) })
  return { plain: places(false), dropout: places(true) }
}
export const nameOf = (what: string, { isEdge, drops }: Kind) => `attention_tensor${what}${drops ? "_dropout" : ""}${isEdge ? "_edge" : ""}`

/** The kernels of all kinds. */
export const all = <T>({ plain, dropout }: ReturnType<typeof kinds<T>>): T[] => [plain.inside, plain.edge, dropout.inside, dropout.edge]
