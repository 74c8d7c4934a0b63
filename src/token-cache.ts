/** A bounded cache: piece of text → its ids. */

const SLOTS = 1 << 18
const MAX_ENTRIES = SLOTS >> 1
const KEY_BYTES = 1 << 21
const ID_COUNT = 1 << 19
/** Slots looked at for one piece: a bound, so that text made to collide costs no more than other text. */
const PROBES = 16
/** Longer pieces are rarely seen twice. */
export const MAX_CACHED_BYTES = 64

/** Hash of bytes [start, end): FNV-1a with a final mix. */
export function hashBytes(bytes: Uint8Array, start: number, end: number): number {
  let hash = 0x811c9dc5
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193)
  return hash ^ (hash >>> 15)
}

/** Open addressing over typed arrays, so that it makes no garbage. When full, it starts over. */
export class PieceCache {
  /** Four words a slot: hash · start of the key · key length (0 = empty) + 256 · number of ids · the id, or the start of several. */
  readonly #slots = new Int32Array(SLOTS * 4)
  readonly #keys = new Uint8Array(KEY_BYTES)
  readonly #ids = new Int32Array(ID_COUNT)
  #entries = 0
  #keyEnd = 0
  #idEnd = 0

  /** Copies the ids of the piece to `out` from `at` and returns the end; −1 when the piece is not here. */
  find(hash: number, bytes: Uint8Array, start: number, end: number, out: Int32Array, at: number): number {
    const slots = this.#slots
    const keys = this.#keys
    const length = end - start
    let slot = (hash & (SLOTS - 1)) << 2
    for (let probe = 0; probe < PROBES; probe++, slot = (slot + 4) & (SLOTS * 4 - 1)) {
      const shape = slots[slot + 2]!
      if (shape === 0) return -1
      if (slots[slot] !== hash || (shape & 255) !== length) continue
      const key = slots[slot + 1]!
      let i = 0
      while (i < length && keys[key + i] === bytes[start + i]) i++
      if (i < length) continue
      const count = shape >> 8
      const value = slots[slot + 3]!
      if (count === 1) {
        out[at] = value
        return at + 1
      }
      for (let j = 0; j < count; j++) out[at + j] = this.#ids[value + j]!
      return at + count
    }
    return -1
  }

  /** Adds a piece that `find` did not find (not if its slots are taken); its ids are `out` [from, to). */
  add(hash: number, bytes: Uint8Array, start: number, end: number, out: Int32Array, from: number, to: number): void {
    const length = end - start
    const count = to - from
    if (this.#entries === MAX_ENTRIES || this.#keyEnd + length > KEY_BYTES || this.#idEnd + count > ID_COUNT) {
      this.#slots.fill(0)
      this.#entries = this.#keyEnd = this.#idEnd = 0
    }
    let slot = (hash & (SLOTS - 1)) << 2
    for (let probe = 1; this.#slots[slot + 2] !== 0; probe++, slot = (slot + 4) & (SLOTS * 4 - 1)) if (probe === PROBES) return
    this.#slots[slot] = hash
    this.#slots[slot + 1] = this.#keyEnd
    this.#slots[slot + 2] = length | (count << 8)
    this.#slots[slot + 3] = count === 1 ? out[from]! : this.#idEnd
    for (let i = start; i < end; i++) this.#keys[this.#keyEnd++] = bytes[i]!
    if (count > 1) for (let i = from; i < to; i++) this.#ids[this.#idEnd++] = out[i]!
    this.#entries++
  }
}
