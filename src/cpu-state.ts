/** Named buffers in native memory that outlive runs. */
import { AlphaError } from "./base-error.ts"
import { allocate, type Memory } from "./native.ts"
import type { State } from "./program.ts"
import { byteLength, type Dtype, sameShape, shapeText } from "./tensor.ts"

interface Buffer {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly memory: Memory
  readonly bytes: number
}

export class CpuState implements State {
  readonly #buffers = new Map<string, Buffer>()

  ensure(name: string, dtype: Dtype, shape: readonly number[]): void {
    const known = this.#buffers.get(name)
    if (known === undefined) {
      const bytes = byteLength({ dtype, shape })
      this.#buffers.set(name, { dtype, shape, bytes, memory: allocate(bytes, `state ${name}`) })
    } else if (known.dtype !== dtype || !sameShape(known.shape, shape)) {
      throw new AlphaError(`state ${name} is ${known.dtype} ${shapeText(known.shape)}, a program wants ${dtype} ${shapeText(shape)}`)
    }
  }

  has(name: string): boolean {
    return this.#buffers.has(name)
  }

  names(): string[] {
    return [...this.#buffers.keys()]
  }

  address(name: string): number {
    return this.#buffer(name).memory.address
  }

  /** The buffer itself, not a copy. */
  view(name: string): ArrayBuffer {
    const { memory, bytes } = this.#buffer(name)
    return memory.view(0, bytes)
  }

  read(name: string): Float32Array | Int32Array | Uint16Array {
    return this.#typed(name)
  }

  fill(work: (into: (name: string) => Float32Array) => void): void {
    work((name) => this.#typed(name) as Float32Array)
  }

  write(name: string, values: Float32Array | Int32Array | Uint16Array): void {
    const target = this.#typed(name)
    if (values.length !== target.length || values.constructor !== target.constructor) {
      throw new AlphaError(
        `state ${name} holds ${target.length} values (${target.constructor.name}), got ${values.length} (${values.constructor.name})`,
      )
    }
    target.set(values)
  }

  drop(name: string): void {
    this.#buffer(name).memory.free()
    this.#buffers.delete(name)
  }

  bytes(): number {
    return [...this.#buffers.values()].reduce((sum, b) => sum + b.memory.bytes, 0)
  }

  free(): void {
    for (const { memory } of this.#buffers.values()) memory.free()
    this.#buffers.clear()
  }

  #typed(name: string): Float32Array | Int32Array | Uint16Array {
    const view = this.view(name)
    const dtype = this.#buffer(name).dtype
    return dtype === "f32" ? new Float32Array(view) : dtype === "i32" ? new Int32Array(view) : new Uint16Array(view)
  }

  #buffer(name: string): Buffer {
    const buffer = this.#buffers.get(name)
    if (buffer === undefined) throw new AlphaError(`state ${name} does not exist`)
    return buffer
  }
}
