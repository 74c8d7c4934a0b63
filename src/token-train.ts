/** Builds a tokenizer from text. */

import { AlphaError, EXIT } from "./base-error.ts"
import { BPE_VOCABULARY } from "./config.ts"
import type { AddedToken } from "./token-added.ts"
import { Bpe } from "./token-bpe.ts"
import { learnBpe } from "./token-bpe-train.ts"
import { PieceCounter } from "./token-count.ts"
import type { Tokenizer } from "./token-interface.ts"
import { Plain, plainSplitter } from "./token-plain.ts"
import { PATTERNS, type Pattern, type PatternName } from "./token-split.ts"
import { toBytes, toText } from "./token-text.ts"
import { decodeAt, INVALID } from "./token-unicode.ts"

export interface TrainOptions {
  kind: "bpe" | "char" | "word"
  /**
   * Number of tokens, special ones included. bpe: just so many, by default at most BPE_VOCABULARY. char, word: the most there may be; all there are
   * by default.
   */
  vocabSize?: number
  /** bpe: where the text gives fewer, those will do; always so by default. */
  fewer?: boolean
  /** Split pattern of bpe (default gpt2) and word (default words). */
  pattern?: PatternName
  /** Texts of special tokens; they get the last ids. */
  special?: readonly string[]
  /** char, word: a special token for everything outside the vocabulary; undefined: such text is refused. */
  unknown?: string
  /** bpe: a pair is merged only if it occurs this often (default 2). */
  minCount?: number
  /** read: bytes of text counted. learn: tokens there are, of `total`. */
  onProgress?: (progress: { phase: "read" | "learn"; done: number; total: number | undefined }) => void
}

/** Bytes of text between two calls of onProgress. */
const REPORT_BYTES = 1 << 22

/**
 * Builds a tokenizer from `texts`, which are read once and cut into pieces one by one: a piece never spans two texts.
 * bpe: see `learnBpe`. char: the characters in code point order. word: the words by falling count, then by their bytes.
 * Text equal to a special token is not learned as a word. Throws AlphaError when `vocabSize` cannot be met: too small to
 * hold every character or word (and no `unknown`), or too large for the text.
 */
export function trainTokenizer(options: TrainOptions, texts: Iterable<string | Uint8Array>): Tokenizer {
  const special = [...new Set([...(options.unknown === undefined ? [] : [options.unknown]), ...(options.special ?? [])])]
  for (const content of special)
    if (content === "") throw new AlphaError("special tokens: an empty one cannot be found in text", { code: EXIT.usage })
  if (options.kind === "bpe") return trainBpe(options, special, texts)
  return trainPlain(options, options.kind, special, texts)
}

const addedFrom = (first: number, special: readonly string[]): AddedToken[] =>
  special.map((content, index) => ({ id: first + index, content, special: true, normalized: false }))

/** `vocab` with room for the special tokens behind it. */
const withSpecial = (vocab: readonly string[], special: readonly string[]): (string | undefined)[] => [
  ...vocab,
  ...special.map(() => undefined),
]

function trainBpe(options: TrainOptions, special: readonly string[], texts: Iterable<string | Uint8Array>): Tokenizer {
  const { vocabSize = BPE_VOCABULARY, pattern = "gpt2", minCount = 2, onProgress } = options
  if (options.unknown !== undefined) {
    throw new AlphaError("a bpe tokenizer has a token for every byte and needs no unknown token", { code: EXIT.usage })
  }
  const smallest = 256 + special.length
  if (!Number.isInteger(vocabSize) || vocabSize < smallest) {
    throw new AlphaError(`vocabSize ${vocabSize}: a bpe tokenizer has at least ${smallest} tokens (256 bytes, ${special.length} special)`, {
      code: EXIT.usage,
    })
  }
  const pieces = countPieces((PATTERNS[pattern] as Pattern).split, texts, onProgress)
  const learned = learnBpe(pieces, {
    vocabSize: vocabSize - special.length,
    minCount,
    onProgress: (done) => onProgress?.({ phase: "learn", done, total: vocabSize }),
  })
  const size = learned.vocab.length + special.length
  if (size < vocabSize && !(options.fewer ?? options.vocabSize === undefined)) {
    throw new AlphaError(
      `vocabSize ${vocabSize}: the text gives a bpe tokenizer of ${size} tokens, then no pair occurs ${minCount} times any more`,
      {
        hint: `pass --vocabSize=${size} or less, or more text`,
        code: EXIT.usage,
      },
    )
  }
  return new Bpe({
    vocab: withSpecial(learned.vocab, special),
    merges: learned.merges,
    pattern,
    added: addedFrom(learned.vocab.length, special),
    ignoreMerges: false,
    nfc: false,
    postProcessor: null,
  })
}

