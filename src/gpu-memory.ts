/** Device memory in pieces: small allocations share slabs, arenas are shared by programs, transfers go through one staging buffer. */
import { CACHED, type DeviceBuffer, type Driver, HOST, LOCAL, type Recording } from "./gpu-driver.ts"
import { vulkan } from "./native.ts"
import { ARENA_SLAB } from "./program.ts"

/** A piece of a buffer. */
export interface Allocation {
  readonly buffer: DeviceBuffer
  readonly offset: number
  readonly address: number
  readonly bytes: number
  free(): void
}

const ALIGN = 256
const SLAB = 32 * 2 ** 20
/** Pieces that are allocated together: from so many bytes on, in buffers of at most so many. */
const [LARGE, TOGETHER] = [2 ** 20, 2 ** 28]
const STAGING = 32 * 2 ** 20

interface Slab {
  readonly buffer: DeviceBuffer
  /** Free ranges [from, to), in order, never touching. */
  free: { from: number; to: number }[]
}

/** The memory of an arena: as many buffers as its size needs; nothing in it crosses a multiple of ARENA_SLAB. */
export interface Arena {
  readonly bytes: number
  readonly buffers: readonly DeviceBuffer[]
  users: number
}

export class GpuMemory {
  readonly #slabs: Slab[] = []
  readonly #arenas: Arena[] = []
  readonly #large = new Set<DeviceBuffer>()
  #staging: { up: DeviceBuffer; down: DeviceBuffer } | undefined

  constructor(readonly driver: Driver) {}

