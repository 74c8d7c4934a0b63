/** Matrix products by VK_NV_cooperative_matrix2: a workgroup multiplies whole tiles that the driver brings from memory. */
import {
  type Body,
  bf16,
  constant,
  type FloatMatrix,
  f32,
  type Kernel,
  kernel,
  type MatrixType,
  type ReadBuffer,
  read,
  readWrite,
  type Tensor,
  type U32,
  u32,
  write,
} from "../src/spirv.ts"
import { activate, activationSlope } from "./activation-kind.ts"
import { epilogue } from "./matmul-epilogue.ts"
import { rounded } from "./matrix-round.ts"

type Float = typeof f32 | typeof bf16

/** "n": the operand is stored as it is multiplied, (M, K) or (K, N); "t": transposed. */
export type Layout = "nn" | "nt" | "tn"

/**
 * Fixed when the pipeline is made. WG lanes; a tile of c is TM × TN, TK of K at a time; a workgroup sums KS of K (a multiple of TK), from
 * KS · its z on, TURNS steps of TK in straight code (a divisor of KS / TK); GROUP tiles along M lie side by side in the grid, so that they use
 * the same part of b from the L2 cache. LDA, LDB, LDC: elements from one stored row to the next.
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
  TURNS: constant(u32, 1),
  GROUP: constant(u32, 1),
  LDA: constant(u32, 4096),
  LDB: constant(u32, 4096),
  LDC: constant(u32, 4096),
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
  const { TM, TN, TK, M, N, K, KS, TURNS, GROUP, LDA, LDB, LDC } = sizes
  const outside = isEdge ? "zero" : "none"
  const [A, B, C] = [k.matrix(bf16, "a", TM, TK), k.matrix(bf16, "b", TK, TN), k.matrix(f32, "accumulator", TM, TN)]
  const [row, column] = [k.groupY.mul(GROUP).add(k.group.mod(GROUP)).mul(TM), k.group.div(GROUP).mul(TN)]
  const [isLeftTurned, isRightTurned] = [layout[0] === "t", layout[1] === "t"]
  const as = k.tensor({ shape: isLeftTurned ? [K, M] : [M, K], strides: [LDA, 1], outside })
  const bs = k.tensor({ shape: isRightTurned ? [N, K] : [K, N], strides: [LDB, 1], outside })
  const [sum, steps] = [k.var(C, 0), KS.div(TK)]
  const multiply = (step: U32) => {
    // A product with TK, so that the driver sees that rows of K are read from multiples of it; else it loads element by element.
    const [rows, columns, inner] = [[row, TM] as const, [column, TN] as const, [step.mul(TK), TK] as const]
    const left = isLeftTurned ? k.loadTensor(A, a, 0, as.slice(inner, rows), "transposed") : k.loadTensor(A, a, 0, as.slice(rows, inner))
    const right = isRightTurned
      ? k.loadTensor(B, b, 0, bs.slice(columns, inner), "transposed")
      : k.loadTensor(B, b, 0, bs.slice(inner, columns))
    sum.set(k.mulAdd(left, right, sum.get()))
  }
  const first = k.groupZ.mul(steps)
  k.for(0, steps, TURNS, (turn) => k.for(0, TURNS, 1, (i) => multiply(first.add(turn).add(i)), { unroll: true }))
  const slice = k.tensor({ shape: [M, N], strides: [LDC, 1], outside }).slice([row, TM], [column, TN])
  return { sum: sum.get(), type: C, row, column, slice }
}

const typeOf = { f32, bf16 } as const
type Out = keyof typeof typeOf

const nameOf = (layout: Layout, out: Out, what: string, isEdge: boolean) => `matmul_tensor_${layout}_${out}${what}${isEdge ? "_edge" : ""}`

function plain(layout: Layout, out: Out, isEdge: boolean) {
  const element: Float = typeOf[out]
  return kernel({
    name: nameOf(layout, out, "", isEdge),
    workgroup: "WG",
    buffers: { a: read(bf16), b: read(bf16), c: write(element) },
    constants,
    body(k, { a, b, c, ...sizes }) {
      const { TM, TN, M, LDC } = sizes
      const { sum, slice } = product(k, layout, isEdge, a, b, sizes)
      const part = k.groupZ.mul(M).mul(LDC)
      k.storeTensor(c as never, part, slice, out === "f32" ? sum : rounded(sum).convert(k.matrix(bf16, "accumulator", TM, TN)))
    },
  })
}

function whole(layout: Layout, out: Out, isEdge: boolean) {
  const element: Float = typeOf[out]
  return kernel({
    name: nameOf(layout, out, "_epilogue", isEdge),
    workgroup: "WG",
    buffers: { a: read(bf16), b: read(bf16), bias: read(f32), kept: readWrite(element), addend: read(element), c: write(element) },
    push: { scale: f32 },
    params: epilogue.params,
    constants: { ...constants, ...epilogue.constants },
    body(k, { a, b, bias, kept, addend, c, scale, beta, isScaled, hasBias, keepsSlope, activation, multiplies, adds, ...sizes }) {
      const { TM, TN, N } = sizes
      const { type, sum, column, slice } = product(k, layout, isEdge, a, b, sizes)
      const stored = k.matrix(element, "accumulator", TM, TN)
      const load = (from: typeof kept | typeof addend) => {
        const tile = k.loadTensor(stored, from as never, 0, slice)
        return out === "f32" ? (tile as FloatMatrix<"accumulator">) : tile.convert(type)
      }
      const store = (to: typeof kept | typeof c, now: FloatMatrix<"accumulator">) =>
        k.storeTensor(to as never, 0, slice, out === "f32" ? now : rounded(now).convert(stored))
      const z = k.var(type, sum)
      k.if(isScaled.ne(0), () => z.update((now) => now.scale(scale)))
      k.if(hasBias.ne(0), () => {
        const place = (c: U32, column: U32) => (isEdge ? column.add(c).min(N.sub(1)) : column.add(c))
        z.update((now) => now.map((_row, c, x, column) => x.add(bias.at(place(c, column))), column))
      })
      k.if(keepsSlope.ne(0), () =>
        store(
          kept,
          z.get().map((_row, _column, x) => activationSlope(k, activation, x)),
        ),
      )
      k.if(activation.ne(0), () => z.update((now) => now.map((_row, _column, x) => activate(k, activation, x))))
      k.if(multiplies.ne(0), () => {
        const factor = load(kept)
        z.update((now) => now.map((_row, _column, x, f) => x.mul(f), factor))
      })
      k.if(adds.ne(0).and(beta.ne(0)), () => z.update((now) => now.add(load(addend).scale(beta))))
      store(c, z.get())
    },
  })
}

const edges = <T>(make: (isEdge: boolean) => T) => ({ inside: make(false), edge: make(true) })
const all = <T>(make: (layout: Layout, out: Out, isEdge: boolean) => T) => {
  const outs = (layout: Layout) => ({ f32: edges((e) => make(layout, "f32", e)), bf16: edges((e) => make(layout, "bf16", e)) })
  return { nt: outs("nt"), nn: outs("nn"), tn: outs("tn") }
}

/**
 * c = a·b (M, N), bf16 factors, summed in f32. Layouts as in matmul.ts. Each product has two kernels: "inside" wants M, N and K multiples of the
 * tile, "edge" takes any sizes. Grid: (⌈N / TN⌉ · GROUP, ⌈M / TM⌉ / GROUP, splits of K), GROUP a divisor of ⌈M / TM⌉.
 * With more than one split of K c (f32, LDC a multiple of 4) holds their sums, one after the other, LDC · M elements each.
 * 2·M·N·K FLOP; reads a ⌈N / TN⌉ times and b ⌈M / TM⌉ times, through the caches. Source: SPV_NV_cooperative_matrix2, SPV_NV_tensor_addressing.
 */
export const tensorMatmuls = all(plain)
/** c = epilogue(a·b) as in matmul-epilogue.ts, in one split of K. */
export const tensorEpilogues = all(whole)

export const tensorKernels = [tensorMatmuls, tensorEpilogues].flatMap((layouts) =>
  Object.values(layouts).flatMap((outs) => Object.values(outs).flatMap((kernels) => Object.values(kernels) as Kernel[])),
)
