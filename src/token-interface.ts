/** What every tokenizer can do. */

import type { PatternName } from "./token-split.ts"

export interface EncodeOptions {
  /** Recognise special tokens (<|endoftext|> …) in the text. Off by default: text from outside must not be able to forge them. */
  special?: boolean
}

/** Text ↔ ids. Ids are dense: 0 … vocabSize − 1. An instance keeps caches and is not shared between threads. */
export interface Tokenizer {
  readonly kind: "bpe" | "char" | "word"
  readonly vocabSize: number
  /** How text is split into pieces before they are looked up or merged; undefined for characters. */
  readonly pattern: PatternName | undefined
  /** Special tokens by their text, for example <|endoftext|> → 50256. */
  readonly special: ReadonlyMap<string, number>
  /** The token that stands for text outside the vocabulary, whose bytes are then lost; undefined where such text is refused or cannot be. */
  readonly unknown: number | undefined
  /** Ids of `text` (a string, or UTF-8 bytes). Throws AlphaError naming the character and its byte offset when it cannot be encoded. */
  encode(text: string | Uint8Array, options?: EncodeOptions): Int32Array
  /** Text of `ids`; U+FFFD where the bytes are not UTF-8; special tokens by their text. Throws AlphaError on an id outside the vocabulary. */
  decode(ids: ArrayLike<number>): string
  /** The exact bytes of `ids`; special tokens by their text. */
  decodeBytes(ids: ArrayLike<number>): Uint8Array
  /** Bytes of one token, for bits per byte and streaming; empty for special tokens. */
  tokenBytes(id: number): Uint8Array
  /**
   * The smallest index i ≥ at (or bytes.length) where text may be cut: encode(head) followed by encode(tail) equals encode(whole).
   * For tokenising one text in parallel pieces.
   */
  cut(bytes: Uint8Array, at: number): number
  /** The Hugging Face tokenizer.json; the same tokenizer gives the same bytes. */
  toJson(): string
}
