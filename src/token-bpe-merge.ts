/** Byte pair merging of one piece: always the lowest rank first, the leftmost among equals. */

const NONE = 0x7fffffff
/** Pieces up to this many bytes are merged by scanning for the minimum; longer ones with a heap, O(n log n). */
const SCAN_LIMIT = 48
/** Heap keys are rank · 2³² + position, exact in a double for ranks below 2²¹. */
const RANK_UNIT = 2 ** 32

export function hashPair(a: number, b: number): number {
  const h = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b)
  return h ^ (h >>> 15)
}

/** Merges by pair of ids: (left, right) → rank → merged id. Open addressing, three words a slot and one spare. */
export class Merges {
  readonly #slots: Int32Array
  readonly #mask: number
  readonly #byteIds: Int32Array
  readonly #merged: Int32Array
  #symbols = new Int32Array(SCAN_LIMIT)
  #ranks = new Int32Array(SCAN_LIMIT)

  /** `byteIds` (256): id of each byte. `pairs`: left and right of each merge in order of rank. `merged`: its id. */
  constructor(byteIds: Int32Array, pairs: Int32Array, merged: Int32Array) {
    let size = 16
    while (size < merged.length * 2) size *= 2
    this.#slots = new Int32Array(size * 4).fill(-1)
    this.#mask = size - 1
    this.#byteIds = byteIds
    this.#merged = merged
    for (let rank = 0; rank < merged.length; rank++) {
      const left = pairs[2 * rank]!
      const right = pairs[2 * rank + 1]!
      let slot = hashPair(left, right) & this.#mask
      while (this.#slots[4 * slot] !== -1) slot = (slot + 1) & this.#mask
      this.#slots.set([left, right, rank], 4 * slot)
    }
  }

  /** Rank of the merge of (left, right); NONE when there is none. */
  #rankOf(left: number, right: number): number {
    const slots = this.#slots
    for (let slot = hashPair(left, right) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const found = slots[4 * slot]!
      if (found === left && slots[4 * slot + 1] === right) return slots[4 * slot + 2]!
      if (found === -1) return NONE
    }
  }

  /** Writes the ids of bytes [start, end) to `out` from `at` and returns the end; `out` has room for one id per byte. */
  merge(bytes: Uint8Array, start: number, end: number, out: Int32Array, at: number): number {
    const count = end - start
    if (count > SCAN_LIMIT) return this.#mergeLong(bytes, start, end, out, at)
    const symbols = this.#symbols
    const ranks = this.#ranks
    for (let i = 0; i < count; i++) symbols[i] = this.#byteIds[bytes[start + i]!]!
    let last = count - 1 // index of the last symbol; ranks[i] belongs to symbols i, i + 1
    for (let i = 0; i < last; i++) ranks[i] = this.#rankOf(symbols[i]!, symbols[i + 1]!)
    while (last > 0) {
      let best = 0
      let rank = ranks[0]!
      for (let i = 1; i < last; i++) {
        if (ranks[i]! < rank) {
          rank = ranks[i]!
          best = i
        }
      }
      if (rank === NONE) break
      symbols[best] = this.#merged[rank]!
      for (let i = best + 1; i < last; i++) {
        symbols[i] = symbols[i + 1]!
        ranks[i - 1] = ranks[i]!
      }
      last--
      if (best < last) ranks[best] = this.#rankOf(symbols[best]!, symbols[best + 1]!)
      if (best > 0) ranks[best - 1] = this.#rankOf(symbols[best - 1]!, symbols[best]!)
    }
    for (let i = 0; i <= last; i++) out[at + i] = symbols[i]!
    return at + last + 1
  }

  #mergeLong(bytes: Uint8Array, start: number, end: number, out: Int32Array, at: number): number {
    const count = end - start
    const symbols = new Int32Array(count)
    const next = new Int32Array(count)
    const previous = new Int32Array(count)
    const ranks = new Int32Array(count).fill(NONE) // of the pair that begins here; a heap entry with another rank is stale
    const heap = new MinHeap(2 * count)
    for (let i = 0; i < count; i++) {
      symbols[i] = this.#byteIds[bytes[start + i]!]!
      next[i] = i + 1
      previous[i] = i - 1
    }
    const rate = (i: number) => {
      const rank = next[i]! < count ? this.#rankOf(symbols[i]!, symbols[next[i]!]!) : NONE
      ranks[i] = rank
      if (rank !== NONE) heap.push(rank * RANK_UNIT + i)
    }
    for (let i = 0; i < count; i++) rate(i)
    while (heap.size > 0) {
      const key = heap.pop()
      const rank = Math.floor(key / RANK_UNIT)
      const i = key - rank * RANK_UNIT
      if (ranks[i] !== rank) continue
      const right = next[i]!
      symbols[i] = this.#merged[rank]!
      ranks[right] = NONE
      next[i] = next[right]!
      if (next[i]! < count) previous[next[i]!] = i
      rate(i)
      if (previous[i]! >= 0) rate(previous[i]!)
    }
    for (let i = 0; i < count; i = next[i]!) out[at++] = symbols[i]!
    return at
  }
}

/** Binary heap of doubles, smallest first. */
class MinHeap {
  size = 0
  readonly #keys: Float64Array

  constructor(capacity: number) {
    this.#keys = new Float64Array(capacity)
  }

  push(key: number): void {
    const keys = this.#keys
    let i = this.size++
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (keys[parent]! <= key) break
      keys[i] = keys[parent]!
      i = parent
    }
    keys[i] = key
  }

  pop(): number {
    const keys = this.#keys
    const top = keys[0]!
    const key = keys[--this.size]!
    const size = this.size
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= size) break
      if (child + 1 < size && keys[child + 1]! < keys[child]!) child++
      if (keys[child]! >= key) break
      keys[i] = keys[child]!
      i = child
    }
    keys[i] = key
    return top
  }
}
