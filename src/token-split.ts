/** Pre-token splitters: the published split patterns as hand-written scanners over UTF-8 bytes. */

import { asciiCategories, categoryOf, decodeAt, LETTER, LOWER, NUMBER, SPACE, UPPER } from "./token-unicode.ts"

/** The end of the piece that starts at `at`; at < result ≤ end. Pieces partition the bytes. */
export type Splitter = (bytes: Uint8Array, at: number, end: number) => number

/** A split pattern: its regular expressions as they stand in tokenizer.json files, the first being the one we write, and its scanner. */
export interface Pattern {
  regexes: readonly string[]
  split: Splitter
}

const CLASSES = LETTER | NUMBER | SPACE
const NEWLINE_LF = 0x0a
const NEWLINE_CR = 0x0d
const BLANK = 0x20
const APOSTROPHE = 0x27

/** End of the run of characters whose class (LETTER, NUMBER, SPACE or 0 for the rest) is `wanted`. */
function runOf(wanted: number, bytes: Uint8Array, at: number, end: number): number {
  while (at < end) {
    const byte = bytes[at]!
    if (byte < 0x80) {
      if ((asciiCategories[byte]! & CLASSES) !== wanted) return at
      at++
    } else {
      const packed = decodeAt(bytes, at, end)
      if ((categoryOf(packed >> 3) & CLASSES) !== wanted) return at
      at += packed & 7
    }
  }
  return at
}

/** Category bits of the character at `at`. */
function categoryAt(bytes: Uint8Array, at: number, end: number): number {
  const byte = bytes[at]!
  return byte < 0x80 ? asciiCategories[byte]! : categoryOf(decodeAt(bytes, at, end) >> 3)
}

function widthAt(bytes: Uint8Array, at: number, end: number): number {
  return bytes[at]! < 0x80 ? 1 : decodeAt(bytes, at, end) & 7
}

const isNewline = (byte: number) => byte === NEWLINE_LF || byte === NEWLINE_CR

/** `\s+(?!\S)|\s+` on the white-space run [at, stop): all but its last character when something follows it. */
function spaceRun(bytes: Uint8Array, at: number, stop: number, end: number): number {
  if (stop === end) return stop
  let last = stop - 1
  while (bytes[last]! >> 6 === 2) last-- // back to the first byte of the last character
  return last > at ? last : stop
}

/** One past the last newline in the white-space run [at, stop), or `at`: `\s*[\r\n]+`. */
function afterLastNewline(bytes: Uint8Array, at: number, stop: number): number {
  while (stop > at && !isNewline(bytes[stop - 1]!)) stop--
  return stop
}

/** Length of `'(?:[sdmt]|ll|ve|re)` at the apostrophe `at`, or 0. `fold` ignores case, where U+017F (long s) is an s too. */
function contraction(bytes: Uint8Array, at: number, end: number, fold: boolean): number {
  const lower = fold ? 0x20 : 0
  if (at + 1 >= end) return 0
  const b1 = bytes[at + 1]! | lower
  if (b1 === 0x73 || b1 === 0x64 || b1 === 0x6d || b1 === 0x74) return 2 // s d m t
  if (at + 2 >= end) return 0
  if (fold && bytes[at + 1] === 0xc5 && bytes[at + 2] === 0xbf) return 3 // U+017F
  const b2 = bytes[at + 2]! | lower
  if (b1 === 0x6c && b2 === 0x6c) return 3 // ll
  if ((b1 === 0x76 || b1 === 0x72) && b2 === 0x65) return 3 // ve re
  return 0
}

/** GPT-2. `digits`: every \p{N} character is cut out first, as a piece of its own. */
function gpt2Splitter(digits: boolean): Splitter {
  return (bytes, at, end) => {
    const first = bytes[at]!
    if (first === APOSTROPHE) {
      const length = contraction(bytes, at, end, false)
      if (length > 0) return at + length
    }
    const start = first === BLANK && at + 1 < end ? at + 1 : at
    const kind = categoryAt(bytes, start, end) & CLASSES
    if (digits && kind === NUMBER) return start > at ? start : at + widthAt(bytes, at, end)
    if (kind !== SPACE) return runOf(kind, bytes, start, end)
    const stop = runOf(SPACE, bytes, start, end)
    if (digits && stop < end && categoryAt(bytes, stop, end) & NUMBER) return stop
    return spaceRun(bytes, at, stop, end)
  }
}

