/** Activations: their formulas in a kernel, GELU (exact and by tanh) forward and backward. */
import { act, type Body, type F32, kernel, read, u32, write } from "../src/spirv.ts"
import { eachElement } from "./elementwise.ts"

/** What an activation computes, and its derivative. */
interface Activation {
  readonly value: (k: Body, x: F32) => F32
  readonly derivative: (k: Body, x: F32) => F32
}

/** Coefficients of the polynomial in the exponent of erfc, constant term first; relative error 1.2e-7. Press et al., Numerical Recipes, 6.2. */
const ERFC = [
  -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
] as const

/** Φ(x), the normal distribution function, with small relative error in the lower tail too. */
function normal(k: Body, x: F32): F32 {
  const z = x.abs().mul(Math.SQRT1_2)
  const t = k.f32(1).div(z.mul(0.5).add(1))
  const exponent = ERFC.slice(0, -1).reduceRight<F32>((sum, coefficient) => sum.mul(t).add(coefficient), k.f32(ERFC[9]))
  const tail = t.mul(exponent.sub(z.mul(z)).exp()).mul(0.5)
  return x.lt(0).select(tail, k.f32(1).sub(tail))
}

const gelu: Activation = {
  value: (k, x) => x.mul(normal(k, x)),
  derivative: (k, x) => normal(k, x).add(x.mul(x.mul(x).mul(-0.5).exp()).mul(1 / Math.sqrt(2 * Math.PI))),
}

const SCALE = Math.sqrt(2 / Math.PI)
const CUBIC = 0.044715
/** 1/(1 + e^(−2u)) = (1 + tanh u)/2 for u = √(2/π)·(x + 0.044715·x³); where e overflows it is 0, as it should be, while tanh may be NaN. */
function sigmoid(k: Body, x: F32): F32 {
  const u = x.mul(x).mul(CUBIC).add(1).mul(x).mul(SCALE)
  return k.f32(1).div(u.mul(-2).exp().add(1))
}

const geluTanh: Activation = {
  value: (k, x) => x.mul(sigmoid(k, x)),
  derivative(k, x) {
    const s = sigmoid(k, x)
    const slope = x
      .mul(x)
      .mul(3 * CUBIC)
      .add(1)
      .mul(2 * SCALE)
    return s.add(x.mul(s).mul(k.f32(1).sub(s)).mul(slope))
  },
}

/** Zero where x < 0; NaN stays. */
const positive = (k: Body, x: F32): F32 => x.lt(0).select(k.f32(0), x)

const relu: Activation = { value: positive, derivative: (k, x) => x.gt(0).select(k.f32(1), 0) }

const relu2: Activation = {
  value: (k, x) => positive(k, x).mul(positive(k, x)),
  derivative: (k, x) => positive(k, x).mul(2),
}

/** 1/(1 + e^(−x)). */
const logistic = (k: Body, x: F32): F32 => k.f32(1).div(x.neg().exp().add(1))

const silu: Activation = {
  value: (k, x) => x.mul(logistic(k, x)),
  derivative(k, x) {
    const s = logistic(k, x)
    return s.mul(x.mul(k.f32(1).sub(s)).add(1))
  },
}

/** By name; their order is that of ACTIVATIONS in op-activation, whose first is "none". */
export const activations = { gelu, gelu_tanh: geluTanh, relu, relu2, silu } as const satisfies Record<string, Activation>

const forward = (name: string, { value }: Activation) =>
  kernel({
    name,
    workgroup: 256,
    buffers: { x: read(act), y: write(act) },
    push: { n: u32 },
    body: (k, { x, y, n }) => eachElement(k, n, [x], y, (v) => value(k, v)),
  })

const backward = (name: string, { derivative }: Activation) =>
  kernel({
    name,
    workgroup: 256,
    buffers: { x: read(act), dy: read(act), dx: write(act) },
    push: { n: u32 },
    body: (k, { x, dy, dx, n }) => eachElement(k, n, [x, dy], dx, (v, d) => d.mul(derivative(k, v))),
  })

/** y = x·Φ(x), n elements. Grid: any; ⌈n / 2048⌉ gives each lane one pack. Moves 2·n·s bytes. Source: arXiv:1606.08415. */
export const geluForward = forward("gelu_forward", gelu)
/** dx = dy·(Φ(x) + x·φ(x)), n elements. Grid as forward. Moves 3·n·s bytes. */
export const geluBackward = backward("gelu_backward", gelu)
/** y = x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2, n elements. Grid as gelu_forward. Moves 2·n·s bytes. Source: arXiv:1606.08415. */
export const geluTanhForward = forward("gelu_tanh_forward", geluTanh)
/** dx = dy·d/dx of gelu_tanh_forward, n elements. Grid as forward. Moves 3·n·s bytes. */
export const geluTanhBackward = backward("gelu_tanh_backward", geluTanh)
