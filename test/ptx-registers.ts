/** Where registers, constants and special values of a PTX text lie in the words of a warp that runs it. */
import type { Value } from "./ptx-text.ts"

export const LANES = 32
export const ALL: readonly number[] = Array.from({ length: LANES }, (_, i) => i)

/** An address: the words of its base, and what is added. */
export interface Place {
  readonly at: number
  readonly bytes: number
}

/** Every name and constant has a word of each lane, or two after each other, the low one first. */
export class Registers {
  readonly #places = new Map<string, number>()
  readonly #constants: { readonly at: number; readonly value: number }[] = []
  readonly #specials: { readonly at: number; readonly name: string }[] = []
  #end = 0

  #place(key: string, count: number, made: (at: number) => void = () => {}): number {
    const known = this.#places.get(key)
    if (known !== undefined) return known
    const at = this.#end
    this.#end += count * LANES
    this.#places.set(key, at)
    made(at)
    return at
  }

  /** Of a register's 32 bits. */
  named(name: string): number {
    return this.#place(name, 1)
  }

  /** Of 32 bits that an instruction reads. */
  word(value: Value): number {
    if (value.kind === "register") return this.named(value.name)
    if (value.kind === "number" || value.kind === "float") {
      const bits = value.kind === "float" ? value.bits : Number(BigInt.asUintN(32, value.value))
      return this.#place(`${bits}`, 1, (at) => this.#constants.push({ at, value: bits }))
    }
    if (value.kind === "name") return this.#place(value.name, 1, (at) => this.#specials.push({ at, name: value.name }))
    throw new Error(`cannot read ${JSON.stringify(value)}`)
  }

  /** Of 64 bits. */
  long(value: Value): number {
    if (value.kind !== "number") return this.#place(`long ${nameOf(value)}`, 2)
    const bits = BigInt.asUintN(64, value.value)
    return this.#place(`long ${bits}`, 2, (at) => {
      this.#constants.push({ at, value: Number(bits & 0xffffffffn) }, { at: at + LANES, value: Number(bits >> 32n) })
    })
  }

  shared(value: Value): Place {
    const { base, bytes } = value as Extract<Value, { kind: "address" }>
    return { at: this.word(base), bytes }
  }
  global(value: Value): Place {
    const { base, bytes } = value as Extract<Value, { kind: "address" }>
    return { at: this.long(base), bytes }
  }

  /** The words of a warp before its first instruction. */
  fresh(special: (name: string, lane: number) => number | undefined): Uint32Array<ArrayBuffer> {
    const made = new Uint32Array(this.#end)
    for (const { at, value } of this.#constants) made.fill(value, at, at + LANES)
    for (const { at, name } of this.#specials)
      for (const lane of ALL) {
        const value = special(name, lane)
        if (value === undefined) throw new Error(`cannot read ${name}`)
        made[at + lane] = value
      }
    return made
  }
}

export const nameOf = (value: Value | undefined): string => (value as { name: string }).name
export const listOf = (value: Value): readonly Value[] => (value.kind === "list" ? value.of : [value])
