/** The activations: their formulas in f64, and the step back through one. */
import { multiply, PACK } from "../shaders/elementwise.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { groupsFor, launch } from "./op-gpu.ts"
import { elements, expectShape } from "./tensor.ts"

/** Activations in the order of the C enum; gelu is exact (erf), gelu_tanh OpenAI's approximation. */
export const ACTIVATIONS = ["none", "gelu", "gelu_tanh", "relu", "relu2", "silu"] as const
export type Activation = (typeof ACTIVATIONS)[number]

/** Position of a kind in the C enum. */
export const activationIndex = (kind: Activation): number => ACTIVATIONS.indexOf(kind)

const SQRT2 = Math.SQRT2
const TANH_SCALE = Math.sqrt(2 / Math.PI)

/** erf by its Maclaurin series (|x| < 3) or the continued fraction of erfc; 1e-15. */
function erf(x: number): number {
  const a = Math.abs(x)
  if (a < 3) {
    let term = a
    let sum = a
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (-a * a) / n
      sum += term / (2 * n + 1)
    }
    return Math.sign(x) * sum * (2 / Math.sqrt(Math.PI))
  }
  let fraction = 0
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction)
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction)))
}

/** act(z) in f64. */
export function activate(kind: Activation, z: number): number {
  if (kind === "gelu") return 0.5 * z * (1 + erf(z / SQRT2))
  if (kind === "gelu_tanh") return 0.5 * z * (1 + Math.tanh(TANH_SCALE * (z + 0.044715 * z ** 3)))
  if (kind === "relu") return Math.max(0, z)
  if (kind === "relu2") return Math.max(0, z) ** 2
  return kind === "silu" ? z / (1 + Math.exp(-z)) : z
}

/** act'(z) in f64. */
export function activateDerivative(kind: Activation, z: number): number {
  if (kind === "gelu") return 0.5 * (1 + erf(z / SQRT2)) + (z * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI)
  if (kind === "gelu_tanh") {
    const tanh = Math.tanh(TANH_SCALE * (z + 0.044715 * z ** 3))
    return 0.5 * (1 + tanh) + 0.5 * z * (1 - tanh * tanh) * TANH_SCALE * (1 + 3 * 0.044715 * z * z)
  }
  if (kind === "relu") return z > 0 ? 1 : 0
  if (kind === "relu2") return 2 * Math.max(0, z)
  const s = 1 / (1 + Math.exp(-z))
  return kind === "silu" ? s * (1 + z * (1 - s)) : 1
}

const activationBackwardKernel = nativeKernel("activation_backward", {
  dy: "pointer",
  slope: "pointer",
  dz: "pointer",
  size: "int",
  type: "int",
})

export const activationBackward = defineOp({
  name: "activation_backward",
  doc: "dz = dy ⊙ slope, the activation's derivative; all of one shape.",
  inputs: { dy: "state", slope: "state" },
  outputs: ["dz"],
  act: ["dy", "slope"],
  inPlace: { dz: "dy" },
  shape({ dy, slope }) {
    expectShape("activation_backward", "slope", slope, dy.shape, "dy")
    return { dz: dy }
  },
  reference({ dy, slope }, { dz }) {
    for (let i = 0; i < dz.data.length; i++) dz.data[i] = (dy.data[i] as number) * (slope.data[i] as number)
  },
  cpu: ({ dy, slope }, { dz }) => activationBackwardKernel({ dy, slope, dz, size: elements(dy), type: typeOf(dy) }),
  gpu: ({ dy, slope }, { dz }, _, __, target) => [
    launch(multiply, { a: dy, b: slope, y: dz, n: elements(dy) }, groupsFor(elements(dy), PACK, target)),
  ],
  cases: [{ inputs: { dy: [3, 37], slope: [3, 37] } }, { inputs: { dy: [3, 11003], slope: [3, 11003] }, about: "several tasks" }],
})
export const activationOps = [activationBackward]