function countPieces(split: Pattern["split"], texts: Iterable<string | Uint8Array>, onProgress: TrainOptions["onProgress"]): PieceCounter {
  const pieces = new PieceCounter()
  let done = 0
  for (const text of texts) {
    const bytes = toBytes(text)
    let report = REPORT_BYTES - (done % REPORT_BYTES)
    for (let at = 0; at < bytes.length; ) {
      const end = split(bytes, at, bytes.length)
      pieces.add(bytes, at, end)
      at = end
      if (at < report) continue
      report += REPORT_BYTES
      onProgress?.({ phase: "read", done: done + at, total: undefined })
    }
    done += bytes.length
  }
  if (done === 0) throw new AlphaError("the text to build a tokenizer from is empty", { code: EXIT.data })
  return pieces
}

function trainPlain(
  options: TrainOptions,
  kind: "char" | "word",
  special: readonly string[],
  texts: Iterable<string | Uint8Array>,
): Tokenizer {
  const pattern = kind === "char" ? undefined : (options.pattern ?? "words")
  const pieces = countPieces(plainSplitter(pattern), checkUtf8(texts), options.onProgress)
  let rows = Array.from({ length: pieces.size }, (_, index) => ({ text: toText(pieces.piece(index)), count: pieces.count(index) }))
  rows = rows.filter((row) => !special.includes(row.text)).sort((a, b) => b.count - a.count || compareCodePoints(a.text, b.text))
  const room = (options.vocabSize ?? Number.POSITIVE_INFINITY) - special.length
  if (rows.length > room && options.unknown === undefined) {
    throw new AlphaError(
      `vocabSize ${options.vocabSize}: the text has ${rows.length} different ${kind}s, and ${special.length} special tokens were asked for`,
      {
        hint: `pass --vocabSize=${rows.length + special.length} or more, or an unknown token (alpha tokenizer build --unknown="<unk>")`,
        code: EXIT.usage,
      },
    )
  }
  const vocab = rows.slice(0, Math.max(room, 0)).map((row) => row.text)
  if (kind === "char") vocab.sort(compareCodePoints)
  return new Plain({ vocab: withSpecial(vocab, special), pattern, added: addedFrom(vocab.length, special), unknown: options.unknown })
}

/** Order of the UTF-8 bytes, which is that of the code points; JavaScript's own order is that of UTF-16. */
function compareCodePoints(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

/** Passes texts on; refuses invalid UTF-8. */
function* checkUtf8(texts: Iterable<string | Uint8Array>): Generator<Uint8Array> {
  for (const text of texts) {
    const bytes = toBytes(text)
    for (let at = 0; at < bytes.length; ) {
      const packed = decodeAt(bytes, at, bytes.length)
      if (packed >> 3 === INVALID) {
        const byte = bytes[at]!.toString(16).padStart(2, "0")
        throw new AlphaError(`text: byte 0x${byte} at byte offset ${at} is not valid UTF-8`, {
          hint: "use a bpe tokenizer, which takes any bytes",
          code: EXIT.data,
        })
      }
      at += packed & 7
    }
    yield bytes
  }
}
