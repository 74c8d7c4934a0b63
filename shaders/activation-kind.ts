/** Activations chosen by number when a pipeline is made, for the epilogues of other kernels. */
import { type Body, type F32, f32, type U32 } from "../src/spirv.ts"
import { type Activation, activations } from "./activation.ts"

/** In the order of the numbers from 1 on, which is that of ACTIVATIONS in src/op-activation.ts; 0 is none. */
const KINDS: readonly Activation[] = [activations.gelu, activations.gelu_tanh, activations.relu, activations.relu2, activations.silu]

const chosen = (k: Body, kind: U32, other: F32 | number, result: (of: Activation) => F32): F32 => {
  const y = k.var(f32, other)
  KINDS.forEach((of, i) => k.if(kind.eq(i + 1), () => y.set(result(of))))
  return y.get()
}

/** Activation number `kind`, a specialization constant, of x. */
export const activate = (k: Body, kind: U32, x: F32): F32 => chosen(k, kind, x, ({ value }) => value(k, x))

/** Its derivative at x. */
export const activationSlope = (k: Body, kind: U32, x: F32): F32 => chosen(k, kind, 1, ({ derivative }) => derivative(k, x))
