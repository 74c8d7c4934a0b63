/** Byte-level BPE: encode, decode. */

import { AlphaError, EXIT } from "./base-error.ts"
import { firstInvalidUtf8 } from "./base-file.ts"
import { AddedMatchers, type AddedToken, splitAdded } from "./token-added.ts"
import { Merges } from "./token-bpe-merge.ts"
import { byteCharacters, fromByteLevel, toByteLevel } from "./token-bytes.ts"
import { hashBytes, MAX_CACHED_BYTES, PieceCache } from "./token-cache.ts"
import type { EncodeOptions, Tokenizer } from "./token-interface.ts"
import { writeTokenizerJson } from "./token-json.ts"
import { cutPoint, PATTERNS, type Pattern, type PatternName } from "./token-split.ts"
import { TokenBytes, toBytes, toText } from "./token-text.ts"

/** What a byte-level BPE is made of. */
export interface BpeParts {
  /** Ordinary tokens in the byte-level alphabet by id; undefined where the id belongs to an added token only. */
  vocab: readonly (string | undefined)[]
  /** Merges in order of rank: left and right token. */
  merges: readonly (readonly [string, string])[]
  pattern: PatternName
  added: readonly AddedToken[]
  /** A piece that is a token as a whole is that token, whatever the merges say (tiktoken, Llama 3). */
  ignoreMerges: boolean
  /** Text is brought to Unicode normal form C first (Qwen, GPT-NeoX). */
  nfc: boolean
  /** `post_processor` of the file it came from: what Hugging Face adds around a text. Kept, not applied. */
  postProcessor: unknown
}

const broken = (what: string) => new AlphaError(what, { code: EXIT.data })

/** Ids of the merges (left, right for each) and of what they make; refuses merges that do not fit the vocabulary. */
function resolveMerges(parts: BpeParts, ids: ReadonlyMap<string, number>): { pairs: Int32Array; merged: Int32Array } {
  const pairs = new Int32Array(parts.merges.length * 2)
  const merged = new Int32Array(parts.merges.length)
  const seen = new Set<number>()
  const idOf = (token: string, rank: number) => {
    const id = ids.get(token)
    if (id !== undefined) return id
    throw broken(`merge ${rank} (${parts.merges[rank]!.join(" ")}): token ${JSON.stringify(token)} is not in the vocabulary`)
  }
  parts.merges.forEach(([left, right], rank) => {
    const leftId = idOf(left, rank)
    const rightId = idOf(right, rank)
    seen.add(leftId * ids.size + rightId)
    if (seen.size === rank) throw broken(`merge ${rank} (${left} ${right}) stands twice`)
    pairs[2 * rank] = leftId
    pairs[2 * rank + 1] = rightId
    merged[rank] = idOf(left + right, rank)
  })
  return { pairs, merged }
}

/** Refuses tokens that cannot occur: each must be a byte, made by a merge, or an added token. */
function checkTokens(parts: BpeParts, merged: Int32Array): void {
  const made = new Set(merged)
  const added = new Map(parts.added.map((token) => [token.id, token]))
  parts.vocab.forEach((token, id) => {
    const row = added.get(id)
    if (token === undefined) {
      if (row === undefined) throw broken(`no token has id ${id}`)
      return
    }
    if (row !== undefined)
      throw broken(`id ${id} belongs to ${JSON.stringify(token)} and to the added token ${JSON.stringify(row.content)}`)
    if (token.length !== 1 && !made.has(id) && !parts.ignoreMerges) throw broken(`token ${id} ${JSON.stringify(token)}: no merge makes it`)
  })
}

/** A byte-level BPE tokenizer; throws AlphaError where its parts contradict each other. */
export class Bpe implements Tokenizer {
  readonly kind = "bpe"
  readonly vocabSize: number
  readonly special: ReadonlyMap<string, number>
  readonly unknown = undefined
  readonly pattern: PatternName
  readonly #parts: BpeParts
  readonly #bytes: TokenBytes
  readonly #specialIds: ReadonlySet<number>
  readonly #matchers: AddedMatchers
  readonly #merges: Merges
  readonly #wholePieces: ReadonlyMap<string, number> | undefined
  readonly #longestToken: number
  /** Made when the first text comes. */
  #cache: PieceCache | undefined
  /** Ids of the text being encoded; grown as needed and kept for the next. */
  #out = new Int32Array(1024)
  #count = 0

  constructor(parts: BpeParts) {
    this.#parts = parts
    this.vocabSize = parts.vocab.length
    this.pattern = parts.pattern
    const ids = new Map<string, number>()
    const contents: Uint8Array[] = parts.vocab.map((token, id) => {
      if (token === undefined) return new Uint8Array(0)
      const bytes = token === "" ? undefined : fromByteLevel(token)
      if (bytes === undefined) throw broken(`token ${id} ${JSON.stringify(token)} is not written in the byte-level alphabet`)
      if (ids.has(token)) throw broken(`tokens ${ids.get(token)} and ${id} are the same: ${JSON.stringify(token)}`)
      ids.set(token, id)
      return bytes
    })
    for (const token of parts.added) contents[token.id] = new TextEncoder().encode(token.content)
    const { pairs, merged } = resolveMerges(parts, ids)
    checkTokens(parts, merged)
    const byteIds = Int32Array.from(byteCharacters, (character, byte) => {
      const id = ids.get(character)
      if (id === undefined) throw broken(`byte 0x${byte.toString(16).padStart(2, "0")} has no token, so not every text can be encoded`)
      return id
    })
    this.#bytes = new TokenBytes(contents)
    const special = parts.added.filter((token) => token.special)
    this.special = new Map(special.map((token) => [token.content, token.id]))
    this.#specialIds = new Set(this.special.values())
    this.#matchers = new AddedMatchers(parts.added)
    this.#merges = new Merges(byteIds, pairs, merged)
    this.#wholePieces = parts.ignoreMerges ? ids : undefined
    this.#longestToken = contents.reduce((longest, bytes) => Math.max(longest, bytes.length), 0)
  }

