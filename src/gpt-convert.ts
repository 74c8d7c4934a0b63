/** Between f32 arrays and the element types of weight files: f32, bf16, f16 little-endian. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { StoredDtype, StoredTensor } from "./gpt-safetensors.ts"

/** Elements converted at a time, so that reading needs no second copy of a tensor. */
const PIECE = 1 << 17

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

/** Memory for one tensor at a time, so that writing a model makes no garbage: what `floats` and `words` return is valid until the next call. */
export class Scratch {
  #floats = new Float32Array(0)
  #words = new Uint16Array(0)

  floats(count: number): Float32Array {
    if (this.#floats.length < count) this.#floats = new Float32Array(count)
    return this.#floats.subarray(0, count)
  }

  words(count: number): Uint16Array {
    if (this.#words.length < count) this.#words = new Uint16Array(count)
    return this.#words.subarray(0, count)
  }
}

/**
 * f32 values as bytes of a dtype: F32 is a view, BF16 and F16 round to nearest even into `scratch`.
 * F16 refuses finite values that would become infinite, naming the tensor.
 */
export function floatBytes(values: Float32Array, dtype: StoredDtype, name: string, scratch = new Scratch()): Uint8Array {
  if (dtype === "F32") return bytesOf(values)
  if (dtype !== "BF16" && dtype !== "F16") throw new AlphaError(`tensor ${name}: f32 values cannot be written as ${dtype}`)
  const words = scratch.words(values.length)
  if (dtype === "BF16") f32ToBf16(values, words)
  else f32ToF16(values, words, name)
  return bytesOf(words)
}

/** out[i] = in[i] with 16 zero bits appended. */
function bf16ToF32(from: Uint16Array, into: Float32Array): void {
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length)
  for (let i = 0; i < from.length; i++) bits[i] = from[i]! << 16
}

function f16ToF32(from: Uint16Array, into: Float32Array): void {
  into.set(new Float16Array(from.buffer, from.byteOffset, from.length))
}

function f32ToF16(values: Float32Array, into: Uint16Array, name: string): void {
  new Float16Array(into.buffer, into.byteOffset, into.length).set(values)
  for (let i = 0; i < into.length; i++) {
    if ((into[i]! & 0x7fff) === 0x7c00 && Number.isFinite(values[i]))
      throw new AlphaError(`tensor ${name}: element ${i} is ${values[i]}, beyond the 65504 of f16`, { hint: "write f32 or bf16 instead" })
  }
}

/** Round to nearest even on bit 16; NaN stays NaN. */
function f32ToBf16(values: Float32Array, into: Uint16Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!
    const isNan = (word & 0x7fffffff) > 0x7f800000
    into[i] = isNan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
}
