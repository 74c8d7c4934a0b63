/** Named buffers in device memory that outlive runs. */
import { AlphaError } from "./base-error.ts"
import { LOCAL } from "./gpu-driver.ts"
import type { Allocation, GpuMemory } from "./gpu-memory.ts"
import type { SharedState, State } from "./program.ts"
import { byteLength, type Dtype, elements, sameShape, shapeText } from "./tensor.ts"

type Values = Float32Array | Int32Array | Uint16Array

interface Entry {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly memory: Allocation
}

/** Gradients begin on multiples of this. */
const ALIGN = 256
/** Memory for another API is whole pages of the driver's largest size: what that API is told is then what was allocated. */
const PAGE = 2 << 20

const ARRAYS = { f32: Float32Array, i32: Int32Array, bf16: Uint16Array } as const

export class GpuState implements State {
  readonly #entries = new Map<string, Entry>()
  /** Buffers that are not zero yet. */
  #unwritten: Allocation[] = []
  /** What gives shared memory back. */
  #shared: (() => void)[] = []

  constructor(readonly memory: GpuMemory) {}

  ensure(name: string, dtype: Dtype, shape: readonly number[]): void {
    this.ensureAll([{ name, dtype, shape }])
  }

  /** The same for several, whose memory then has no gaps. */
  ensureAll(wanted: readonly { readonly name: string; readonly dtype: Dtype; readonly shape: readonly number[] }[]): void {
    for (const { name, dtype, shape } of wanted) {
      const known = this.#entries.get(name)
      if (known !== undefined && (known.dtype !== dtype || !sameShape(known.shape, shape)))
        throw new AlphaError(`state ${name} is ${known.dtype} ${shapeText(known.shape)}, a program wants ${dtype} ${shapeText(shape)}`)
    }
    const fresh = wanted.filter(({ name }) => !this.#entries.has(name))
    const pieces = this.memory.allocateAll(fresh.map((one) => ({ bytes: byteLength(one), what: `state ${one.name}` })))
    fresh.forEach(({ name, dtype, shape }, i) => {
      const memory = pieces[i] as Allocation
      this.#entries.set(name, { dtype, shape, memory })
      this.#unwritten.push(memory)
    })
  }

  has(name: string): boolean {
    return this.#entries.has(name)
  }

  names(): string[] {
    return [...this.#entries.keys()]
  }

  /** Where a buffer lies on the device. */
  at(name: string): Allocation {
    this.#clear()
    return this.#entry(name).memory
  }

  /** Makes all new buffers zero at once: a submit costs more than filling one. */
  #clear(): void {
    if (this.#unwritten.length === 0) return
    this.memory.fill(this.#unwritten, 0)
    this.#unwritten = []
  }

  read(name: string): Values {
    this.#clear()
    const { dtype, shape, memory } = this.#entry(name)
    return new ARRAYS[dtype](this.memory.download(memory, byteLength({ dtype, shape })).buffer)
  }

  write(name: string, values: Values): void {
    const { dtype, shape, memory } = this.#entry(name)
    const count = elements({ shape })
    if (values.length !== count || values.constructor !== ARRAYS[dtype]) {
      throw new AlphaError(`state ${name} holds ${count} values (${ARRAYS[dtype].name}), got ${values.length} (${values.constructor.name})`)
    }
    this.#clear()
    this.memory.upload(memory, new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
  }

  fill(work: (into: (name: string) => Float32Array) => void): void {
    const given = new Map<string, Float32Array>()
    work((name) => {
      const known = given.get(name) ?? new Float32Array(elements(this.#entry(name)))
      given.set(name, known)
      return known
    })
    for (const [name, values] of given) this.write(name, values)
  }

  drop(name: string): void {
    this.#clear()
    this.#entry(name).memory.free()
    this.#entries.delete(name)
  }

  share(buffers: readonly { readonly name: string; readonly shape: readonly number[] }[]): SharedState {
    const { driver } = this.memory
    const places = new Map<string, number>()
    let bytes = 0
    for (const { name, shape } of buffers) {
      if (this.#entries.has(name)) throw new AlphaError(`state ${name} exists: it cannot be shared any more`)
      places.set(name, bytes)
      bytes += Math.ceil(byteLength({ dtype: "f32", shape }) / ALIGN) * ALIGN
    }
    const semaphore = driver.sharedSemaphore()
    const buffer = driver.buffer(Math.ceil(bytes / PAGE) * PAGE, LOCAL, LOCAL, "the gradients", true)
    const whole = { buffer, offset: 0, address: buffer.address, bytes, free: () => {} }
    for (const { name, shape } of buffers) {
      const offset = places.get(name) as number
      const memory = { ...whole, offset, address: buffer.address + offset, bytes: byteLength({ dtype: "f32", shape }) }
      this.#entries.set(name, { dtype: "f32", shape, memory })
    }
    this.#unwritten.push(whole)
    this.#shared.push(() => {
      semaphore.free()
      buffer.free()
    })
    return {
      floats: bytes / 4,
      from: new Map([...places].map(([name, offset]) => [name, offset / 4])),
      memoryFd: driver.memoryFd(buffer),
      memoryBytes: buffer.bytes,
      semaphoreFd: semaphore.fd,
      signal: (value) => semaphore.step(value, true),
      wait: (value) => semaphore.step(value, false),
    }
  }

  bytes(): number {
    return [...this.#entries.values()].reduce((sum, { memory }) => sum + memory.bytes, 0)
  }

  free(): void {
    this.#unwritten = []
    for (const { memory } of this.#entries.values()) memory.free()
    for (const free of this.#shared) free()
    this.#shared = []
    this.#entries.clear()
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name)
    if (entry === undefined) throw new AlphaError(`state ${name} does not exist`)
    return entry
  }
}
