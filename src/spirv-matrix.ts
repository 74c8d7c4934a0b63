/** Cooperative matrices: KHR with memory loads, NV cooperative matrix 2 with tensor addressing, per-element functions and reductions. */
import { nodeOf, operandOf, value } from "./spirv-expression.ts"
import type { MemoryValue, ReadBuffer, ReadWriteBuffer, SharedArray, WriteBuffer } from "./spirv-memory.ts"
import type { MatrixDetail, Node, View } from "./spirv-node.ts"
import type { Recorder } from "./spirv-record.ts"
import { Subgroups } from "./spirv-subgroup.ts"
import {
  type Bf16,
  type Extent,
  f32,
  type MatrixElement,
  type MatrixScope,
  type MatrixType,
  type MatrixUse,
  type Plain,
  type TensorType,
  type Type,
  u32,
} from "./spirv-type.ts"
import type { F32, FloatMatrix, MatrixValue, U32, ValueOf } from "./spirv-value.ts"

type Float = Plain<"f32", 1> | Bf16
type ElementOf<T> = T extends Bf16 ? "bf16" : "f32"
type Readable =
  | ReadBuffer<Float>
  | ReadBuffer<Bf16>
  | ReadBuffer<Plain<"f32", 1>>
  | ReadWriteBuffer<Bf16>
  | ReadWriteBuffer<Plain<"f32", 1>>
type Writable = WriteBuffer<Bf16> | WriteBuffer<Plain<"f32", 1>> | ReadWriteBuffer<Bf16> | ReadWriteBuffer<Plain<"f32", 1>>
/** Tiles staged in shared memory: f32, or packed bf16 in u32 vectors. */
type Staged = SharedArray<Plain<"f32", 1>> | SharedArray<Plain<"u32", 1>> | SharedArray<Plain<"u32", 4>>

/** Dimensions and, once sliced, the part of a matrix in memory that a tensor load or store touches. */
export class Tensor {
  constructor(
    private readonly recorder: Recorder,
    /** For the language itself. */
    readonly node: Node,
  ) {}

  /** From `offset`, `span` long, for each dimension. */
  slice(...ranges: readonly (readonly [offset: U32 | number, span: U32 | number])[]): Tensor {
    const { recorder, node } = this
    const { rank } = node.type as TensorType
    if (ranges.length !== rank) recorder.fail(`a slice of ${ranges.length} dimensions of a tensor with ${rank}`)
    const args = ranges.flat().map((bound) => operandOf(recorder, bound, u32))
    return new Tensor(recorder, recorder.add({ kind: "matrix", does: "slice" }, node.type, [node, ...args]))
  }
}

export interface TensorShape {
  readonly shape: readonly (U32 | number)[]
  /** Elements from one entry to the next along each dimension; by default those of a dense matrix. */
  readonly strides?: readonly (U32 | number)[]
  /** What lies outside the shape: undefined (the default, fastest) or zeros, and writes there dropped. */
  readonly outside?: TensorType["outside"]
}

export class Matrices extends Subgroups {
  /** A matrix type; sizes are numbers or specialization constants. */
  matrix<T extends Float, U extends MatrixUse>(
    element: T,
    use: U,
    rows: U32 | number,
    columns: U32 | number,
    scope: MatrixScope = "workgroup",
  ): MatrixType<ElementOf<T>, U> {
    const extent = (size: U32 | number): Extent => {
      if (typeof size === "number") return size
      const node = nodeOf(size)
      if (node.kind === "constant") return node.constant.name
      return this.recorder.fail("a matrix size must be a number or a specialization constant")
    }
    const name = ("stored" in element ? "bf16" : "f32") as ElementOf<T>
    return { element: name, use, scope, rows: extent(rows), columns: extent(columns) }
  }

  private matrixNode(detail: MatrixDetail, type: Type | undefined, args: readonly Node[]): Node {
    return this.recorder.add({ kind: "matrix", ...detail }, type, args)
  }
  private matrixValue<E extends MatrixElement, U extends MatrixUse>(node: Node): MatrixValue<E, U> {
    return value<MatrixType<E, U>>(this.recorder, node) as MatrixValue<E, U>
  }

  /** A matrix with the same number everywhere. */
  fill<T extends MatrixType<"f32">>(type: T, given: F32 | number): ValueOf<T> {
    return this.matrixValue(this.matrixNode({ does: "splat" }, type, [operandOf(this.recorder, given, f32)])) as never
  }

  /** a·b + c. */
  mulAdd<E extends MatrixElement>(
    a: MatrixValue<E, "a">,
    b: MatrixValue<E, "b">,
    c: FloatMatrix<"accumulator">,
  ): FloatMatrix<"accumulator"> {
    const args = [nodeOf(a), nodeOf(b), nodeOf(c)]
    return this.matrixValue(this.matrixNode({ does: "mulAdd" }, args[2]!.type, args))
  }

  /**
   * A matrix from memory: its first element is memory[index], `stride` elements of the memory from one row (layout "row") or column to the
   * next. Both must be multiples of 16 bytes.
   */
  loadMatrix<T extends MatrixType>(
    type: T,
    from: Readable | Staged,
    index: U32 | number,
    stride: U32 | number,
    layout: "row" | "column",
  ): ValueOf<T> {
    const args = [operandOf(this.recorder, index, u32), operandOf(this.recorder, stride, u32)]
    return this.matrixValue(this.matrixNode({ does: "load", view: viewOf(from), layout }, type, args)) as never
  }
  storeMatrix(
    to: Writable | Staged,
    index: U32 | number,
    stride: U32 | number,
    layout: "row" | "column",
    given: MatrixValue<MatrixElement, MatrixUse>,
  ): void {
    const args = [operandOf(this.recorder, index, u32), operandOf(this.recorder, stride, u32), nodeOf(given)]
    this.matrixNode({ does: "store", view: viewOf(to), layout }, undefined, args)
  }

  /** Shape of a matrix in memory, for slices of it. */
  tensor({ shape, strides = [], outside = "none" }: TensorShape): Tensor {
    const { recorder } = this
    if (strides.length !== 0 && strides.length !== shape.length) recorder.fail("a tensor needs one stride per dimension")
    const args = [...shape, ...strides].map((size) => operandOf(recorder, size, u32))
    const type: TensorType = { rank: shape.length, outside }
    return new Tensor(recorder, this.matrixNode({ does: "tensor", hasStrides: strides.length > 0 }, type, args))
  }

  /**
   * The slice of a tensor that begins at element `base` of a buffer, `base` and the buffer's address aligned to 16 bytes. "transposed": the
   * matrix is the slice with its two dimensions exchanged.
   */
  loadTensor<T extends MatrixType>(type: T, from: Readable, base: U32 | number, slice: Tensor, transposed?: "transposed"): ValueOf<T> {
    const args = [operandOf(this.recorder, base, u32), slice.node]
    const detail = { does: "loadTensor", view: viewOf(from), transposed: transposed !== undefined } as const
    return this.matrixValue(this.matrixNode(detail, type, args)) as never
  }
  storeTensor(to: Writable, base: U32 | number, slice: Tensor, given: MatrixValue<MatrixElement, "accumulator">): void {
    const args = [operandOf(this.recorder, base, u32), slice.node, nodeOf(given)]
    this.matrixNode({ does: "storeTensor", view: viewOf(to) }, undefined, args)
  }
}

const viewOf = (memory: unknown): View => (memory as MemoryValue).view
