/** The memory a simulated kernel sees: regions at made-up device addresses, shared arrays, every access checked. */
import type { SharedMemory } from "./spirv-node.ts"
import { RaceCheck } from "./spirv-simulate-race.ts"
import { type Bf16, bytesOf, type Plain, type ScalarName } from "./spirv-type.ts"

/** Units in which races in buffers are noticed: the smallest element. */
const UNIT = 2
/** Distance between regions, so that an address a little outside of one lies in none. */
const GAP = 1 << 20

/** Part of a JavaScript buffer at a device address. */
export interface Region {
  readonly name: string
  readonly address: number
  readonly view: DataView
}

/** The device's memory: places that kernels reach by address. */
export class DeviceMemory {
  private readonly regions: Region[] = []
  private readonly checks = new Map<ArrayBufferLike, RaceCheck>()
  private next = GAP

  /** Gives memory a device address, a multiple of 256. */
  place(name: string, { buffer, byteOffset, byteLength }: ArrayBufferView): number {
    const address = this.next
    this.next = Math.ceil((address + byteLength) / 256) * 256 + GAP
    this.regions.push({ name, address, view: new DataView(buffer as ArrayBuffer, byteOffset, byteLength) })
    return address
  }

  /** The region an address lies in. */
  find(address: number): Region | undefined {
    return this.regions.findLast((region) => region.address <= address && address <= region.address + region.view.byteLength)
  }

  /** Shared by all regions over the same JavaScript buffer. */
  check({ view }: Region): RaceCheck {
    const known = this.checks.get(view.buffer)
    if (known !== undefined) return known
    const check = new RaceCheck(Math.ceil(view.buffer.byteLength / UNIT))
    this.checks.set(view.buffer, check)
    return check
  }

  /** Units that `bytes` bytes at `offset` of a region cover, first and end. */
  units({ view }: Region, offset: number, bytes: number): readonly [number, number] {
    const start = view.byteOffset + offset
    return [Math.floor(start / UNIT), Math.ceil((start + bytes) / UNIT)]
  }
}

const word = new Uint32Array(1)
const single = new Float32Array(word.buffer)
/** f32 → bits of the nearest bf16, halves to even; every NaN becomes 0x7fc0. */
export function bf16Bits(value: number): number {
  single[0] = value
  const bits = word[0]!
  return Number.isNaN(value) ? 0x7fc0 : ((bits + 0x7fff + ((bits >>> 16) & 1)) / 0x10000) & 0xffff
}
function bf16Value(bits: number): number {
  word[0] = bits << 16
  return single[0]!
}

/** A number without the bits that bf16 does not have. */
export const bf16Cut = (value: number): number => {
  const near = bf16Rounded(value)
  const isBeyond = Math.abs(near) > Math.abs(value) // by one step
  return isBeyond ? bf16Value(bf16Bits(near) - 1) : near
}
/** The nearest number that is a bf16. */
export const bf16Rounded = (value: number): number => bf16Value(bf16Bits(value))

type Word = number | bigint
const READ: Record<ScalarName | "bf16", (view: DataView, at: number) => Word> = {
  bool: (view, at) => view.getUint32(at, true),
  u32: (view, at) => view.getUint32(at, true),
  i32: (view, at) => view.getInt32(at, true),
  u64: (view, at) => view.getBigUint64(at, true),
  f32: (view, at) => view.getFloat32(at, true),
  bf16: (view, at) => bf16Value(view.getUint16(at, true)),
}
const WRITE: Record<ScalarName | "bf16", (view: DataView, at: number, value: Word) => void> = {
  bool: (view, at, value) => view.setUint32(at, Number(value), true),
  u32: (view, at, value) => view.setUint32(at, Number(value), true),
  i32: (view, at, value) => view.setInt32(at, Number(value), true),
  u64: (view, at, value) => view.setBigUint64(at, BigInt(value), true),
  f32: (view, at, value) => view.setFloat32(at, Number(value), true),
  bf16: (view, at, value) => view.setUint16(at, bf16Bits(Number(value)), true),
}
/** Reader and writer of one component of an element. */
export function codec(type: Plain | Bf16) {
  const name = "stored" in type ? "bf16" : type.scalar
  return { read: READ[name], write: WRITE[name], bytes: "stored" in type ? 2 : bytesOf(type) / type.size }
}

/** A shared array: what it holds, what of it is defined, who touched it. */
export class SharedCells {
  readonly view: DataView
  readonly check: RaceCheck
  readonly written: Uint8Array

  constructor(readonly memory: SharedMemory) {
    this.view = new DataView(new ArrayBuffer(memory.length * bytesOf(memory.element)))
    this.check = new RaceCheck(memory.length)
    this.written = new Uint8Array(memory.length)
  }

  /** What a new workgroup finds: nothing. */
  clear(): void {
    this.check.clear()
    this.written.fill(0)
  }
}
