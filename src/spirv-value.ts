/** What a kernel's body computes with: one interface per type, so that mixing types does not compile. */
import type { Bf16, Choice, MatrixElement, MatrixType, MatrixUse, Plain, ScalarName } from "./spirv-type.ts"

interface Comparable<Other, Truth> {
  eq(b: Other): Truth
  ne(b: Other): Truth
  lt(b: Other): Truth
  le(b: Other): Truth
  gt(b: Other): Truth
  ge(b: Other): Truth
}

interface Arithmetic<Self, Other, Truth> extends Comparable<Other, Truth> {
  add(b: Other): Self
  sub(b: Other): Self
  mul(b: Other): Self
  div(b: Other): Self
  min(b: Other): Self
  max(b: Other): Self
}

/** Shifts take 0 … 31 (u64: 0 … 63). */
interface Bits<Self, Other> {
  and(b: Other): Self
  or(b: Other): Self
  xor(b: Other): Self
  not(): Self
  shl(b: Other): Self
  shr(b: Other): Self
  /** Remainder of the division towards zero. */
  mod(b: Other): Self
}

/** A device may contract a.mul(b).add(c) too, as it likes; the simulator rounds both steps there. */
interface FloatMath<Self, Other, Truth> {
  /** this·b + c, rounded once where the device can; the same bits wherever it stands in a kernel. */
  fma(b: Other, c: Other): Self
  neg(): Self
  abs(): Self
  floor(): Self
  ceil(): Self
  /** To the nearest integer, halves to even. */
  round(): Self
  exp(): Self
  exp2(): Self
  log(): Self
  log2(): Self
  sqrt(): Self
  rsqrt(): Self
  sin(): Self
  cos(): Self
  tanh(): Self
  pow(b: Other): Self
  isNan(): Truth
  isInf(): Truth
}

export interface Bool {
  readonly scalar: "bool"
  readonly size: 1
  and(b: Bool): Bool
  or(b: Bool): Bool
  ne(b: Bool): Bool
  not(): Bool
  /** `yes` where true, else `no`; both are computed. */
  select<V extends AnyPlain>(yes: V, no: NoInfer<V> | Literal<NoInfer<V>>): V
}

export interface F32 extends Arithmetic<F32, F32 | number, Bool>, FloatMath<F32, F32 | number, Bool> {
  readonly scalar: "f32"
  readonly size: 1
  /** Towards zero; undefined outside the range of u32. */
  toU32(): U32
  toI32(): I32
  /** The 32 bits of the number. */
  bits(): U32
  /** Two bf16, this one low, rounded to nearest. Needs bf16 matrices' device feature. */
  packBf16(high: F32): U32
}

export interface U32 extends Arithmetic<U32, U32 | number, Bool>, Bits<U32, U32 | number> {
  readonly scalar: "u32"
  readonly size: 1
  /** High 32 bits of the 64-bit product. */
  mulHigh(b: U32 | number): U32
  bitCount(): U32
  toF32(): F32
  toI32(): I32
  toU64(): U64
  /** The f32 with these bits. */
  asF32(): F32
}

export interface I32 extends Arithmetic<I32, I32 | number, Bool>, Bits<I32, I32 | number> {
  readonly scalar: "i32"
  readonly size: 1
  neg(): I32
  abs(): I32
  toF32(): F32
  toU32(): U32
}

export interface U64 extends Comparable<U64 | number, Bool> {
  readonly scalar: "u64"
  readonly size: 1
  add(b: U64 | number): U64
  sub(b: U64 | number): U64
  mul(b: U64 | number): U64
  shl(b: U64 | number): U64
  shr(b: U64 | number): U64
  /** The low 32 bits. */
  toU32(): U32
}

type Named<V, S> = S extends 2
  ? { readonly x: V; readonly y: V }
  : S extends 3
    ? { readonly x: V; readonly y: V; readonly z: V }
    : { readonly x: V; readonly y: V; readonly z: V; readonly w: V }
type VectorSize = 2 | 3 | 4

interface FloatVectorMath<S>
  extends Arithmetic<FloatVector<S>, FloatVector<S> | F32 | number, BoolVector<S>>,
    FloatMath<FloatVector<S>, FloatVector<S> | F32 | number, BoolVector<S>> {
  readonly scalar: "f32"
  readonly size: S
  dot(b: FloatVector<S>): F32
}
export type FloatVector<S> = FloatVectorMath<S> & Named<F32, S>

