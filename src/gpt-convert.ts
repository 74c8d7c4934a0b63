/** Between f32 arrays and the element types of weight files: f32, bf16, f16 little-endian. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { StoredDtype, StoredTensor } from "./gpt-safetensors.ts"

/** Elements converted at a time, so that reading needs no second copy of a tensor. */
const PIECE = 1 << 20

/** The bytes of an array as they lie in memory (every supported platform is little-endian). */
export const bytesOf = (array: Float32Array | Uint16Array): Uint8Array<ArrayBufferLike> =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

/** Fills `into` with elements start … start + into.length of an F32, BF16 or F16 tensor; exact. Any other dtype is an error that names it. */
export function readFloats(tensor: StoredTensor, start: number, into: Float32Array): void {
  if (tensor.dtype === "F32") {
    tensor.read(bytesOf(into), start * 4)
    return
  }
  const widen = tensor.dtype === "BF16" ? bf16ToF32 : tensor.dtype === "F16" ? f16ToF32 : undefined
  if (widen === undefined)
    throw new AlphaError(`${tensor.path}: tensor ${tensor.name} is ${tensor.dtype}, weights must be F32, BF16 or F16`, { code: EXIT.data })
  const piece = new Uint16Array(Math.min(PIECE, into.length))
  for (let done = 0; done < into.length; done += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, into.length - done))
    tensor.read(bytesOf(part), (start + done) * 2)
    widen(part, into.subarray(done, done + part.length))
  }
}

/** f32 values as bytes of a dtype: F32 is a view, BF16 and F16 round to nearest even. F16 refuses finite values beyond 65504, naming the tensor. */
export function floatBytes(values: Float32Array, dtype: StoredDtype, name: string): Uint8Array {
  if (dtype === "F32") return bytesOf(values)
  if (dtype === "BF16") return bytesOf(f32ToBf16(values))
  if (dtype !== "F16") throw new AlphaError(`tensor ${name}: f32 values cannot be written as ${dtype}`)
  const half = new Float16Array(values)
  for (let i = 0; i < half.length; i++) {
    if (Math.abs(half[i]!) === Infinity && Math.abs(values[i]!) !== Infinity)
      throw new AlphaError(`tensor ${name}: element ${i} is ${values[i]}, beyond the 65504 of f16`, { hint: "write f32 or bf16 instead" })
  }
  return new Uint8Array(half.buffer)
}

/** out[i] = in[i] with 16 zero bits appended. */
function bf16ToF32(from: Uint16Array, into: Float32Array): void {
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length)
  for (let i = 0; i < from.length; i++) bits[i] = from[i]! << 16
}

function f16ToF32(from: Uint16Array, into: Float32Array): void {
  into.set(new Float16Array(from.buffer, from.byteOffset, from.length))
}

/** Round to nearest even on bit 16; NaN stays NaN. */
function f32ToBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const out = new Uint16Array(values.length)
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!
    const isNan = (word & 0x7fffffff) > 0x7f800000
    out[i] = isNan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
  return out
}
