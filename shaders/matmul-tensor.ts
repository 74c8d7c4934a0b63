/** Matrix products by VK_NV_cooperative_matrix2: a workgroup multiplies whole tiles that the driver brings from memory. */
import { type Body, bf16, constant, f32, type FloatMatrix, kernel, type MatrixType, type ReadBuffer, read, readWrite, type Tensor, type U32, u32, write } from "../src/spirv.ts"
import { activated, slope } from "./matmul-epilogue.ts"

type Float = typeof f32 | typeof bf16

/** "n": the operand is stored as it is multiplied, (M, K) or (K, N); "t": transposed. */
export type Layout = "nn" | "nt" | "tn"

/**
 * Fixed when the pipeline is made. WG lanes; a tile of c is TM × TN, TK of K at a time; a workgroup sums KS of K (a multiple of TK), from
 * KS · its z on; GROUP tiles along M lie side by side in the grid, so that they use the same part of b from the L2 cache.
 */
const constants = {
  WG: constant(u32, 256),
  TM: constant(u32, 128),
  TN: constant(u32, 256),
  TK: constant(u32, 64),
  M: constant(u32, 4096),
  N: constant(u32, 4096),
  K: constant(u32, 4096),
  KS: constant(u32, 4096),
  GROUP: constant(u32, 1),
}
type Sizes = { readonly [N in keyof typeof constants]: U32 }

/** The workgroup's tile of c: its sum, and where it lies. */
interface Tile {
  readonly sum: FloatMatrix<"accumulator">
  readonly type: MatrixType<"f32", "accumulator">
  readonly row: U32
  readonly column: U32
  /** Of a matrix (M, N). */
  readonly slice: Tensor
}

/** Which parts of which matrices are multiplied; beyond the edges they count as 0 when `isEdge`. */
function product(k: Body, layout: Layout, isEdge: boolean, a: ReadBuffer<typeof bf16>, b: ReadBuffer<typeof bf16>, sizes: Sizes): Tile {
  const { TM, TN, TK, M, N, K, KS, GROUP } = sizes
  const outside = isEdge ? "zero" : "none"
  const [A, B, C] = [k.matrix(bf16, "a", TM, TK), k.matrix(bf16, "b", TK, TN), k.matrix(f32, "accumulator", TM, TN)]
  const [row, column] = [k.groupY.mul(GROUP).add(k.group.mod(GROUP)).mul(TM), k.group.div(GROUP).mul(TN)]
  const [isLeftTurned, isRightTurned] = [layout[0] === "t", layout[1] === "t"]
  const as = k.tensor({ shape: isLeftTurned ? [K, M] : [M, K], outside })
  const bs = k.tensor({ shape: isRightTurned ? [N, K] : [K, N], outside })
  const start = k.groupZ.mul(KS)
  const sum = k.var(C, 0)
  k.for(0, KS, TK, (depth) => {
    const [rows, columns, inner] = [[row, TM] as const, [column, TN] as const, [start.add(depth), TK] as const]
    const left = isLeftTurned
      ? k.loadTensor(A, a, 0, as.slice(inner, rows), "transposed")
      : k.loadTensor(A, a, 0, as.slice(rows, inner))
    const right = isRightTurned
      ? k.loadTensor(B, b, 0, bs.slice(columns, inner), "transposed")
      : k.loadTensor(B, b, 0, bs.slice(inner, columns))
    sum.set(k.mulAdd(left, right, sum.get()))
  })
  const slice = k.tensor({ shape: [M, N], outside }).slice([row, TM], [column, TN])
  return { sum: sum.get(), type: C, row, column, slice }
}

const nameOf = (layout: Layout, out: string, what: string, isEdge: boolean) =>
  ["matmul_tensor", layout, out, ...(what === "" ? [] : [what]), ...(isEdge ? ["edge"] : [])].join("_")
const typeOf = { f32, bf16 } as const
type Out = keyof typeof typeOf

/** The tile in the type of what it is stored to. */
function stored(k: Body, out: Out, sum: FloatMatrix<"accumulator">, { TM, TN }: Sizes) {
  return out === "f32" ? sum : sum.convert(k.matrix(bf16, "accumulator", TM, TN))
}

function plain(layout: Layout, out: Out, isEdge: boolean) {
  const element: Float = typeOf[out]
  return kernel({
    name: nameOf(layout, out, "", isEdge),
    workgroup: "WG",
    buffers: { a: read(bf16), b: read(bf16), c: write(element) },
    constants,
    body(k, { a, b, c, ...sizes }) {
      const { M, N } = sizes
      const { sum, slice } = product(k, layout, isEdge, a, b, sizes)
      const part = k.groupZ.mul(M.mul(N).add(3).div(4).mul(4)) // aligned to 16 bytes
      k.storeTensor(c as never, part, slice, stored(k, out, sum, sizes))
    },
  })
}

