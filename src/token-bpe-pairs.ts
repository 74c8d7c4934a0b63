/** Pairs of neighbouring symbols while a BPE is learned: how often, where, which is most frequent. */

import { hashPair } from "./token-bpe-merge.ts"
import { doubled } from "./token-count.ts"

/** Pairs of symbols with their counts, where they occur, and a queue by count. */
export class Pairs {
  #size = 0
  #left = new Int32Array(1 << 12)
  #right = new Int32Array(1 << 12)
  #counts = new Float64Array(1 << 12)
  /** First place of each pair in the linked list below, −1 for none. */
  #head = new Int32Array(1 << 12)
  /** Whether the pair is in #touched. */
  #isTouched = new Uint8Array(1 << 12)
  #touched: number[] = []
  /** Index of the pair + 1 by hash; 0 = empty. */
  #slots = new Int32Array(1 << 14)
  /** Linked list of places: position, next entry. */
  #places = new Int32Array(1 << 14)
  #placesEnd = 0
  #freePlace = -1
  /** Binary heap of (count when queued, pair); a count may have sunk since. */
  #heapCounts = new Float64Array(1 << 12)
  #heapPairs = new Int32Array(1 << 12)
  #heapSize = 0
  #taken = new Int32Array(1 << 10)

  left = (pair: number) => this.#left[pair]!
  right = (pair: number) => this.#right[pair]!
  count = (pair: number) => this.#counts[pair]!

  /** Slot of the pair in #slots: where it is or would be. */
  #slotOf(left: number, right: number): number {
    const mask = this.#slots.length - 1
    let slot = hashPair(left, right) & mask
    for (;;) {
      const pair = this.#slots[slot]! - 1
      if (pair < 0 || (this.#left[pair] === left && this.#right[pair] === right)) return slot
      slot = (slot + 1) & mask
    }
  }

  /** Counts one more place of a pair, which weighs `count`. */
  add(left: number, right: number, count: number, place: number): void {
    const slot = this.#slotOf(left, right)
    let pair = this.#slots[slot]! - 1
    if (pair < 0) {
      pair = this.#create(left, right)
      this.#slots[slot] = pair + 1
      if (this.#size * 2 > this.#slots.length) this.#rehash()
    }
    this.#counts[pair]! += count
    let entry = this.#freePlace
    if (entry >= 0) {
      this.#freePlace = this.#places[entry + 1]!
    } else {
      entry = this.#placesEnd
      this.#placesEnd += 2
      if (this.#placesEnd > this.#places.length) this.#places = doubled(this.#places, this.#placesEnd, Int32Array)
    }
    this.#places[entry] = place
    this.#places[entry + 1] = this.#head[pair]!
    this.#head[pair] = entry
    if (this.#isTouched[pair] === 0) {
      this.#isTouched[pair] = 1
      this.#touched.push(pair)
    }
  }

  subtract(left: number, right: number, count: number): void {
    this.#counts[this.#slots[this.#slotOf(left, right)]! - 1]! -= count
  }

  #create(left: number, right: number): number {
    const pair = this.#size++
    if (this.#size > this.#left.length) {
      this.#left = doubled(this.#left, this.#size, Int32Array)
      this.#right = doubled(this.#right, this.#size, Int32Array)
      this.#counts = doubled(this.#counts, this.#size, Float64Array)
      this.#head = doubled(this.#head, this.#size, Int32Array)
      this.#isTouched = doubled(this.#isTouched, this.#size, Uint8Array)
    }
    this.#left[pair] = left
    this.#right[pair] = right
    this.#head[pair] = -1
    return pair
  }

  #rehash(): void {
    this.#slots = new Int32Array(this.#slots.length * 2)
    for (let pair = 0; pair < this.#size; pair++) this.#slots[this.#slotOf(this.#left[pair]!, this.#right[pair]!)] = pair + 1
  }

  /** Places of a pair in ascending order, so that overlapping ones (a a a) are merged from the left; they are forgotten here. */
  take(pair: number): Int32Array {
    let length = 0
    let last = -1
    for (let entry = this.#head[pair]!; entry >= 0; entry = this.#places[entry + 1]!) {
      if (length === this.#taken.length) this.#taken = doubled(this.#taken, length + 1, Int32Array)
      this.#taken[length++] = this.#places[entry]!
      last = entry
    }
    if (last >= 0) {
      this.#places[last + 1] = this.#freePlace
      this.#freePlace = this.#head[pair]!
      this.#head[pair] = -1
    }
    return this.#taken.slice(0, length).sort()
  }

  /** A merged pair occurs nowhere. */
  drop(pair: number): void {
    this.#counts[pair] = 0
  }

  /** Queues the pairs that were added to since the last call. */
  queueTouched(): void {
    for (const pair of this.#touched) {
      this.#isTouched[pair] = 0
      if (this.#counts[pair]! > 0) this.#push(pair)
    }
    this.#touched = []
  }

  /** Takes the most frequent pair from the queue; −1 when none is left. */
  mostFrequent(): number {
    while (this.#heapSize > 0) {
      const count = this.#heapCounts[0]!
      const pair = this.#heapPairs[0]!
      this.#pop()
      if (count === this.#counts[pair]) return pair
      if (count > this.#counts[pair]! && this.#counts[pair]! > 0) this.#push(pair)
    }
    return -1
  }

  /** Whether (count, pair) comes before heap entry `other`. */
  #isBefore(count: number, pair: number, other: number): boolean {
    const otherCount = this.#heapCounts[other]!
    if (count !== otherCount) return count > otherCount
    const otherPair = this.#heapPairs[other]!
    const left = this.#left[pair]! - this.#left[otherPair]!
    return left !== 0 ? left < 0 : this.#right[pair]! < this.#right[otherPair]!
  }

  #push(pair: number): void {
    const count = this.#counts[pair]!
    let i = this.#heapSize++
    if (this.#heapSize > this.#heapPairs.length) {
      this.#heapCounts = doubled(this.#heapCounts, this.#heapSize, Float64Array)
      this.#heapPairs = doubled(this.#heapPairs, this.#heapSize, Int32Array)
    }
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!this.#isBefore(count, pair, parent)) break
      this.#heapCounts[i] = this.#heapCounts[parent]!
      this.#heapPairs[i] = this.#heapPairs[parent]!
      i = parent
    }
    this.#heapCounts[i] = count
    this.#heapPairs[i] = pair
  }

  /** Removes the first entry of the heap. */
  #pop(): void {
    const size = --this.#heapSize
    const count = this.#heapCounts[size]!
    const pair = this.#heapPairs[size]!
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= size) break
      if (child + 1 < size && this.#isBefore(this.#heapCounts[child + 1]!, this.#heapPairs[child + 1]!, child)) child++
      if (this.#isBefore(count, pair, child)) break
      this.#heapCounts[i] = this.#heapCounts[child]!
      this.#heapPairs[i] = this.#heapPairs[child]!
      i = child
    }
    this.#heapCounts[i] = count
    this.#heapPairs[i] = pair
  }
}