  /** A piece of device memory, not cleared. */
  allocate(bytes: number, what: string): Allocation {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN)
    if (size > SLAB / 2) {
      const buffer = this.driver.buffer(size, LOCAL, LOCAL, what)
      this.#large.add(buffer)
      const free = () => {
        this.#large.delete(buffer)
        buffer.free()
      }
      return { buffer, offset: 0, address: buffer.address, bytes: size, free }
    }
    let slab = this.#slabs.find(({ free }) => free.some(({ from, to }) => to - from >= size))
    if (slab === undefined) {
      slab = { buffer: this.driver.buffer(SLAB, LOCAL, LOCAL, what), free: [{ from: 0, to: SLAB }] }
      this.#slabs.push(slab)
    }
    const owner = slab
    const range = owner.free.find(({ from, to }) => to - from >= size) as { from: number; to: number }
    const offset = range.from
    range.from += size
    owner.free = owner.free.filter(({ from, to }) => to > from)
    let live = true
    return {
      buffer: owner.buffer,
      offset,
      address: owner.buffer.address + offset,
      bytes: size,
      free: () => {
        if (live) this.#release(owner, offset, offset + size)
        live = false
      },
    }
  }

  /** Pieces of device memory, not cleared; large ones lie side by side in buffers without a gap, which go with their last piece. */
  allocateAll(wanted: readonly { readonly bytes: number; readonly what: string }[]): Allocation[] {
    const made = new Map<(typeof wanted)[number], Allocation>()
    let group: { one: (typeof wanted)[number]; offset: number; bytes: number }[] = []
    let filled = 0
    const close = (): void => {
      const [first] = group
      if (first === undefined) return
      const buffer = this.driver.buffer(filled, LOCAL, LOCAL, first.one.what)
      this.#large.add(buffer)
      const live = new Set(group)
      for (const piece of group) {
        const free = () => {
          if (!live.delete(piece) || live.size > 0) return
          this.#large.delete(buffer)
          buffer.free()
        }
        made.set(piece.one, { buffer, offset: piece.offset, address: buffer.address + piece.offset, bytes: piece.bytes, free })
      }
      group = []
      filled = 0
    }
    for (const one of wanted) {
      const bytes = Math.ceil(one.bytes / ALIGN) * ALIGN
      if (wanted.length === 1 || bytes < LARGE || bytes > TOGETHER) {
        made.set(one, this.allocate(one.bytes, one.what))
        continue
      }
      if (filled + bytes > TOGETHER) close()
      group.push({ one, offset: filled, bytes })
      filled += bytes
    }
    close()
    return wanted.map((one) => made.get(one) as Allocation)
  }

  #release(slab: Slab, from: number, to: number): void {
    const ranges = [...slab.free, { from, to }].sort((a, b) => a.from - b.from)
    slab.free = []
    for (const range of ranges) {
      const last = slab.free.at(-1)
      if (last !== undefined && last.to === range.from) last.to = range.to
      else slab.free.push({ ...range })
    }
    if (slab.free[0]?.from === 0 && slab.free[0].to === SLAB) {
      slab.buffer.free()
      this.#slabs.splice(this.#slabs.indexOf(slab), 1)
    }
  }

  /** An arena of at least `bytes`; programs run one after another, so all share the largest. */
  arena(bytes: number, what: string): Arena {
    let arena = this.#arenas.find((one) => one.bytes >= bytes)
    if (arena === undefined) {
      const sizes = Array.from({ length: Math.max(1, Math.ceil(bytes / ARENA_SLAB)) }, (_, i) =>
        Math.min(ARENA_SLAB, bytes - i * ARENA_SLAB),
      )
      arena = { bytes, users: 0, buffers: sizes.map((size) => this.driver.buffer(size, LOCAL, LOCAL, `the arena of ${what}`)) }
      this.#arenas.push(arena)
    }
    arena.users++
    return arena
  }

  /** Gives an arena back; the last user's goodbye frees it. */
  leave(arena: Arena): void {
    if (--arena.users > 0) return
    for (const buffer of arena.buffers) buffer.free()
    this.#arenas.splice(this.#arenas.indexOf(arena), 1)
  }

  /** Every buffer of the device's own memory. */
  buffers(): DeviceBuffer[] {
    return [...this.#slabs.map(({ buffer }) => buffer), ...this.#arenas.flatMap(({ buffers }) => buffers), ...this.#large]
  }

  /** Fills pieces with a 32-bit pattern. */
  fill(pieces: readonly Allocation[], pattern: number): void {
    this.driver.now("a fill", (commands) => {
      for (const { buffer, offset, bytes } of pieces) vulkan().gpu_fill(this.driver.gpu, commands, buffer.handle, offset, bytes, pattern)
    })
  }

  /** Copies host bytes to the device; they are there on return. */
  upload(to: Allocation, from: Uint8Array): void {
    const { up } = this.#transfers()
    for (let at = 0; at < from.length; at += STAGING) {
      const part = from.subarray(at, at + STAGING)
      new Uint8Array(up.view(0, part.length)).set(part)
      this.driver.now("an upload", (commands) => this.#copy(commands, up, 0, to.buffer, to.offset + at, part.length))
    }
  }

  /** Copies device bytes to the host, after everything submitted before. */
  download(from: Allocation, bytes: number): Uint8Array<ArrayBuffer> {
    const { down } = this.#transfers()
    const result = new Uint8Array(bytes)
    for (let at = 0; at < bytes; at += STAGING) {
      const length = Math.min(STAGING, bytes - at)
      this.driver.now("a download", (commands) => this.#copy(commands, from.buffer, from.offset + at, down, 0, length))
      result.set(new Uint8Array(down.view(0, length)), at)
    }
    return result
  }

  #copy(commands: Recording, from: DeviceBuffer, fromOffset: number, to: DeviceBuffer, toOffset: number, bytes: number): void {
    vulkan().gpu_copy(this.driver.gpu, commands, from.handle, fromOffset, to.handle, toOffset, bytes)
  }

  #transfers() {
    this.#staging ??= {
      up: this.driver.buffer(STAGING, HOST, 0, "staging"),
      down: this.driver.buffer(STAGING, HOST, HOST | CACHED, "staging"),
    }
    return this.#staging
  }

  close(): void {
    for (const buffer of this.buffers()) buffer.free()
    this.#staging?.up.free()
    this.#staging?.down.free()
  }
}
