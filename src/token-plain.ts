/** Character and word tokenizers: one id per character or word, nothing outside the vocabulary. */

import { AlphaError, EXIT } from "./base-error.ts"
import { AddedMatchers, type AddedToken, splitAdded } from "./token-added.ts"
import { hashBytes, MAX_CACHED_BYTES, PieceCache } from "./token-cache.ts"
import type { EncodeOptions, Tokenizer } from "./token-interface.ts"
import { writeTokenizerJson } from "./token-json.ts"
import { cutPoint, PATTERNS, type Pattern, type PatternName, type Splitter } from "./token-split.ts"
import { describeCharacter, TokenBytes, toBytes, toText } from "./token-text.ts"
import { decodeAt, INVALID } from "./token-unicode.ts"

/** What a char or word tokenizer is made of. */
export interface PlainParts {
  /** Words, or single characters, by id; undefined where the id belongs to an added token. */
  vocab: readonly (string | undefined)[]
  /** How text is cut into words; undefined where it is cut at every character. */
  pattern: PatternName | undefined
  added: readonly AddedToken[]
  /** The added token that stands for everything outside the vocabulary; undefined: such text is refused. */
  unknown: string | undefined
}

/** The regular expression that makes Hugging Face's Split cut at every character, newlines included. */
export const ANY_CHARACTER = "[\\s\\S]"

/** The splitter of a pattern; of characters, where a byte that is not UTF-8 is one, for undefined. */
export function plainSplitter(pattern: PatternName | undefined): Splitter {
  return pattern === undefined ? (bytes, at, end) => at + (decodeAt(bytes, at, end) & 7) : (PATTERNS[pattern] as Pattern).split
}

/** A char or word tokenizer; throws AlphaError where its parts contradict each other. */
export class Plain implements Tokenizer {
  readonly kind: "char" | "word"
  readonly vocabSize: number
  readonly pattern: PatternName | undefined
  readonly special: ReadonlyMap<string, number>
  readonly unknown: number | undefined
  readonly #parts: PlainParts
  readonly #split: Splitter
  readonly #ids = new Map<string, number>()
  readonly #bytes: TokenBytes
  readonly #specialIds: ReadonlySet<number>
  readonly #matchers: AddedMatchers
  /** Made when the first text comes. */
  #cache: PieceCache | undefined

