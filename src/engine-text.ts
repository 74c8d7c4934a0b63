/** The text of one answer as it grows: whole characters only, held back while it could be the beginning of a stop text. */
import { StreamDecoder, type Tokenizer } from "./token.ts"

/** Cuts a text that arrives in pieces at the first stop text; where it is cut does not depend on the pieces. */
export class StopFilter {
  readonly #stops: readonly string[]
  /** What has arrived and may still be part of a stop text. */
  #held = ""
  /** The stop text that was found. */
  found: string | undefined

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** The text that is certain now: before a stop text, or no beginning of one. Sets `found`. */
  push(piece: string): string {
    if (this.#stops.length === 0) return piece
    this.#held += piece
    // The stop text that is complete first ends the answer, the longest of several that end together.
    let [start, end] = [0, Number.POSITIVE_INFINITY]
    for (const stop of this.#stops) {
      const at = this.#held.indexOf(stop)
      if (at < 0 || at + stop.length > end || (at + stop.length === end && at > start)) continue
      ;[start, end] = [at, at + stop.length]
      this.found = stop
    }
    if (this.found === undefined) start = this.#held.length - this.#beginning()
    const certain = this.#held.slice(0, start)
    this.#held = this.#held.slice(start)
    return certain
  }

  /** What was held back; the text ends here without a stop. */
  finish(): string {
    const rest = this.found === undefined ? this.#held : ""
    this.#held = ""
    return rest
  }

  /** Length of the longest end of what is held that begins a stop text. */
  #beginning(): number {
    const longest = Math.min(this.#held.length, Math.max(0, ...this.#stops.map((stop) => stop.length - 1)))
    for (let n = longest; n > 0; n--) {
      const end = this.#held.slice(-n)
      if (this.#stops.some((stop) => stop.startsWith(end))) return n
    }
    return 0
  }
}

/** Text of one answer, token by token. Without a tokenizer there is none. */
export class AnswerText {
  readonly #decoder: StreamDecoder | undefined
  readonly #filter: StopFilter
  text = ""

  constructor(tokenizer: Tokenizer | undefined, stops: readonly string[]) {
    this.#decoder = tokenizer === undefined ? undefined : new StreamDecoder(tokenizer)
    this.#filter = new StopFilter(stops)
  }

  /** The stop text that ended the answer. */
  get stop(): string | undefined {
    return this.#filter.found
  }

  /** Text that became certain with this token. */
  push(id: number): string {
    return this.#add(this.#filter.push(this.#decoder?.push(id) ?? ""))
  }

  /** The rest: what was held back, and U+FFFD for a character that was never finished. */
  finish(): string {
    if (this.stop !== undefined) return ""
    return this.#add(this.#filter.push(this.#decoder?.finish() ?? "") + this.#filter.finish())
  }

  #add(piece: string): string {
    this.text += piece
    return piece
  }
}
