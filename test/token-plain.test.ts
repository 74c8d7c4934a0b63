import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { AlphaError } from "../src/base-error.ts"
import { sha256 } from "../src/base-file.ts"
import { type Tokenizer, trainTokenizer } from "../src/token.ts"
import { shared } from "./support.ts"
import { fuzzText } from "./tokenizer-fuzz.ts"

const book = shared("data/tinyshakespeare.txt")
const testBook = book ? test : (name: string, _: () => void) => test.skip(`${name} (no ../shared)`, () => {})

testBook("known answers of nanoGPT's shakespeare_char: 65 sorted characters, train.bin, val.bin", () => {
  const text = readFileSync(book!, "utf8")
  const tokenizer = trainTokenizer({ kind: "char" }, [text])
  expect(tokenizer.vocabSize).toBe(65)
  expect(tokenizer.decode(Array.from({ length: 65 }, (_, id) => id))).toBe(
    "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
  )
  const cut = Math.floor(text.length * 0.9)
  const hashOf = (part: string) => {
    const ids = tokenizer.encode(part)
    return [ids.length, sha256(new Uint8Array(Uint16Array.from(ids).buffer))]
  }
  expect(hashOf(text.slice(0, cut))).toEqual([1003854, "6ec305602a99ac2802745a134e1f5e33e2231b4855525b00b9aebb730ac2626f"])
  expect(hashOf(text.slice(cut))).toEqual([111540, "d37d30cc0c8327c270d493299c3dca54135f6d5f1c9ef60cda78076e311204b1"])
})

function refusal(tokenizer: Tokenizer, text: string | Uint8Array): string {
  try {
    tokenizer.encode(text)
  } catch (error) {
    if (error instanceof AlphaError) return error.message
  }
  return "no error"
}

describe("text outside the vocabulary is refused, naming it and its place", () => {
  const char = trainTokenizer({ kind: "char" }, ["the cafe"])
  const word = trainTokenizer({ kind: "word" }, ["the cafe\n"])
  test("a character", () => {
    expect(refusal(char, "the café")).toBe('text: character "é" (U+00E9) at byte offset 7 is not in the vocabulary of this char tokenizer')
    expect(refusal(char, "t\u{1f436}")).toContain("(U+1F436) at byte offset 1")
  })
  test("a word", () => {
    expect(refusal(word, "the cafe\nthe dog")).toBe('text: word " dog" at byte offset 12 is not in the vocabulary of this word tokenizer')
  })
  test("invalid UTF-8", () => {
    expect(refusal(char, Uint8Array.from([0x74, 0x68, 0xff]))).toBe("text: byte 0xff at byte offset 2 is not valid UTF-8")
    expect(refusal(word, Uint8Array.from([0x20, 0x63, 0xc3, 0x20]))).toBe("text: byte 0xc3 at byte offset 2 is not valid UTF-8")
    const replacement = trainTokenizer({ kind: "char" }, ["\ufffd"])
    expect(refusal(replacement, Uint8Array.from([0xff]))).toContain("not valid UTF-8")
    expect(() => trainTokenizer({ kind: "char" }, [Uint8Array.from([0x61, 0x80])])).toThrow("byte 0x80 at byte offset 1 is not valid UTF-8")
  })
})

test("with an unknown token everything else becomes that token", () => {
  const char = trainTokenizer({ kind: "char", unknown: "<unk>", vocabSize: 3 }, ["aaabbc"])
  expect([...char.encode("abcz")]).toEqual([0, 1, 2, 2])
  expect(char.decode(char.encode("abz"))).toBe("ab<unk>")
  expect([...char.encode(Uint8Array.from([0x61, 0xff]))]).toEqual([0, 2])
  const word = trainTokenizer({ kind: "word", unknown: "<unk>", vocabSize: 3 }, ["a b b a b c"])
  expect([...word.encode("a b x")]).toEqual([2, 0, 2])
})

test("words keep their blanks: the text comes back exactly", () => {
  const text = " Am7  F#m\tC/G |\n\nDm  "
  const word = trainTokenizer({ kind: "word" }, [text])
  expect(word.decode(word.encode(text))).toBe(text)
  expect([...word.encode(" Am7  F#m")].map((id) => word.decode([id]))).toEqual([" Am7", " ", " F#m"])
})

test("a vocabulary that is too small without an unknown token is refused", () => {
  const build = () => trainTokenizer({ kind: "word", vocabSize: 3, special: ["<|end|>"] }, ["a b c"])
  expect(build).toThrow("vocabSize 3: the text has 3 different words, and 1 special tokens were asked for")
})

test("special tokens follow the vocabulary and are opt-in", () => {
  const char = trainTokenizer({ kind: "char", special: ["<|end|>"] }, ["ab<|end|>"])
  const end = char.special.get("<|end|>")!
  expect(end).toBe(char.vocabSize - 1)
  expect(char.encode("ab<|end|>").length).toBe(9)
  expect([...char.encode("b<|end|>", { special: true })].at(-1)).toBe(end)
})

test.each(["char", "word"] as const)(
  "%s: 2,000 random byte strings (seed 8) round trip or are refused by name",
  (kind) => {
    const { refused, read } = fuzzText(kind, 2000, 8)
    expect(refused).toBeGreaterThan(20)
    expect(read).toBeGreaterThan(20)
  },
  300_000,
)
