/** Shape checks and the errors that name both sides. */
import { AlphaError } from "./base-error.ts"

type Shape = readonly number[]
type Shaped = { readonly shape: Shape }

/** Two shapes that do not fit. */
export class ShapeError extends AlphaError {}

/** (2, 3) for [2, 3]; () for a scalar. */
export const shapeText = (shape: Shape): string => `(${shape.join(", ")})`

export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((d, i) => d === b[i])

/** Size of the last axis; 1 for a scalar. */
export const lastDim = (t: Shaped): number => t.shape.at(-1) ?? 1

/** Product of all axes but the last; 1 for a vector. */
export const rows = (t: Shaped): number => t.shape.slice(0, -1).reduce((n, d) => n * d, 1)

/** Throws unless `t` has exactly this shape: `rms_norm: w (4) where (5) is needed by x (3, 5)`. */
export function expectShape(op: string, name: string, t: Shaped, shape: Shape, because = ""): void {
  if (sameShape(t.shape, shape)) return
  const why = because === "" ? "" : ` by ${because}`
  throw new ShapeError(`${op}: ${name} ${shapeText(t.shape)} where ${shapeText(shape)} is needed${why}`)
}
