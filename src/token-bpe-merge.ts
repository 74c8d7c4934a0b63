/** Byte pair merging of one piece: always the lowest rank first, the leftmost among equals. */

const NONE = 0x7fffffff
/** Pieces up to this many bytes are merged by scanning for the minimum, O(n²); longer ones by rank, O(n log n). */
const SCAN_LIMIT = 48

export function hashPair(a: number, b: number): number {
  const h = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b)
  return h ^ (h >>> 15)
}

/** Merges by pair of ids: (left, right) → rank → merged id. Open addressing, three words a slot and one spare. */
export class Merges {
  readonly #slots: Int32Array
  readonly #mask: number
  readonly #byteIds: Int32Array
  readonly #pairs: Int32Array
  readonly #merged: Int32Array
  readonly #symbols = new Int32Array(SCAN_LIMIT)
  readonly #ranks = new Int32Array(SCAN_LIMIT)

  /** `byteIds` (256): id of each byte. `pairs`: left and right of each merge in order of rank. `merged`: its id. */
  constructor(byteIds: Int32Array, pairs: Int32Array, merged: Int32Array) {
    let size = 16
    while (size < merged.length * 2) size *= 2
    this.#slots = new Int32Array(size * 4).fill(-1)
    this.#mask = size - 1
    this.#byteIds = byteIds
    this.#pairs = pairs
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

  /**
   * Places are kept in one bucket per rank. Merging a rank's places from the left is the same as always taking the lowest
   * (rank, place), as long as a return to the lowest rank follows at once when a merge brings forth a lower one.
   */
  #mergeLong(bytes: Uint8Array, start: number, end: number, out: Int32Array, at: number): number {
    const count = end - start
    const symbols = new Int32Array(count)
    const next = new Int32Array(count)
    const previous = new Int32Array(count)
    const buckets = new Map<number, Bucket>()
    const ranks = new MinHeap() // of the buckets
    /** Notes the pair that begins at i. */
    const note = (i: number) => {
      const rank = next[i]! < count ? this.#rankOf(symbols[i]!, symbols[next[i]!]!) : NONE
      if (rank === NONE) return
      const bucket = buckets.get(rank)
      if (bucket === undefined) {
        buckets.set(rank, { places: [i], from: 0, isSorted: true })
        ranks.push(rank)
      } else {
        bucket.isSorted &&= i > bucket.places[bucket.places.length - 1]!
        bucket.places.push(i)
      }
    }
    for (let i = 0; i < count; i++) {
      symbols[i] = this.#byteIds[bytes[start + i]!]!
      next[i] = i + 1
      previous[i] = i - 1
    }
    for (let i = 0; i < count; i++) note(i)
    while (ranks.size > 0) {
      const rank = ranks.least
      const bucket = buckets.get(rank)!
      if (!bucket.isSorted) {
        bucket.places = bucket.places.slice(bucket.from).sort((a, b) => a - b)
        bucket.from = 0
        bucket.isSorted = true
      }
      const left = this.#pairs[2 * rank]!
      const right = this.#pairs[2 * rank + 1]!
      while (bucket.from < bucket.places.length && ranks.least === rank) {
        const i = bucket.places[bucket.from++]!
        const second = next[i]!
        // Stale places: another merge took one of the two symbols.
        if (symbols[i] !== left || second >= count || symbols[second] !== right) continue
        symbols[i] = this.#merged[rank]!
        symbols[second] = NONE
        next[i] = next[second]!
        if (next[i]! < count) previous[next[i]!] = i
        if (previous[i]! >= 0) note(previous[i]!)
        note(i)
      }
      if (ranks.least !== rank) continue
      buckets.delete(rank)
      ranks.pop()
    }
    for (let i = 0; i < count; i = next[i]!) out[at++] = symbols[i]!
    return at
  }
}

/** Places of one rank; those before `from` are done. */
interface Bucket {
  places: number[]
  from: number
  isSorted: boolean
}

/** Binary heap, smallest first. */
class MinHeap {
  readonly #keys: number[] = []

  get size(): number {
    return this.#keys.length
  }

  get least(): number {
    return this.#keys[0]!
  }

  push(key: number): void {
    const keys = this.#keys
    let i = keys.length
    keys.push(key)
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (keys[parent]! <= key) break
      keys[i] = keys[parent]!
      i = parent
    }
    keys[i] = key
  }

  pop(): void {
    const keys = this.#keys
    const key = keys.pop()!
    const size = keys.length
    if (size === 0) return
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
  }
}
