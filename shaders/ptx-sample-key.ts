/** Keys of tokens: distances of their logits below the largest as integers, the order in which a row's tokens are cut. */
import type { F32, U32 } from "../src/ptx.ts"
import type { Block } from "./ptx-sample-block.ts"

/** Keys per nat below the top, and the key from which on a token weighs nothing: 62 nats. */
export const PER_NAT = 2 ** 24
export const LAST = 62 * PER_NAT

/** Of a number z; `sharpness`: 1/temperature. */
export const keyOf = ({ k }: Block, top: F32, z: F32, sharpness: F32): U32 =>
  k.toInteger(k.mulFloat(k.mulFloat(k.subFloat(top, z), sharpness), PER_NAT))

/** The weight of a key, 1 at the top. */
export const weightOf = ({ k }: Block, key: U32): F32 => k.unary("ex2.approx.ftz.f32", k.mulFloat(k.toFloat(key), -Math.LOG2E / PER_NAT))