/** cl100k and its kin. `maxDigits`: longest run of digits in a piece. `greedyTail`: white space at the end of the text is one piece. */
function cl100kSplitter(maxDigits: number, greedyTail: boolean): Splitter {
  return (bytes, at, end) => {
    const first = bytes[at]!
    const kind = categoryAt(bytes, at, end) & CLASSES
    if (kind === LETTER) return runOf(LETTER, bytes, at, end)
    if (first === APOSTROPHE) {
      const length = contraction(bytes, at, end, true)
      if (length > 0) return at + length
    }
    if (kind === NUMBER) return digitRun(bytes, at, end, maxDigits)
    const next = at + widthAt(bytes, at, end)
    if (!isNewline(first) && next < end) {
      const nextKind = categoryAt(bytes, next, end) & CLASSES
      if (nextKind === LETTER) return runOf(LETTER, bytes, next, end)
      if (first === BLANK && nextKind === 0) return newlineRun(bytes, runOf(0, bytes, next, end), end, -1)
    }
    if (kind === 0) return newlineRun(bytes, runOf(0, bytes, next, end), end, -1)
    const stop = runOf(SPACE, bytes, next, end)
    if (greedyTail && stop === end) return stop
    const newline = afterLastNewline(bytes, at, stop)
    return newline > at ? newline : spaceRun(bytes, at, stop, end)
  }
}

/** o200k. */
function splitO200k(bytes: Uint8Array, at: number, end: number): number {
  const first = bytes[at]!
  const bits = categoryAt(bytes, at, end)
  const next = at + widthAt(bytes, at, end)
  if ((bits & (LETTER | NUMBER)) === 0 && !isNewline(first)) {
    // The optional character before a word; without it a mark can begin the word itself.
    const word = wordEnd(bytes, next, end)
    const tail = word.lower ? word.end : bits & UPPER ? wordEnd(bytes, at, end).end : word.end
    if (tail > next || bits & UPPER) return afterContraction(bytes, tail, end)
  } else if (bits & LETTER) {
    return afterContraction(bytes, wordEnd(bytes, at, end).end, end)
  }
  if (bits & NUMBER) return digitRun(bytes, at, end, 3)
  const kind = bits & CLASSES
  if (kind === 0) return newlineRun(bytes, runOf(0, bytes, next, end), end, 0x2f)
  if (first === BLANK && next < end && (categoryAt(bytes, next, end) & CLASSES) === 0) {
    return newlineRun(bytes, runOf(0, bytes, next, end), end, 0x2f)
  }
  const stop = runOf(SPACE, bytes, next, end)
  const newline = afterLastNewline(bytes, at, stop)
  return newline > at ? newline : spaceRun(bytes, at, stop, end)
}

/**
 * `U*L+`, else `U+L*`, at `at`, where U is UPPER and L is LOWER: end of the match (= at when there is none), and whether
 * the first form matched. Characters in both classes may be given back by U* so that L+ has one: the last such ends the word.
 */
function wordEnd(bytes: Uint8Array, at: number, end: number): { end: number; lower: boolean } {
  let lastBoth = -1
  while (at < end) {
    const bits = categoryAt(bytes, at, end)
    if ((bits & UPPER) === 0) break
    at += widthAt(bytes, at, end)
    if (bits & LOWER) lastBoth = at
  }
  const upperEnd = at
  while (at < end && categoryAt(bytes, at, end) & LOWER) at += widthAt(bytes, at, end)
  if (at > upperEnd) return { end: at, lower: true }
  if (lastBoth >= 0) return { end: lastBoth, lower: true }
  return { end: upperEnd, lower: false }
}

function afterContraction(bytes: Uint8Array, at: number, end: number): number {
  return bytes[at] === APOSTROPHE && at < end ? at + contraction(bytes, at, end, true) : at
}

