/** Memory as Hopper's asynchronous units see it: boxes of tensor maps, swizzles, matrix descriptors, barriers with phases. */

interface Region {
  readonly from: number
  readonly end: number
  readonly view: DataView
}

/** Addresses of global memory, each region by itself; an access outside all of them throws. */
export class GlobalMemory {
  readonly #regions: Region[] = []
  #last: Region = { from: 0, end: 0, view: new DataView(new ArrayBuffer(0)) }
  #next = 0x10000

  place(bytes: Uint8Array): number {
    const from = this.#next
    this.#regions.push({ from, end: from + bytes.byteLength, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) })
    this.#next = Math.ceil((from + bytes.byteLength + 4096) / 256) * 256
    return from
  }
  at(address: number, bytes: number, alignment = bytes): { view: DataView; offset: number } {
    if (address % alignment !== 0) throw new Error(`address ${address.toString(16)} is not aligned to ${alignment} bytes`)
    // most often it is the region of the last access
    if (!isWithin(this.#last, address, bytes)) {
      const found = this.#regions.find((region) => isWithin(region, address, bytes))
      if (found === undefined) throw new Error(`nothing lies at address ${address.toString(16)}`)
      this.#last = found
    }
    return { view: this.#last.view, offset: address - this.#last.from }
  }
}

const isWithin = ({ from, end }: Region, address: number, bytes: number): boolean => address >= from && address + bytes <= end

/** A shared address with its 16-byte piece moved: by bits 7… of the address, as many as the swizzle has. */
export const swizzled = (address: number, swizzle: number): number => address ^ (((address >> 7) & ((1 << swizzle) - 1)) << 4)

interface Map {
  readonly address: number
  readonly rank: number
  readonly swizzle: number
  readonly size: readonly number[]
  readonly strides: readonly number[]
  readonly box: readonly number[]
}

/** Decodes a map of bf16; written from the layout's description, apart from the writer in src/. */
export function readMap(memory: GlobalMemory, address: number): Map {
  const { view, offset } = memory.at(address, 64)
  const q = Array.from({ length: 16 }, (_, i) => view.getBigUint64(offset + 8 * i, true))
  const flags = Number(q[1]! & 0xffffffffn)
  const [low, high] = [(i: number) => Number(q[i]! & 0xffffffffn), (i: number) => Number(q[i]! >> 32n)]
  if (((flags >> 7) & 63) !== 10 || ((flags >> 17) & 3) !== 2) throw new Error(`not a map of bf16: ${flags.toString(16)}`)
  const map = {
    address: Number(q[0]),
    rank: ((flags >> 4) & 7) + 1,
    swizzle: (flags >> 13) & 3,
    size: [low(4) + 1, high(4) + 1, low(5) + 1, high(5) + 1, low(6) + 1],
    strides: [high(1), low(2), high(2), low(3)].map((stride, i) => (stride + ((high(3) >> (4 * i)) & 15) * 2 ** 32) * 16),
    box: [Number(q[6]! >> 56n) + 1, ...[0, 8, 16, 24].map((shift) => Number((q[7]! >> BigInt(shift)) & 255n) + 1)],
  }
  if (Number(q[8]) !== map.box.reduce((a, b) => a * b, 2)) throw new Error("the box's bytes are wrong")
  return map
}

/** Copies one box to shared memory; what lies outside is 0. Returns its bytes. */
export function copyBox(memory: GlobalMemory, map: Map, coordinates: readonly number[], shared: DataView, to: number): number {
  if (coordinates.length !== map.rank) throw new Error(`${coordinates.length} coordinates for a map of rank ${map.rank}`)
  if (to % (map.swizzle === 3 ? 1024 : map.swizzle === 2 ? 512 : 128) !== 0) throw new Error(`a box at ${to} is not aligned`)
  const [width] = map.box as [number]
  const count = map.box.reduce((a, b) => a * b, 1)
  // element by element in a row, those of it that lie inside at once
  const first = coordinates[0]! | 0
  const [from, end] = [Math.max(0, -first), Math.min(width, map.size[0]! - first)]
  for (let i = 0; i < count; i += width) {
    let rest = i / width
    let address = map.address + 2 * (first + from)
    let isInside = from < end
    for (let d = 1; d < map.rank; d++) {
      const at = (coordinates[d]! | 0) + (rest % map.box[d]!)
      rest = Math.floor(rest / map.box[d]!)
      isInside &&= at >= 0 && at < map.size[d]!
      address += at * map.strides[d - 1]!
    }
    const row = isInside ? memory.at(address, 2 * (end - from), 2) : undefined
    for (let j = 0; j < width; j++) {
      const value = row !== undefined && j >= from && j < end ? row.view.getUint16(row.offset + 2 * (j - from), true) : 0
      shared.setUint16(swizzled(to + 2 * (i + j), map.swizzle), value, true)
    }
  }
  return 2 * count
}

/** Shared address of element (k, n) of the second factor, 16 of k; `alongN`: stored along n. The descriptor in two words. */
export function factorAddress(low: number, high: number, alongN: boolean): (k: number, n: number) => number {
  const [start, leading, stride] = [low, low >>> 16, high].map((field) => (field & 0x3fff) * 16) as [number, number, number]
  const swizzle = [0, 3, 2, 1][high >>> 30]!
  const row = 16 * 2 ** swizzle
  const perRow = row / 2
  return (k, n) => {
    const inner = alongN ? n : k
    const outer = alongN ? k : n
    const linear = start + Math.floor(inner / perRow) * leading + (outer >> 3) * stride + (outer & 7) * row + (inner % perRow) * 2
    return swizzled(linear, swizzle)
  }
}

/** An mbarrier. */
export class Barrier {
  phase = 0
  #pending: number
  #bytes = 0
  constructor(readonly count: number) {
    this.#pending = count
  }
  arrive(bytes = 0): void {
    if (this.#pending === 0) throw new Error("more arrivals than a barrier's phase has")
    this.#pending--
    this.complete(-bytes)
  }
  /** Bytes that have come (or, negative, are awaited). */
  complete(bytes: number): void {
    this.#bytes -= bytes
    if (this.#pending > 0 || this.#bytes !== 0) return
    this.phase++
    this.#pending = this.count
  }
  /** Whether the newest phase of this parity is over. */
  isOver(parity: number): boolean {
    return (this.phase & 1) !== parity
  }
}