  encode(text: string | Uint8Array, options: EncodeOptions = {}): Int32Array {
    const bytes = toBytes(text)
    const special = options.special ?? false
    this.#count = 0
    const token = (id: number) => {
      this.#reserve(1)
      this.#out[this.#count++] = id
    }
    const normalGap = (start: number, end: number) => {
      const normal = this.#parts.nfc ? toNfc(bytes, start, end) : bytes.subarray(start, end)
      splitAdded(this.#matchers.matcher(true, special), normal, 0, normal.length, (from, to) => this.#encodePieces(normal, from, to), token)
    }
    splitAdded(this.#matchers.matcher(false, special), bytes, 0, bytes.length, normalGap, token)
    const ids = this.#out.slice(0, this.#count)
    if (this.#out.length > 1 << 20) this.#out = new Int32Array(1024)
    return ids
  }

  /** Room for `more` ids in #out. */
  #reserve(more: number): void {
    if (this.#count + more <= this.#out.length) return
    const grown = new Int32Array(Math.max(this.#count + more, this.#out.length * 2))
    grown.set(this.#out)
    this.#out = grown
  }

  #encodePieces(bytes: Uint8Array, from: number, to: number): void {
    const split = (PATTERNS[this.pattern] as Pattern).split
    this.#cache ??= new PieceCache()
    const cache = this.#cache
    // A piece gives at most one id per byte; reserving for a block of text keeps the check out of the loop over pieces.
    let count = this.#count
    for (let at = from; at < to; ) {
      const end = split(bytes, at, to)
      if (count + (end - at) > this.#out.length) {
        this.#count = count
        this.#reserve(Math.max(end - at, Math.ceil((to - at) / 3)))
      }
      if (end - at > MAX_CACHED_BYTES) {
        count = this.#encodePiece(bytes, at, end, count)
      } else {
        const hash = hashBytes(bytes, at, end)
        const found = cache.find(hash, bytes, at, end, this.#out, count)
        if (found >= 0) {
          count = found
        } else {
          const next = this.#encodePiece(bytes, at, end, count)
          cache.add(hash, bytes, at, end, this.#out, count, next)
          count = next
        }
      }
      at = end
    }
    this.#count = count
  }

  /** Writes the ids of one piece to #out from `count` and returns the end. */
  #encodePiece(bytes: Uint8Array, at: number, end: number, count: number): number {
    if (this.#wholePieces !== undefined && end - at <= this.#longestToken) {
      const id = this.#wholePieces.get(toByteLevel(bytes, at, end))
      if (id !== undefined) {
        this.#out[count] = id
        return count + 1
      }
    }
    return this.#merges.merge(bytes, at, end, this.#out, count)
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
    // An added token with white space inside could span the place where the text is cut.
    return this.#parts.added.some((token) => /\s/.test(token.content)) ? bytes.length : cutPoint(this.pattern, bytes, at)
  }

  toJson(): string {
    const { vocab, merges, added, pattern, ignoreMerges, nfc, postProcessor } = this.#parts
    const contents = new Map(added.map((token) => [token.id, token.content]))
    // Added tokens behind the last ordinary one get their ids from their place in added_tokens.
    const size = vocab.findLastIndex((token) => token !== undefined) + 1
    return writeTokenizerJson({
      added,
      normalizer: nfc ? { type: "NFC" } : null,
      preTokenizer: preTokenizerOf(pattern),
      postProcessor,
      decoder: byteLevel(true, true),
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: ignoreMerges,
      },
      vocab: vocab.slice(0, size).map((token, id) => token ?? contents.get(id)!),
      merges: merges.map(([left, right]) => `${left} ${right}`),
    })
  }
}

const byteLevel = (addPrefixSpace: boolean, useRegex: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: addPrefixSpace,
  trim_offsets: true,
  use_regex: useRegex,
})

/** How Hugging Face tokenizers write a split pattern. */
function preTokenizerOf(pattern: PatternName): unknown {
  if (pattern === "gpt2") return byteLevel(false, true)
  if (pattern === "none") return byteLevel(false, false)
  if (pattern === "gpt2-digits") {
    return { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, byteLevel(false, true)] }
  }
  const split = { type: "Split", pattern: { Regex: PATTERNS[pattern].regexes[0] }, behavior: "Isolated", invert: false }
  return { type: "Sequence", pretokenizers: [split, byteLevel(false, false)] }
}

/** Bytes [start, end) in normal form C. Invalid UTF-8 has none and is refused. */
function toNfc(bytes: Uint8Array, start: number, end: number): Uint8Array {
  const part = bytes.subarray(start, end)
  if (!part.some((byte) => byte >= 0x80)) return part
  const invalid = firstInvalidUtf8(part)
  if (invalid < part.length) {
    throw new AlphaError(`text: byte 0x${part[invalid]!.toString(16)} at byte offset ${start + invalid} is not valid UTF-8`, {
      hint: "this tokenizer normalises text (NFC), which needs valid UTF-8",
      code: EXIT.data,
    })
  }
  return new TextEncoder().encode(toText(part).normalize("NFC"))
}
