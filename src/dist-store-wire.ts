/** The messages of PyTorch's TCPStore: numbers little-endian, texts and values with their length before them. */

/** First byte of a query, in the order of its protocol (torch/csrc/distributed/c10d/TCPStoreBackend.hpp). */
export const QUERY = {
  validate: 0,
  set: 1,
  compareSet: 2,
  get: 3,
  add: 4,
  check: 5,
  wait: 6,
  countKeys: 7,
  deleteKey: 8,
  append: 9,
  multiGet: 10,
  multiSet: 11,
  cancelWait: 12,
  ping: 13,
} as const

export const MAGIC = 0x3c85_f7ce

/** Answers to check and wait. */
export const READY = 0
export const NOT_READY = 1
export const STOP_WAITING = 0
export const WAIT_CANCELED = 1

/** A query or an answer as it is built. */
export class Writer {
  readonly #parts: Uint8Array[] = []

  u8(value: number): this {
    this.#parts.push(Uint8Array.of(value))
    return this
  }

  u32(value: number): this {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, value, true)
    this.#parts.push(bytes)
    return this
  }

  i64(value: bigint): this {
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigInt64(0, value, true)
    this.#parts.push(bytes)
    return this
  }

  /** A value, or a text in UTF-8. */
  bytes(value: Uint8Array | string): this {
    const raw = typeof value === "string" ? new TextEncoder().encode(value) : value
    this.i64(BigInt(raw.length)).#parts.push(raw)
    return this
  }

  end(): Uint8Array {
    return new Uint8Array(Buffer.concat(this.#parts))
  }
}

/** Thrown by a Reader that has not got enough bytes yet. */
export class Incomplete extends Error {}

/** Longest value that is accepted: an address or an identifier is far below. */
const LONGEST = 1n << 30n

/** Reads a message from the bytes at hand. */
export class Reader {
  at = 0
  readonly #view: DataView

  constructor(private readonly data: Uint8Array) {
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  }

  #take(count: number): number {
    if (this.at + count > this.data.length) throw new Incomplete()
    this.at += count
    return this.at - count
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1))
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  i64(): bigint {
    return this.#view.getBigInt64(this.#take(8), true)
  }

  count(): number {
    const value = this.i64()
    if (value < 0n || value > LONGEST) throw new RangeError(`a length of ${value} in the store's protocol`)
    return Number(value)
  }

  bytes(): Uint8Array {
    const length = this.count()
    const from = this.#take(length)
    return this.data.slice(from, from + length)
  }

  text(): string {
    return new TextDecoder().decode(this.bytes())
  }

  list<T>(read: () => T): T[] {
    return Array.from({ length: this.count() }, read)
  }
}