function forward(out: Out, isEdge: boolean) {
  const element: Float = typeOf[out]
  return kernel({
    name: nameOf("nt", out, "forward", isEdge),
    workgroup: "WG",
    buffers: { a: read(bf16), b: read(bf16), bias: read(f32), c: write(element), pre: write(element) },
    constants: { ...constants, BIAS: constant(u32, 0), PRE: constant(u32, 0), ACTIVATION: constant(u32, 0) },
    body(k, { a, b, bias, c, pre, BIAS, PRE, ACTIVATION, ...sizes }) {
      const { type, sum, column, slice } = product(k, "nt", isEdge, a, b, sizes)
      const value = k.var(type, sum)
      k.if(BIAS.ne(0), () =>
        value.update((now) =>
          now.map((_row, c, x, column) => x.add(bias.at(isEdge ? column.add(c).min(sizes.N.sub(1)) : column.add(c))), column),
        ),
      )
      k.if(PRE.ne(0), () => k.storeTensor(pre as never, 0, slice, stored(k, out, value.get(), sizes)))
      k.if(ACTIVATION.ne(0), () => value.update((now) => now.map((_row, _column, x) => activated(k, ACTIVATION, x))))
      k.storeTensor(c as never, 0, slice, stored(k, out, value.get(), sizes))
    },
  })
}

function through(isEdge: boolean) {
  return kernel({
    name: nameOf("nn", "bf16", "through", isEdge),
    workgroup: "WG",
    buffers: { a: read(bf16), b: read(bf16), pre: read(bf16), c: write(bf16) },
    constants: { ...constants, ACTIVATION: constant(u32, 1) },
    body(k, { a, b, pre, c, ACTIVATION, ...sizes }) {
      const { TM, TN } = sizes
      const { type, sum, slice } = product(k, "nn", isEdge, a, b, sizes)
      const before = k.loadTensor(k.matrix(bf16, "accumulator", TM, TN), pre, 0, slice).convert(type)
      const scaled = sum.map((_row, _column, x, p) => x.mul(slope(k, ACTIVATION, p)), before)
      k.storeTensor(c, 0, slice, stored(k, "bf16", scaled, sizes))
    },
  })
}

function accumulate(isEdge: boolean) {
  return kernel({
    name: nameOf("tn", "f32", "accumulate", isEdge),
    workgroup: "WG",
    buffers: { a: read(bf16), b: read(bf16), c: readWrite(f32) },
    params: { beta: f32 },
    constants,
    body(k, { a, b, c, beta, ...sizes }) {
      const { type, sum, slice } = product(k, "tn", isEdge, a, b, sizes)
      const value = k.var(type, sum)
      k.if(beta.ne(0), () => value.update((now) => now.add(k.loadTensor(type, c, 0, slice).scale(beta))))
      k.storeTensor(c, 0, slice, value.get())
    },
  })
}

const aligned = <T>(make: (isEdge: boolean) => T) => ({ whole: make(false), edge: make(true) })

/**
 * c = a·b (M, N), bf16 factors, summed in f32. Layouts as in matmul.ts. Each product has two kernels: "whole" wants M, N and KS·z multiples of
 * the tile, "edge" takes any sizes. Grid: (⌈N / TN⌉ · GROUP, ⌈M / TM⌉ / GROUP, splits of K), GROUP a divisor of ⌈M / TM⌉.
 * 2·M·N·K FLOP; reads a ⌈N / TN⌉ times and b ⌈M / TM⌉ times, through the caches. Source: SPV_NV_cooperative_matrix2, SPV_NV_tensor_addressing.
 *
 * plain: c, or with more than one split of K (out f32) its partial sums, one after the other, each padded to a multiple of 4 elements.
 */
export const tensorPlain = {
  nt: { f32: aligned((isEdge) => plain("nt", "f32", isEdge)), bf16: aligned((isEdge) => plain("nt", "bf16", isEdge)) },
  nn: { f32: aligned((isEdge) => plain("nn", "f32", isEdge)), bf16: aligned((isEdge) => plain("nn", "bf16", isEdge)) },
  tn: { f32: aligned((isEdge) => plain("tn", "f32", isEdge)), bf16: aligned((isEdge) => plain("tn", "bf16", isEdge)) },
}
/** c = act(a·bᵀ + bias); pre = what the activation takes. BIAS, PRE: 1 where that is there; ACTIVATION: its number in matmul-epilogue.ts. */
export const tensorForward = { f32: aligned((isEdge) => forward("f32", isEdge)), bf16: aligned((isEdge) => forward("bf16", isEdge)) }
/** c = a·b ⊙ act'(pre), pre (M, N). */
export const tensorThrough = aligned(through)
/** c = aᵀ·b + beta·c; c is not read where beta is 0. */
export const tensorAccumulate = aligned(accumulate)

export const tensorKernels = [
  ...Object.values(tensorPlain).flatMap((outs) => Object.values(outs).flatMap((kernels) => Object.values(kernels))),
  ...Object.values(tensorForward).flatMap((kernels) => Object.values(kernels)),
  ...Object.values(tensorThrough),
  ...Object.values(tensorAccumulate),
]
