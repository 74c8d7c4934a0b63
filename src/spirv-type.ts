/** Types of the kernel language: scalars, vectors, what buffers hold, matrices. */

export type ScalarName = "bool" | "u32" | "i32" | "u64" | "f32"
export type Size = 1 | 2 | 3 | 4

/** A scalar (size 1) or a vector of 2 to 4 components. One object per type, so that types compare with ===. */
export interface Plain<N extends ScalarName = ScalarName, S extends Size = Size> {
  readonly scalar: N
  readonly size: S
}

const plains = new Map<string, Plain>()

export function plain<N extends ScalarName, S extends Size>(scalar: N, size: S): Plain<N, S> {
  const key = `${scalar}${size}`
  if (!plains.has(key)) plains.set(key, { scalar, size })
  return plains.get(key) as Plain<N, S>
}

export const bool = plain("bool", 1)
export const u32 = plain("u32", 1)
export const i32 = plain("i32", 1)
/** Device addresses and wide indices; a kernel that uses it needs shaderInt64. */
export const u64 = plain("u64", 1)
export const f32 = plain("f32", 1)

export type VectorScalar = "bool" | "u32" | "i32" | "f32"
export const vec2 = <N extends VectorScalar>(type: Plain<N, 1>): Plain<N, 2> => plain(type.scalar, 2)
export const vec3 = <N extends VectorScalar>(type: Plain<N, 1>): Plain<N, 3> => plain(type.scalar, 3)
export const vec4 = <N extends VectorScalar>(type: Plain<N, 1>): Plain<N, 4> => plain(type.scalar, 4)

/** Elements of a buffer that are bf16: read as f32, written with round to nearest even, through 16-bit integers (no bf16 feature needed). */
export interface Bf16 {
  readonly stored: "bf16"
}
export const bf16: Bf16 = { stored: "bf16" }

/** Elements of a buffer that are f32 or bf16, as the variant says: recorded once, assembled for each. */
export interface Choice<N extends string = string> {
  readonly choice: N
}
export const choice = <N extends string>(name: N): Choice<N> => ({ choice: name })
/** The activations' type. */
export const act = choice("act")

/** What a buffer may hold. */
export type Stored = Plain | Bf16 | Choice
/** What a variant makes of each choice. */
export type Chosen = Readonly<Record<string, "f32" | "bf16">>

export function resolve(stored: Stored, chosen: Chosen): Plain | Bf16 {
  if (!("choice" in stored)) return stored
  return chosen[stored.choice] === "bf16" ? bf16 : f32
}

/** Bytes of one element in memory. */
export function bytesOf(type: Plain | Bf16): number {
  if ("stored" in type) return 2
  return type.size * (type.scalar === "u64" ? 8 : 4)
}

/** "f32", "u32x4", "bf16", "act". */
export function typeName(type: Stored): string {
  if ("stored" in type) return type.stored
  if ("choice" in type) return type.choice
  return type.size === 1 ? type.scalar : `${type.scalar}x${type.size}`
}

export type MatrixElement = "f32" | "bf16"
export type MatrixUse = "a" | "b" | "accumulator"
/** Which invocations hold a matrix together: a subgroup (KHR, fixed sizes) or the workgroup (NV cooperative matrix 2, flexible sizes). */
export type MatrixScope = "subgroup" | "workgroup"

/** A cooperative matrix (rows, columns); the sizes are literals or specialization constants. */
export interface MatrixType<E extends MatrixElement = MatrixElement, U extends MatrixUse = MatrixUse> {
  readonly element: E
  readonly use: U
  readonly scope: MatrixScope
  readonly rows: Extent
  readonly columns: Extent
}

/** A size known when the pipeline is made: a literal or the name of a specialization constant. */
export type Extent = number | string

/** Shape of a matrix in memory for tensor addressing: its rank and what reading outside it gives. */
export interface TensorType {
  readonly rank: number
  /** "none": reading outside is undefined (fastest). "zero": reads 0, writes are dropped. */
  readonly outside: "none" | "zero"
}

export type Type = Plain | MatrixType | TensorType
