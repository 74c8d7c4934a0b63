/** Rotary position embedding as Llama does it, with the scalings for longer contexts. */
import { AlphaError, EXIT } from "./base-error.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { ropeLaunches } from "./op-heads-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, lastDim, rows, ShapeError, shapeText, type Tensor } from "./tensor.ts"

const ropeKernel = nativeKernel("rope", {
  x: "pointer",
  y: "pointer",
  positions: "pointer",
  frequencies: { radians: "float" },
  rows: "int",
  T: "int",
  rotated: "int",
  copied: "int",
  headSize: "int",
  type: "int",
  inverse: "int",
})

export interface RopeAttrs {
  /** Rows of one sequence: without positions, row r is at r mod T. */
  readonly T: number
  readonly nHead: number
  readonly nKvHead: number
  readonly headDim: number
  readonly theta: number
  /** none, linear:FACTOR or llama3:FACTOR:LOW:HIGH:ORIGINAL. */
  readonly scaling: string
  /** Rotates backwards: the gradient of a rotation. */
  readonly inverse?: boolean
}

/**
 * Radians per position of each of the headDim/2 pairs: θ^(−2i/D), scaled; rounded to f32 at the steps where PyTorch rounds, so that long contexts agree.
 * llama3: wavelengths beyond ORIGINAL/LOW are divided by FACTOR, those below ORIGINAL/HIGH kept, between them a blend (Llama 3.1, transformers 5).
 */
export function ropeFrequencies(headDim: number, theta: number, scaling: string): Float32Array {
  const { fround } = Math
  const plain = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / fround(theta ** fround((2 * i) / headDim)))
  const [kind, ...numbers] = scaling.split(":")
  const [factor = Number.NaN, low = Number.NaN, high = Number.NaN, original = Number.NaN] = numbers.map(Number)
  if (kind === "none") return plain
  if (kind === "linear") return plain.map((f) => f / factor)
  if (kind !== "llama3") {
    throw new AlphaError(`rope scaling ${scaling} is unknown`, {
      hint: "none, linear:FACTOR or llama3:FACTOR:LOW:HIGH:ORIGINAL",
      code: EXIT.usage,
    })
  }
  return plain.map((f) => {
    const wavelength = (2 * Math.PI) / f
    if (wavelength > original / low) return f / factor
    if (wavelength < original / high) return f
    const smooth = (original / wavelength - low) / (high - low)
    return ((1 - smooth) * f) / factor + smooth * f
  })
}

export const rope = defineOp({
  name: "rope",
  doc: "Pair (i, i + D/2) of every query and key head of qkv (R, (H+2K)·D) is turned by position·frequency i; values are copied. arXiv:2104.09864, halves as in Hugging Face Llama.",
  inputs: { qkv: "grad", positions: "index?" },
  outputs: ["y"],
  attrs: {} as RopeAttrs,
  act: ["qkv"],
  inPlace: { y: "qkv" },
  shape({ qkv, positions }, { nHead, nKvHead, headDim }) {
    const columns = (nHead + 2 * nKvHead) * headDim
    if (headDim % 2 !== 0) throw new ShapeError(`rope: head size ${headDim} is odd`)
    if (lastDim(qkv) !== columns) {
      throw new ShapeError(
        `rope: qkv ${shapeText(qkv.shape)} where (…, ${columns}) is needed by ${nHead} + 2·${nKvHead} heads of ${headDim}`,
      )
    }
    if (positions !== undefined) expectShape("rope", "positions", positions, qkv.shape.slice(0, -1), `qkv ${shapeText(qkv.shape)}`)
    return { y: qkv }
  },
  reference({ qkv, positions }, { y }, { T, nHead, nKvHead, headDim, theta, scaling, inverse }) {
    const [C, half] = [lastDim(qkv), headDim / 2]
    const frequencies = ropeFrequencies(headDim, theta, scaling)
    y.data.set(qkv.data)
    for (let r = 0; r < rows(qkv); r++) {
      const position = positions === undefined ? r % T : at(positions, r)
      for (let head = 0; head < nHead + nKvHead; head++) {
        for (let i = 0; i < half; i++) {
          const angle = Math.fround(position * (frequencies[i] as number)) * (inverse === true ? -1 : 1)
          const low = r * C + head * headDim + i
          const [a, b] = [at(qkv, low), at(qkv, low + half)]
          y.data[low] = a * Math.cos(angle) - b * Math.sin(angle)
          y.data[low + half] = b * Math.cos(angle) + a * Math.sin(angle)
        }
      }
    }
  },
  cpu: ({ qkv, positions }, { y }, { T, nHead, nKvHead, headDim, theta, scaling, inverse }) =>
    ropeKernel({
      x: qkv,
      y,
      positions,
      frequencies: Array.from(ropeFrequencies(headDim, theta, scaling), (radians) => ({ radians })),
      rows: rows(qkv),
      T,
      rotated: nHead + nKvHead,
      copied: nKvHead,
      headSize: headDim,
      type: typeOf(qkv),
      inverse: inverse === true ? 1 : 0,
    }),
  gpu: ({ qkv, positions }, { y }, { theta, scaling, inverse, ...sizes }, _, target) => {
    if (y === undefined) return []
    const frequencies = ropeFrequencies(sizes.headDim, theta, scaling)
    return ropeLaunches({ x: qkv, positions, y, frequencies, inverse: inverse === true, ...sizes }, target)
  },
  backward: ({ positions }, _, { y: dy }, attrs) => ({ qkv: turnedBack(dy as Tensor, positions, attrs) }),
  cases: [
    { inputs: { qkv: [1, 6] }, attrs: { T: 1, nHead: 1, nKvHead: 1, headDim: 2, theta: 10_000, scaling: "none" } },
    {
      inputs: { qkv: [2, 5, 40] },
      attrs: { T: 5, nHead: 2, nKvHead: 1, headDim: 10, theta: 10_000, scaling: "linear:2.5" },
      about: "shared keys",
    },
    {
      inputs: { qkv: [31, 6 * 64], positions: { shape: [31], below: 100_000 } },
      attrs: { T: 31, nHead: 2, nKvHead: 2, headDim: 64, theta: 500_000, scaling: "llama3:8:1:4:64" },
      about: "far positions",
    },
    {
      inputs: { qkv: [70, 3 * 96] },
      attrs: { T: 35, nHead: 1, nKvHead: 1, headDim: 96, theta: 100, scaling: "none", inverse: true },
      about: "inverse, several tasks",
    },
  ],
})

/** The gradient `dy` turned back; its type stated, because the op's own is being inferred where backward applies it again. */
function turnedBack(qkv: Tensor, positions: Tensor | undefined, attrs: RopeAttrs): Tensor {
  return rope({ qkv, positions }, { ...attrs, inverse: attrs.inverse !== true }).y
}

const at = (view: View, i: number): number => view.data[i] as number

export const ropeOps = [rope]