/** End of up to `limit` characters \p{N} from `at`. */
function digitRun(bytes: Uint8Array, at: number, end: number, limit: number): number {
  for (let count = 0; count < limit && at < end && categoryAt(bytes, at, end) & NUMBER; count++) at += widthAt(bytes, at, end)
  return at
}

/** `[\r\n]*`, with `also` as one more byte in the class. */
function newlineRun(bytes: Uint8Array, at: number, end: number, also: number): number {
  while (at < end && (isNewline(bytes[at]!) || bytes[at] === also)) at++
  return at
}

/** ` ?\S+|\s`: words with the blank before them; other white space one character at a time. */
function splitWords(bytes: Uint8Array, at: number, end: number): number {
  let start = bytes[at] === BLANK ? at + 1 : at
  while (start < end && !(categoryAt(bytes, start, end) & SPACE)) start += widthAt(bytes, start, end)
  return start > at ? start : at + widthAt(bytes, at, end)
}

const cl100kTail = String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const cl100kHead = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|`
const o200kEnd = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
const o200kUpper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const o200kLower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`

/**
 * Split patterns by name.
 * gpt2: openai/gpt-2 encoder.py. gpt4 (cl100k), gpt4o (o200k): openai/tiktoken openai_public.py. llama3, qwen2: their tokenizer.json. nanochat: karpathy/nanochat tokenizer.py.
 * gpt2-digits: GPT-2 with single digits (SmolLM, StarCoder). words: white-space separated words. none: one piece.
 * Code points that one Unicode version assigns and an older one does not may be classed differently elsewhere.
 */
export const PATTERNS = {
  gpt2: {
    regexes: [
      String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
      String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
      String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s`,
    ],
    split: gpt2Splitter(false),
  },
  "gpt2-digits": { regexes: [], split: gpt2Splitter(true) },
  gpt4: {
    regexes: [
      // tiktoken writes \p{N}{1,3}+ with a possessive +, which Oniguruma (Hugging Face) reads as "repeated".
      String.raw`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s++$|\s*[\r\n]|\s+(?!\S)|\s`,
    ],
    split: cl100kSplitter(3, true),
  },
  llama3: {
    regexes: [String.raw`${cl100kHead}\p{N}{1,3}${cl100kTail}`],
    split: cl100kSplitter(3, false),
  },
  nanochat: {
    regexes: [String.raw`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`],
    split: cl100kSplitter(2, false),
  },
  qwen2: { regexes: [String.raw`${cl100kHead}\p{N}${cl100kTail}`], split: cl100kSplitter(1, false) },
  gpt4o: {
    regexes: [
      String.raw`[^\r\n\p{L}\p{N}]?${o200kUpper}*${o200kLower}+${o200kEnd}|[^\r\n\p{L}\p{N}]?${o200kUpper}+${o200kLower}*${o200kEnd}` +
        String.raw`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    ],
    split: splitO200k,
  },
  words: { regexes: [String.raw` ?\S+|\s`], split: splitWords },
  none: { regexes: [], split: (_bytes, _at, end) => end },
} as const satisfies Record<string, Pattern>

export type PatternName = keyof typeof PATTERNS
export const patternNames = Object.keys(PATTERNS) as PatternName[]

/** The pattern whose regular expression is exactly `regex`. */
export function patternOf(regex: string): PatternName | undefined {
  return patternNames.find((name) => (PATTERNS[name] as Pattern).regexes.includes(regex))
}

/**
 * The smallest i ≥ at where the text may be cut without changing its pieces: between an ASCII letter and an ASCII space
 * every pattern ends a piece, and none looks behind. bytes.length when there is no such place.
 */
export function cutPoint(pattern: PatternName, bytes: Uint8Array, at: number): number {
  if (at <= 0) return 0
  if (pattern === "none") return bytes.length
  for (let i = at; i < bytes.length; i++) {
    const byte = bytes[i]!
    if ((byte === BLANK || isNewline(byte)) && asciiCategories[bytes[i - 1]!]! & LETTER) return i
  }
  return bytes.length
}
