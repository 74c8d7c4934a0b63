/** Activations inside matrix products, chosen by a number that is fixed when the pipeline is made. */
import type { Body, F32, U32 } from "../src/spirv.ts"
import { activations } from "./activation.ts"

const table = Object.values(activations)

/** The activation with number `which`: 0 = none, then in the order of ACTIVATIONS; a driver drops those not chosen. */
export const activated = (k: Body, which: U32, x: F32): F32 =>
  table.reduce((value, activation, i) => which.eq(i + 1).select(activation.value(k, x), value), x)

/** Its derivative. */
export const slope = (k: Body, which: U32, x: F32): F32 =>
  table.reduce<F32>((value, activation, i) => which.eq(i + 1).select(activation.derivative(k, x), value), k.f32(1))
