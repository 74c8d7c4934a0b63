/** The activations and their derivatives in PTX, by the formulas of activation.ts. */
import type { F32, Ptx } from "../src/ptx.ts"
import type { PtxActivation } from "./ptx-gemm-frame.ts"

export interface PtxFunction {
  readonly value: (k: Ptx, x: F32) => F32
  /** With the derivative at x, which shares what is dear. */
  readonly both: (k: Ptx, x: F32) => { readonly value: F32; readonly slope: F32 }
}

/** Coefficients of the polynomial in the exponent of erfc, constant term first; relative error 1.2e-7. Press et al., Numerical Recipes, 6.2. */
const ERFC = [
  -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
] as const

/** 2^x and 1/x to 2 units in the last place; subnormal results are 0. */
const exp2 = (k: Ptx, x: F32): F32 => k.unary("ex2.approx.ftz.f32", x)
const inverse = (k: Ptx, x: F32): F32 => k.unary("rcp.approx.ftz.f32", x)

/** Φ(x), the normal distribution function, with small relative error in the lower tail too. */
function normal(k: Ptx, x: F32): F32 {
  const z = k.mulFloat(k.unary("abs.f32", x), Math.SQRT1_2)
  const t = inverse(k, k.fma(z, 0.5, 1))
  const [constant, ...rest] = ERFC
  const top = rest.at(-1)!
  const sum = rest.slice(0, -1).reduceRight<F32>((inner, coefficient) => k.fma(inner, t, coefficient), k.variable("f32", top))
  const exponent = k.fma(k.negate(z), z, k.fma(sum, t, constant))
  const tail = k.mulFloat(k.mulFloat(t, 0.5), exp2(k, k.mulFloat(exponent, Math.LOG2E)))
  return k.select(k.compare("lt", x, 0), tail, k.subFloat(1, tail), "f32")
}

/** gelu_tanh is x·σ(−u): u = −2·√(2/π)·(x + 0.044715·x³), in units of ln 2 for exp2. */
const SCALE = 2 * Math.sqrt(2 / Math.PI)
const CUBIC = 0.044715 * SCALE
const exponentOf = (k: Ptx, x: F32): F32 => k.mulFloat(x, k.fma(k.mulFloat(x, x), -CUBIC * Math.LOG2E, -SCALE * Math.LOG2E))
/** 1/(1 + 2^y); where 2^y overflows it is 0, as it should be. */
const logistic = (k: Ptx, y: F32): F32 => inverse(k, k.addFloat(exp2(k, y), 1))
const sigmoid = (k: Ptx, x: F32): F32 => logistic(k, k.mulFloat(x, -Math.LOG2E))
/** max(x, 0); NaN stays. */
const positive = (k: Ptx, x: F32): F32 => k.maxFloat(x, 0)

export const ptxActivations: Readonly<Record<PtxActivation, PtxFunction>> = {
  gelu: {
    value: (k, x) => k.mulFloat(x, normal(k, x)),
    both(k, x) {
      const below = normal(k, x)
      const density = exp2(k, k.mulFloat(k.mulFloat(x, x), -0.5 * Math.LOG2E))
      return { value: k.mulFloat(x, below), slope: k.fma(k.mulFloat(x, density), 1 / Math.sqrt(2 * Math.PI), below) }
    },
  },
  gelu_tanh: {
    value: (k, x) => k.mulFloat(x, logistic(k, exponentOf(k, x))),
    // s + x·s·(1 − s)·(u/x in units of 1)': where s is near 1, 1 − s loses nothing that matters; where it is small, s keeps its relative error. |x| < 2^64.
    both(k, x) {
      const square = k.mulFloat(x, x)
      const s = logistic(k, k.mulFloat(x, k.fma(square, -CUBIC * Math.LOG2E, -SCALE * Math.LOG2E)))
      const value = k.mulFloat(x, s)
      return { value, slope: k.fma(k.fma(k.negate(s), value, value), k.fma(square, 3 * CUBIC, SCALE), s) }
    },
  },
  relu: {
    value: positive,
    both: (k, x) => ({ value: positive(k, x), slope: k.select(k.compare("gt", x, 0), 1, k.mulFloat(x, 0), "f32") }),
  },
  relu2: {
    value(k, x) {
      const p = positive(k, x)
      return k.mulFloat(p, p)
    },
    both(k, x) {
      const p = positive(k, x)
      return { value: k.mulFloat(p, p), slope: k.mulFloat(p, 2) }
    },
  },
  silu: {
    value: (k, x) => k.mulFloat(x, sigmoid(k, x)),
    both(k, x) {
      const s = sigmoid(k, x)
      return { value: k.mulFloat(x, s), slope: k.mulFloat(s, k.fma(x, k.subFloat(1, s), 1)) }
    },
  },
}
