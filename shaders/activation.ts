/** The activations and their derivatives as functions of a value in a kernel. Sources: arXiv:1606.08415 (gelu), 2109.08668 (relu2). */
import type { Body, F32 } from "../src/spirv.ts"

/** What an activation computes, and its derivative. */
export interface Activation {
  readonly value: (k: Body, x: F32) => F32
  readonly derivative: (k: Body, x: F32) => F32
}

/** Coefficients of the polynomial in the exponent of erfc, constant term first; relative error 1.2e-7. Press et al., Numerical Recipes, 6.2. */
const ERFC = [
  -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
] as const

/** e^x by 2^x, so that the rounding of the exponent is known. */
const exp = (x: F32): F32 => x.mul(Math.LOG2E).exp2()

/** Φ(x), the normal distribution function, with small relative error in the lower tail too. Every rounding is written out: PTX has the same. */
function normal(k: Body, x: F32): F32 {
  const z = x.abs().mul(Math.SQRT1_2)
  const t = k.f32(1).div(z.fma(0.5, 1))
  const sum = ERFC.slice(0, -1).reduceRight<F32>((inner, coefficient) => inner.fma(t, coefficient), k.f32(ERFC[9]))
  const tail = t.mul(0.5).mul(exp(z.neg().fma(z, sum)))
  return x.lt(0).select(tail, k.f32(1).sub(tail))
}

const gelu: Activation = {
  value: (k, x) => x.mul(normal(k, x)),
  derivative: (k, x) => normal(k, x).add(x.mul(x.mul(x).mul(-0.5).exp()).mul(1 / Math.sqrt(2 * Math.PI))),
}

/** −2·√(2/π)·(x + 0.044715·x³): gelu_tanh is x·σ of the negative, since (1 + tanh u)/2 = σ(2u); in units of ln 2. */
const SCALE = 2 * Math.sqrt(2 / Math.PI)
const CUBIC = 0.044715 * SCALE
const geluTanhExponent = (x: F32): F32 => x.mul(x.mul(x).fma(-CUBIC * Math.LOG2E, -SCALE * Math.LOG2E))

/** x kept within ±limit; NaN stays. */
const within = (k: Body, x: F32, limit: number): F32 => x.gt(limit).select(k.f32(limit), x.lt(-limit).select(k.f32(-limit), x))
/** max(x, 0); NaN stays. */
const positive = (k: Body, x: F32): F32 => x.lt(0).select(k.f32(0), x)
/** 1/(1 + 2^y); where 2^y overflows it is 0, as it should be. */
const logistic = (k: Body, y: F32): F32 => k.f32(1).div(y.exp2().add(1))

/** What each kind computes, and its derivative: as in src/op-activation.ts, finite for every finite x; the relus' derivatives are 0 at 0. */
export const activations = {
  none: { value: (_, x) => x, derivative: (k) => k.f32(1) },
  gelu,
  gelu_tanh: {
    value: (k, x) => x.mul(logistic(k, geluTanhExponent(x))),
    derivative(k, x) {
      const w = within(k, x, 10) // beyond, the derivative is 0 or 1
      const e = geluTanhExponent(w).exp2()
      const s = k.f32(1).div(e.add(1))
      return s.add(
        s
          .mul(s.mul(e))
          .mul(w)
          .mul(
            w
              .mul(w)
              .mul(3 * CUBIC)
              .add(SCALE),
          ),
      ) // σ' is σ²·e^−x: nothing cancels
    },
  },
  relu: { value: positive, derivative: (k, x) => x.gt(0).select(k.f32(1), x.mul(0)) },
  relu2: { value: (k, x) => positive(k, x).mul(positive(k, x)), derivative: (k, x) => positive(k, x).mul(2) },
  silu: {
    value: (k, x) => x.mul(logistic(k, x.mul(-Math.LOG2E))),
    derivative(k, x) {
      const w = within(k, x, 80)
      const e = w.neg().exp()
      const s = k.f32(1).div(e.add(1))
      return s.add(s.mul(s.mul(e)).mul(w))
    },
  },
} as const satisfies Record<string, Activation>
export type ActivationName = keyof typeof activations