  constructor(parts: PlainParts) {
    this.#parts = parts
    this.kind = parts.pattern === undefined ? "char" : "word"
    this.vocabSize = parts.vocab.length
    this.pattern = parts.pattern
    this.#split = plainSplitter(parts.pattern)
    const contents = parts.vocab.map((token) => toBytes(token ?? ""))
    const added = new Map(parts.added.map((token) => [token.id, token]))
    parts.vocab.forEach((token, id) => {
      const content = token ?? added.get(id)?.content
      if (content === undefined) throw new AlphaError(`no token has id ${id}`, { code: EXIT.data })
      if (token === undefined) return
      const bytes = contents[id]!
      // Such a token would never be found, or break the rule that decode(encode(text)) is the text.
      if (token === "" || this.#split(bytes, 0, bytes.length) !== bytes.length) {
        throw new AlphaError(`token ${id} ${JSON.stringify(token)} is not one ${this.kind === "char" ? "character" : "word"}`, {
          code: EXIT.data,
        })
      }
      if (this.#ids.has(token))
        throw new AlphaError(`tokens ${this.#ids.get(token)} and ${id} are the same: ${JSON.stringify(token)}`, { code: EXIT.data })
      this.#ids.set(token, id)
    })
    for (const token of parts.added) contents[token.id] = toBytes(token.content)
    this.#bytes = new TokenBytes(contents)
    this.special = new Map(parts.added.filter((token) => token.special).map((token) => [token.content, token.id]))
    this.#specialIds = new Set(this.special.values())
    this.#matchers = new AddedMatchers(parts.added)
    this.unknown = parts.unknown === undefined ? undefined : this.special.get(parts.unknown)
    if (parts.unknown !== undefined && this.unknown === undefined) {
      throw new AlphaError(`the unknown token ${JSON.stringify(parts.unknown)} is not among the special tokens`, { code: EXIT.data })
    }
  }

  encode(text: string | Uint8Array, options: EncodeOptions = {}): Int32Array {
    const bytes = toBytes(text)
    const special = options.special ?? false
    this.#cache ??= new PieceCache()
    const cache = this.#cache
    const out = new Int32Array(bytes.length) // at most one id per byte
    let count = 0
    const token = (id: number) => {
      out[count++] = id
    }
    const pieces = (from: number, to: number) => {
      for (let at = from; at < to; ) {
        const end = this.#split(bytes, at, to)
        const hash = hashBytes(bytes, at, end)
        const found = end - at > MAX_CACHED_BYTES ? -1 : cache.find(hash, bytes, at, end, out, count)
        if (found < 0) {
          out[count] = this.#lookUp(bytes, at, end)
          if (end - at <= MAX_CACHED_BYTES) cache.add(hash, bytes, at, end, out, count, count + 1)
        }
        count++
        at = end
      }
    }
    const normalGap = (start: number, end: number) => splitAdded(this.#matchers.matcher(true, special), bytes, start, end, pieces, token)
    splitAdded(this.#matchers.matcher(false, special), bytes, 0, bytes.length, normalGap, token)
    return out.slice(0, count)
  }

  /** Id of one piece; the unknown token's, or an AlphaError, when it has none. */
  #lookUp(bytes: Uint8Array, start: number, end: number): number {
    let invalid = start
    while (invalid < end && decodeAt(bytes, invalid, end) >> 3 !== INVALID) invalid += decodeAt(bytes, invalid, end) & 7
    const text = toText(bytes.subarray(start, end))
    // An invalid byte decodes to U+FFFD, which may well be in the vocabulary itself.
    const id = (invalid < end ? undefined : this.#ids.get(text)) ?? this.unknown
    if (id !== undefined) return id
    const hint = "build the tokenizer from text that contains it, with an unknown token (--unknown), or use --tokenizer=bpe"
    if (invalid < end) {
      const byte = bytes[invalid]!.toString(16).padStart(2, "0")
      throw new AlphaError(`text: byte 0x${byte} at byte offset ${invalid} is not valid UTF-8`, { hint, code: EXIT.data })
    }
    const thing = this.kind === "char" ? `character ${describeCharacter(text.codePointAt(0)!)}` : `word ${JSON.stringify(text)}`
    throw new AlphaError(`text: ${thing} at byte offset ${start} is not in the vocabulary of this ${this.kind} tokenizer`, {
      hint,
      code: EXIT.data,
    })
  }

  decode(ids: ArrayLike<number>): string {
    return toText(this.#bytes.concat(ids))
  }

  decodeBytes(ids: ArrayLike<number>): Uint8Array {
    return this.#bytes.concat(ids)
  }

  tokenBytes(id: number): Uint8Array {
    return this.#specialIds.has(id) ? new Uint8Array(0) : this.#bytes.of(id)
  }

  cut(bytes: Uint8Array, at: number): number {
    return this.#parts.added.some((token) => /\s/.test(token.content)) ? bytes.length : cutPoint(this.pattern ?? "words", bytes, at)
  }

  toJson(): string {
    const { vocab, added, pattern, unknown } = this.#parts
    const contents = new Map(added.map((token) => [token.id, token.content]))
    return writeTokenizerJson({
      added,
      normalizer: null,
      preTokenizer: {
        type: "Split",
        pattern: { Regex: pattern === undefined ? ANY_CHARACTER : PATTERNS[pattern].regexes[0] },
        behavior: "Isolated",
        invert: false,
      },
      postProcessor: null,
      decoder: { type: "Fuse" },
      // Hugging Face must be given a name; one that is not in the vocabulary makes it refuse unknown text, as here.
      model: { type: "WordLevel", unk_token: unknown ?? "<none>" },
      vocab: vocab.map((token, id) => token ?? contents.get(id)!),
      merges: undefined,
    })
  }
}
