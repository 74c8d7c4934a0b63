/** What arithmetic instructions of PTX compute, by the beginning of their names. */

export const INTEGER: Record<string, (a: number, b: number, c: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => Math.imul(a, b),
  mad: (a, b, c) => Math.imul(a, b) + c,
  div: (a, b) => Math.floor(a / b),
  rem: (a, b) => a % b,
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  shl: (a, b) => a << b,
  shr: (a, b) => a >>> b,
  mov: (a) => a,
  not: (a) => (a === 0 ? 1 : 0), // of truth values
}
export const FLOAT: Record<string, (a: number, b: number, c: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  fma: (a, b, c) => a * b + c,
  max: (a, b) => Math.max(a, b),
  min: (a, b) => Math.min(a, b),
  abs: (a) => Math.abs(a),
  ex2: (a) => 2 ** a,
  lg2: (a) => Math.log2(a),
  rcp: (a) => 1 / a,
  rsqrt: (a) => 1 / Math.sqrt(a),
  neg: (a) => -a,
  mov: (a) => a,
}
/** The larger; of a number and NaN the number. */
const maxNumber = (a: number, b: number): number => (Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.max(a, b))
export const COMPARE: Record<string, (a: number | bigint, b: number | bigint) => boolean> = {
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
}
/** Those that their whole name tells from others. */
export const OWN: Record<string, (a: number, b: number) => number> = { "max.f32": maxNumber }