interface UintVectorMath<S>
  extends Arithmetic<UintVector<S>, UintVector<S> | U32 | number, BoolVector<S>>,
    Bits<UintVector<S>, UintVector<S> | U32 | number> {
  readonly scalar: "u32"
  readonly size: S
  toF32(): FloatVector<S>
}
export type UintVector<S> = UintVectorMath<S> & Named<U32, S>

interface IntVectorMath<S>
  extends Arithmetic<IntVector<S>, IntVector<S> | I32 | number, BoolVector<S>>,
    Bits<IntVector<S>, IntVector<S> | I32 | number> {
  readonly scalar: "i32"
  readonly size: S
  toF32(): FloatVector<S>
}
export type IntVector<S> = IntVectorMath<S> & Named<I32, S>

interface BoolVectorMath<S> {
  readonly scalar: "bool"
  readonly size: S
  and(b: BoolVector<S>): BoolVector<S>
  or(b: BoolVector<S>): BoolVector<S>
  not(): BoolVector<S>
}
export type BoolVector<S> = BoolVectorMath<S> & Named<Bool, S>

interface Scalars {
  bool: Bool
  u32: U32
  i32: I32
  u64: U64
  f32: F32
}
interface Vectors<S> {
  bool: BoolVector<S>
  u32: UintVector<S>
  i32: IntVector<S>
  u64: never
  f32: FloatVector<S>
}
export type AnyPlain = { readonly scalar: ScalarName; readonly size: 1 | VectorSize }

type PlainValue<N extends ScalarName, S> = S extends 1 ? Scalars[N] : Vectors<S>[N]

/** The value that something of type T has in a body; bf16 is an f32 there. */
export type ValueOf<T> =
  T extends Plain<infer N, infer S>
    ? PlainValue<N, S>
    : T extends Bf16 | Choice
      ? F32
      : T extends MatrixType<infer E, infer U>
        ? MatrixValue<E, U>
        : never

/** The TypeScript literal that may stand for a value; beside a vector it is repeated. */
export type Literal<V> = V extends { readonly scalar: "bool" } ? boolean : V extends { readonly scalar: ScalarName } ? number : never
/** A value of type T or a literal for it. */
export type OperandOf<T> = ValueOf<T> | Literal<ValueOf<T>>

/** Element numbers are integers; from 2^31 elements on they must be u64, because SPIR-V takes 32-bit ones as signed. */
export type Index = U32 | U64 | number

interface MatrixCommon<E extends MatrixElement, U extends MatrixUse> {
  readonly element: E
  readonly use: U
  /** To another element type or use; accumulator → a or b needs cooperative matrix 2. */
  convert<T extends MatrixType>(type: T): ValueOf<T>
}

export interface FloatMatrix<U extends MatrixUse> extends MatrixCommon<"f32", U> {
  add(b: FloatMatrix<U>): FloatMatrix<U>
  sub(b: FloatMatrix<U>): FloatMatrix<U>
  mul(b: FloatMatrix<U>): FloatMatrix<U>
  div(b: FloatMatrix<U>): FloatMatrix<U>
  neg(): FloatMatrix<U>
  scale(factor: F32 | number): FloatMatrix<U>
  /**
   * Each element replaced by fn(row, column, element, …operands), where a matrix operand is its element at the same place. fn may use
   * literals, constants, push constants, buffers and its parameters only; no barrier, no subgroup operation. Needs cooperative matrix 2.
   */
  map<R extends readonly MapOperand[]>(
    fn: (row: U32, column: U32, element: F32, ...rest: MapElements<R>) => F32,
    ...operands: R
  ): FloatMatrix<U>
  /**
   * Each element replaced by fn(element, …operands), as in map but without its place: matrices of one type have the same element in the same
   * lane. For matrices of subgroups of 32 lanes that share the elements evenly; any device with matrices can do it.
   */
  each<R extends readonly MapOperand[]>(fn: (element: F32, ...rest: MapElements<R>) => F32, ...operands: R): FloatMatrix<U>
  /** Every element of a row (or column) replaced by the combination of all of them, in matrix type `type` (its own by default). */
  reduce<T extends MatrixType<"f32", "accumulator">>(
    along: "row" | "column",
    combine: (a: F32, b: F32) => F32,
    type?: T,
  ): FloatMatrix<"accumulator">
}

export type MapOperand = F32 | U32 | FloatMatrix<"accumulator">
export type MapElements<R> = { [I in keyof R]: R[I] extends FloatMatrix<"accumulator"> ? F32 : R[I] }

/** bf16 matrices can be converted, multiplied, loaded and stored; arithmetic on them is not SPIR-V. */
export type MatrixValue<E extends MatrixElement, U extends MatrixUse> = E extends "f32" ? FloatMatrix<U> : MatrixCommon<E, U>
