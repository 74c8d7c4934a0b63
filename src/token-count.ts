/** Counts distinct pieces of text. */

import { hashBytes } from "./token-cache.ts"

/** A growing hash table over typed arrays: piece → how often it occurred. Pieces keep the order of their first occurrence. */
export class PieceCounter {
  size = 0
  /** Two words a slot: hash · index of the piece + 1 (0 = empty). */
  #slots = new Int32Array(1 << 13)
  #bytes = new Uint8Array(1 << 16)
  #starts = new Float64Array(1 << 11)
  #counts = new Float64Array(1 << 11)

  /** Counts bytes [start, end) once. */
  add(bytes: Uint8Array, start: number, end: number): void {
    const hash = hashBytes(bytes, start, end)
    const mask = this.#slots.length - 1
    const length = end - start
    for (let slot = (hash << 1) & mask; ; slot = (slot + 2) & mask) {
      const index = this.#slots[slot + 1]! - 1
      if (index < 0) {
        this.#insert(slot, hash, bytes, start, end)
        return
      }
      if (this.#slots[slot] !== hash) continue
      const key = this.#starts[index]!
      if (this.#starts[index + 1]! - key !== length) continue
      let i = 0
      while (i < length && this.#bytes[key + i] === bytes[start + i]) i++
      if (i === length) {
        this.#counts[index]!++
        return
      }
    }
  }

  #insert(slot: number, hash: number, bytes: Uint8Array, start: number, end: number): void {
    const index = this.size++
    const from = this.#starts[index]!
    const to = from + end - start
    this.#slots[slot] = hash
    this.#slots[slot + 1] = index + 1
    if (index + 2 > this.#starts.length) {
      this.#starts = doubled(this.#starts, index + 2, Float64Array)
      this.#counts = doubled(this.#counts, index + 2, Float64Array)
    }
    if (to > this.#bytes.length) this.#bytes = doubled(this.#bytes, to, Uint8Array)
    this.#bytes.set(bytes.subarray(start, end), from)
    this.#starts[index + 1] = to
    this.#counts[index] = 1
    if (this.size * 4 > this.#slots.length) this.#rehash()
  }

  #rehash(): void {
    const old = this.#slots
    const mask = old.length * 2 - 1
    this.#slots = new Int32Array(old.length * 2)
    for (let i = 0; i < old.length; i += 2) {
      if (old[i + 1] === 0) continue
      let slot = (old[i]! << 1) & mask
      while (this.#slots[slot + 1] !== 0) slot = (slot + 2) & mask
      this.#slots[slot] = old[i]!
      this.#slots[slot + 1] = old[i + 1]!
    }
  }

  count(index: number): number {
    return this.#counts[index]!
  }

  /** Bytes of a piece; not to be written to. */
  piece(index: number): Uint8Array {
    return this.#bytes.subarray(this.#starts[index]!, this.#starts[index + 1]!)
  }
}

/** A copy of `array` at least twice as long and with room for `needed` elements. */
export function doubled<A extends Float64Array | Int32Array | Uint8Array>(array: A, needed: number, type: new (length: number) => A): A {
  const grown = new type(Math.max(needed, array.length * 2))
  grown.set(array)
  return grown
}
