/** The offset protocol: bytes of a file in frames that name their place, so that a broken connection goes on where it broke. */
import { AlphaError } from "./base-error.ts"

/** First bytes of the stream; what a login shell prints before them is skipped. */
export const MARK = "\x01alpha-file 1\n"

/**
 * A frame is one line and, for data, that many bytes:
 *   file ID SIZE      which file, and its size now; first
 *   data OFFSET N     followed by N bytes of the file from OFFSET
 *   beat              nothing new, but the connection lives
 *   end STATE         nothing more will come
 */
export type Frame =
  | { readonly kind: "file"; readonly id: string; readonly size: number }
  | { readonly kind: "data"; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: "beat" }
  | { readonly kind: "end"; readonly state: string }

const encoder = new TextEncoder()

/** The line before a frame's bytes. */
export function frameHead(frame: Frame): Uint8Array {
  switch (frame.kind) {
    case "file":
      return encoder.encode(`file ${frame.id} ${frame.size}\n`)
    case "data":
      return encoder.encode(`data ${frame.offset} ${frame.bytes.length}\n`)
    case "beat":
      return encoder.encode("beat\n")
    case "end":
      return encoder.encode(`end ${frame.state}\n`)
  }
}

const NEWLINE = 10
/** No head is longer; what is, is something else than this protocol. */
const LONGEST_HEAD = 200

/** Reads a stream that may be cut anywhere: data is handed on as it comes, in parts of its frame. */
export class FrameReader {
  #head: number[] = []
  /** Bytes of the mark seen so far; -1 once it is whole. */
  #marked = 0
  #offset = 0
  #left = 0

  constructor(private readonly take: (frame: Frame) => void) {}

  push(bytes: Uint8Array): void {
    let at = this.#marked < 0 ? 0 : this.#skip(bytes)
    while (at < bytes.length) {
      if (this.#left > 0) {
        const part = bytes.subarray(at, at + this.#left)
        this.take({ kind: "data", offset: this.#offset, bytes: part })
        this.#offset += part.length
        this.#left -= part.length
        at += part.length
        continue
      }
      const byte = bytes[at++]!
      if (byte !== NEWLINE) {
        this.#head.push(byte)
        if (this.#head.length > LONGEST_HEAD) throw broken(this.#head)
        continue
      }
      this.#begin(Buffer.from(this.#head).toString())
      this.#head = []
    }
  }

  /** Bytes up to the end of the mark. */
  #skip(bytes: Uint8Array): number {
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at]!
      this.#marked = byte === MARK.charCodeAt(this.#marked) ? this.#marked + 1 : byte === MARK.charCodeAt(0) ? 1 : 0
      if (this.#marked < MARK.length) continue
      this.#marked = -1
      return at + 1
    }
    return bytes.length
  }

  #begin(head: string): void {
    const [kind, ...words] = head.split(" ")
    const numbers = words.map(Number)
    if (kind === "file" && words.length === 2 && Number.isSafeInteger(numbers[1])) this.take({ kind, id: words[0]!, size: numbers[1]! })
    else if (kind === "data" && numbers.length === 2 && numbers.every(Number.isSafeInteger))
      [this.#offset, this.#left] = numbers as [number, number]
    else if (kind === "beat") this.take({ kind })
    else if (kind === "end") this.take({ kind, state: words.join(" ") })
    else throw broken(encoder.encode(head))
  }
}

function broken(head: ArrayLike<number>): AlphaError {
  const text = Buffer.from(Array.from(head).slice(0, 60)).toString()
  return new AlphaError(`the stream of the file has ${JSON.stringify(text)} where a frame begins`, {
    hint: "alpha fleet deploy brings both ends to one version",
  })
}
