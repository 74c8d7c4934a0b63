/** Activations chosen by number when a pipeline is made, for the epilogues of other kernels. */
import { type Body, type F32, f32, type U32 } from "../src/spirv.ts"
import { gelu, geluTanh } from "./activation.ts"

const relu = (k: Body, x: F32) => x.lt(0).select(k.f32(0), x) // keeps NaN
const sigmoid = (k: Body, x: F32) => k.f32(1).div(x.neg().exp().add(1))

/** In the order of the numbers from 1 on, which is that of ACTIVATIONS in src/op-activation.ts; 0 is none. */
const KINDS: readonly { value(k: Body, x: F32): F32; derivative(k: Body, x: F32): F32 }[] = [
  gelu,
  geluTanh,
  { value: relu, derivative: (k, x) => x.gt(0).select(k.f32(1), 0) },
  { value: (k, x) => relu(k, x).mul(relu(k, x)), derivative: (k, x) => relu(k, x).mul(2) },
  {
    value: (k, x) => x.mul(sigmoid(k, x)),
    derivative(k, x) {
      const s = sigmoid(k, x)
      return s.mul(x.mul(k.f32(1).sub(s)).add(1))
    },
  },
]

const chosen = (k: Body, kind: U32, other: F32 | number, result: (of: (typeof KINDS)[number]) => F32): F32 => {
  const y = k.var(f32, other)
  KINDS.forEach((of, i) => k.if(kind.eq(i + 1), () => y.set(result(of))))
  return y.get()
}

/** Activation number `kind`, a specialization constant, of x. */
export const activate = (k: Body, kind: U32, x: F32): F32 => chosen(k, kind, x, ({ value }) => value(k, x))

/** Its derivative at x. */
export const activationSlope = (k: Body, kind: U32, x: F32): F32 => chosen(k, kind, 1, ({ derivative }) => derivative(k, x))
