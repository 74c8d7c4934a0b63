/** First values of parameters: normal random numbers and constants. */

import { fill as fillShader, PACK } from "../shaders/elementwise.ts"
import { randomNormal as randomNormalShader } from "../shaders/init.ts"
import { normal } from "./base-random.ts"
import { nativeKernel } from "./native.ts"
import { defineOp } from "./op-define.ts"
import { groupsFor, launch } from "./op-gpu.ts"
import { elements } from "./tensor.ts"

const randomNormalKernel = nativeKernel("random_normal", { seed: "pointer", y: "pointer", size: "int", stream: "int", std: "float" })
const fillKernel = nativeKernel("fill", { y: "pointer", size: "int", value: "float" })

export const randomNormal = defineOp({
  name: "random_normal",
  doc: "y[i] = std · normal(seed, stream, 0, i) of base-random.ts, f32, in the given shape.",
  inputs: { seed: "scalar" },
  outputs: ["y"],
  attrs: {} as { shape: readonly number[]; stream: number; std: number },
  shape: (_, { shape }) => ({ y: { shape, dtype: "f32" } }),
  reference({ seed }, { y }, { stream, std }) {
    for (let i = 0; i < y.data.length; i++) y.data[i] = std * normal((seed.data[0] as number) >>> 0, stream, 0, i)
  },
  cpu: ({ seed }, { y }, { shape, stream, std }) => randomNormalKernel({ seed, y, size: elements({ shape }), stream, std }),
  gpu: ({ seed }, { y }, { shape, stream, std }, _, target) => [
    launch(randomNormalShader, { y, n: elements({ shape }), stream, std, seed }, groupsFor(elements({ shape }), 4, target)),
  ],
  cases: [
    { inputs: { seed: { shape: [], dtype: "i32", values: [1337] } }, attrs: { shape: [1], stream: 3, std: 1 } },
    {
      inputs: { seed: { shape: [], dtype: "i32", values: [-5] } },
      attrs: { shape: [7, 31], stream: 65537, std: 0.02 },
      about: "a seed above 2³¹",
    },
    { inputs: { seed: { shape: [], dtype: "i32", values: [1] } }, attrs: { shape: [40_001], stream: 9, std: 2 }, about: "several tasks" },
  ],
  tolerance: { f32: 1e-6 },
})

export const fill = defineOp({
  name: "fill",
  doc: "y[i] = value, f32, in the given shape.",
  inputs: {},
  outputs: ["y"],
  attrs: {} as { shape: readonly number[]; value: number },
  shape: (_, { shape }) => ({ y: { shape, dtype: "f32" } }),
  reference: (_, { y }, { value }) => void y.data.fill(value),
  cpu: (_, { y }, { shape, value }) => fillKernel({ y, size: elements({ shape }), value }),
  gpu: (_, { y }, { shape, value }, __, target) => [
    launch(fillShader, { y, n: elements({ shape }), value }, groupsFor(elements({ shape }), PACK, target)),
  ],
  cases: [
    { inputs: {}, attrs: { shape: [3, 5], value: 1 } },
    { inputs: {}, attrs: { shape: [2, 2053], value: -2 }, about: "several turns" },
  ],
  tolerance: { f32: 0 },
})

export const initOps = [randomNormal, fill]
