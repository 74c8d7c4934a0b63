/** A tensor as a program sees it: shape, dtype and role of values that a device will hold. */

/** f32 everywhere; bf16 for activations and weight copies; i32 for tokens, positions and lengths. */
export type Dtype = "f32" | "bf16" | "i32"

/**
 * input: uploaded for every run · live: a scalar that changes per run · constant: a fixed scalar ·
 * state: named, outlives the run (parameters, moments, KV pages) · temp: lives in the arena.
 */
export type Role = "input" | "live" | "constant" | "state" | "temp"

/** A symbolic handle: no data, no device, nothing that computes. */
export interface Tensor {
  readonly id: number
  readonly name: string
  readonly shape: readonly number[]
  readonly dtype: Dtype
  readonly role: Role
  /** Value of a constant. */
  readonly value?: number
}

export interface TensorType {
  readonly shape: readonly number[]
  readonly dtype: Dtype
}

export const DTYPE_BYTES: Record<Dtype, number> = { f32: 4, bf16: 2, i32: 4 }

/** Number of elements; 1 for a scalar. */
export const elements = (t: { readonly shape: readonly number[] }): number => t.shape.reduce((n, d) => n * d, 1)

/** Bytes without padding. */
export const byteLength = (t: TensorType): number => elements(t) * DTYPE_BYTES[t.dtype]

let nextId = 0

export function tensor(name: string, shape: readonly number[], dtype: Dtype, role: Role, value?: number): Tensor {
  const base = { id: nextId++, name, shape, dtype, role }
  return value === undefined ? base : { ...base, value }
}

export { expectShape, lastDim, rows, ShapeError, sameShape, shapeText } from "./tensor-shape.ts"
