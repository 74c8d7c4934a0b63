/** Text in and out of tokenizers: UTF-8 encoding that refuses broken strings, token bytes by id, streaming. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { Tokenizer } from "./token-interface.ts"

const encoder = new TextEncoder()

/** UTF-8 of `text`; bytes pass through. A lone surrogate has no UTF-8 form and is refused. */
export function toBytes(text: string | Uint8Array): Uint8Array {
  if (typeof text !== "string") return text
  if (!text.isWellFormed()) {
    const at = text.search(/\p{Surrogate}/u)
    const code = text.charCodeAt(at).toString(16).toUpperCase()
    throw new AlphaError(`text: lone surrogate U+${code} at character offset ${at} is not a character`, {
      hint: "a character was cut in half before the text came here; text.toWellFormed() replaces it by U+FFFD",
      code: EXIT.data,
    })
  }
  return encoder.encode(text)
}

/** "é" (U+00E9), for messages. */
export function describeCharacter(codePoint: number): string {
  return `${JSON.stringify(String.fromCodePoint(codePoint))} (U+${codePoint.toString(16).toUpperCase().padStart(4, "0")})`
}

/** The bytes of every token, one after the other. */
export class TokenBytes {
  readonly #bytes: Uint8Array
  /** Token id is bytes [starts[id], starts[id + 1]). */
  readonly #starts: Int32Array

  constructor(tokens: readonly Uint8Array[]) {
    this.#starts = new Int32Array(tokens.length + 1)
    tokens.forEach((token, id) => {
      this.#starts[id + 1] = this.#starts[id]! + token.length
    })
    this.#bytes = new Uint8Array(this.#starts[tokens.length]!)
    tokens.forEach((token, id) => {
      this.#bytes.set(token, this.#starts[id]!)
    })
  }

  get size(): number {
    return this.#starts.length - 1
  }

  /** Bytes of one token; not to be written to. Throws on an id outside the vocabulary. */
  of(id: number): Uint8Array {
    this.#check(id, undefined)
    return this.#bytes.subarray(this.#starts[id]!, this.#starts[id + 1]!)
  }

  concat(ids: ArrayLike<number>): Uint8Array {
    let length = 0
    for (let i = 0; i < ids.length; i++) {
      this.#check(ids[i]!, i)
      length += this.#starts[ids[i]! + 1]! - this.#starts[ids[i]!]!
    }
    const out = new Uint8Array(length)
    let at = 0
    for (let i = 0; i < ids.length; i++) {
      const end = this.#starts[ids[i]! + 1]!
      for (let j = this.#starts[ids[i]!]!; j < end; j++) out[at++] = this.#bytes[j]!
    }
    return out
  }

  #check(id: number, index: number | undefined): void {
    if (Number.isInteger(id) && id >= 0 && id < this.size) return
    const place = index === undefined ? "" : ` at index ${index}`
    throw new AlphaError(`token id ${id}${place} is not in the vocabulary (0 … ${this.size - 1})`, {
      hint: "the ids were made with another tokenizer",
      code: EXIT.data,
    })
  }
}

// A byte order mark is text like any other here: it must survive the round trip.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

/** UTF-8 bytes as text, U+FFFD where they are broken. */
export function toText(bytes: Uint8Array): string {
  return decoder.decode(bytes)
}

/** Turns ids that arrive one by one into text that is never cut inside a character. Special tokens give no text. */
export class StreamDecoder {
  readonly #tokenizer: Tokenizer
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true })

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
  }

  /** The text that became complete with this id; "" while a character is unfinished. */
  push(id: number): string {
    return this.#decoder.decode(this.#tokenizer.tokenBytes(id), { stream: true })
  }

  /** What was left unfinished, as U+FFFD; the decoder can be used again afterwards. */
  finish(): string {
    return this.#decoder.decode()
  }
}
