import { afterAll, describe, expect, test } from "bun:test"
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError } from "../src/base-error.ts"
import { loadTokenizer, parseTokenizer, saveTokenizer, type Tokenizer, tokenizerHash, trainTokenizer } from "../src/token.ts"
import fixture from "./fixtures/token-hf.json"
import { shared } from "./support.ts"
import { fuzzTokenizerFiles } from "./tokenizer-fuzz.ts"

const directory = mkdtempSync(join(tmpdir(), "alpha-token-"))
afterAll(() => rmSync(directory, { recursive: true }))

/** The text of the AlphaError that `work` throws; other errors pass through. */
function refusal(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (error instanceof AlphaError) return `${error.message}${error.hint ? ` | ${error.hint}` : ""}`
    throw error
  }
  return "no error"
}

describe("tokenizer.json files of Hugging Face tokenizers", () => {
  describe.each(fixture.files)("$name", ({ json, known }) => {
    const read = parseTokenizer(json)
    const again = parseTokenizer(read.toJson())
    test.each([
      ["as read", read],
      ["as we write it", again],
    ] as const)("%s: the same ids and text", (_, tokenizer) => {
      for (const { text, ids, decoded } of known as { text: string; ids?: number[]; decoded?: string }[]) {
        // Hugging Face looks for special tokens in every text. Where it refused a text, so do we.
        if (ids === undefined) expect(refusal(() => tokenizer.encode(text, { special: true }))).toContain("is not in the vocabulary")
        else {
          expect([...tokenizer.encode(text, { special: true })]).toEqual(ids)
          expect(tokenizer.decode(ids)).toBe(decoded!)
        }
      }
    })
    test("our own file is stable", () => {
      expect(again.toJson()).toBe(read.toJson())
      expect(tokenizerHash(again)).toBe(tokenizerHash(read))
    })
  })
})

const texts = [fixture.corpus]
const samples: [string, Tokenizer][] = [
  ["bpe", trainTokenizer({ kind: "bpe", vocabSize: 300, special: ["<|end|>"] }, texts)],
  ["char", trainTokenizer({ kind: "char", special: ["<|end|>"] }, texts)],
  ["word", trainTokenizer({ kind: "word", vocabSize: 50, unknown: "<unk>" }, texts)],
]

test.each(samples)("%s: save, load from the file and from the directory", (name, tokenizer) => {
  const path = join(directory, name)
  mkdirSync(path)
  saveTokenizer(tokenizer, path)
  expect(readFileSync(join(path, "tokenizer.json"), "utf8")).toBe(tokenizer.toJson())
  for (const place of [path, join(path, "tokenizer.json")]) {
    const copy = loadTokenizer(place)
    expect(copy.toJson()).toBe(tokenizer.toJson())
    expect([...copy.encode("the whale")]).toEqual([...tokenizer.encode("the whale")])
    expect(copy.special).toEqual(tokenizer.special)
    expect(copy.kind).toBe(tokenizer.kind)
  }
})

test("900 damaged files (seed 9): ours are refused or the same tokenizer, others are refused or still give text back", async () => {
  const { refused } = await fuzzTokenizerFiles(900, 9, join(directory, "fuzz"))
  expect(refused).toBeGreaterThan(500)
})

describe("what cannot be read exactly is refused by its field", () => {
  const llama3 = fixture.files.find(({ name }) => name === "llama3")!.json
  type Json = { [key: string]: Json } & Json[]
  const edited = (edit: (file: Json) => void) => {
    const file = JSON.parse(llama3)
    edit(file)
    return refusal(() => parseTokenizer(JSON.stringify(file)))
  }
  const set = (target: Json, key: string, value: unknown) => Object.assign(target, { [key]: value })
  /** The token's id under another name. */
  const rename = (file: Json, from: string, to: string) => {
    file.model!.vocab = Object.fromEntries(
      Object.entries(file.model!.vocab!).map(([token, id]) => [token === from ? to : token, id]),
    ) as Json
  }
  const rows: [string, (file: Json) => void, string | RegExp][] = [
    [
      "another split pattern",
      (f) => set(f.pre_tokenizer!.pretokenizers![0]!.pattern!, "Regex", "\\w+"),
      'the split pattern "\\\\w+" is not one alpha implements | implemented: gpt2',
    ],
    ["a prefix space", (f) => set(f.pre_tokenizer!.pretokenizers![1]!, "add_prefix_space", true), "pre_tokenizer.add_prefix_space = true"],
    ["SentencePiece's space", (f) => set(f, "pre_tokenizer", { type: "Metaspace", replacement: "▁" }), "pre_tokenizer = "],
    ["no pre-tokenizer", (f) => set(f, "pre_tokenizer", null), "pre_tokenizer: an object was expected"],
    ["a normalizer that loses text", (f) => set(f, "normalizer", { type: "Lowercase" }), 'normalizer = {"type":"Lowercase"}'],
    ["byte fallback", (f) => set(f.model!, "byte_fallback", true), "model.byte_fallback = true"],
    ["dropout", (f) => set(f.model!, "dropout", 0.1), "model.dropout = 0.1"],
    ["a unigram model", (f) => set(f.model!, "type", "Unigram"), 'model.type = "Unigram"'],
    ["truncation", (f) => set(f, "truncation", { max_length: 3 }), "tokenizer.truncation"],
    ["a field nobody knows", (f) => set(f.model!, "turbo", true), "model.turbo = true"],
    ["a token that eats spaces", (f) => set(f.added_tokens![0]!, "lstrip", true), "added_tokens[0].lstrip = true"],
    ["a merge of unknown tokens", (f) => f.model!.merges!.push("qq zz" as never), 'merge 144 (qq zz): token "qq" is not in the vocabulary'],
    ["a merge that stands twice", (f) => f.model!.merges!.push(f.model!.merges![0]!), /merge 144 \(.*\) stands twice/],
    ["a hole in the ids", (f) => set(f.model!.vocab!, "Ġthe", 999_999), /ids have holes: there are \d+ tokens, but an id 999999/],
    ["two tokens with one id", (f) => set(f.model!.vocab!, "Ġthe", 5), /id 5 of ".+" is taken twice/],
    ["a byte without a token", (f) => rename(f, "A", "!!"), "byte 0x41 has no token"],
    ["a token outside the byte alphabet", (f) => rename(f, "A", "鯨"), "is not written in the byte-level alphabet"],
  ]
  test.each(rows)("%s", (_, edit, expected) => {
    expect(edited(edit)).toMatch(expected)
  })
  test("an edited file of ours", () => {
    const json = samples[1]![1].toJson()
    expect(refusal(() => parseTokenizer(json.replace('"a": ', '"Q": ')))).toContain("delete the sha256 field")
  })
  test("files that are something else, by path", () => {
    const write = (name: string, text: string) => {
      writeFileSync(join(directory, name), text)
      return join(directory, name)
    }
    expect(refusal(() => loadTokenizer(join(directory, "absent.json")))).toContain("absent.json: does not exist")
    expect(refusal(() => loadTokenizer(write("empty.json", "")))).toContain("empty.json: the file is empty")
    expect(refusal(() => loadTokenizer(write("cut.json", '{"version"')))).toContain("cut.json: not valid JSON")
    expect(refusal(() => loadTokenizer(write("list.json", "{}")))).toContain("list.json: model: an object was expected")
    expect(refusal(() => loadTokenizer(write("sp.model", "\n\u000b\n\u0005<unk>")))).toContain("SentencePiece")
    expect(refusal(() => loadTokenizer(write("unknown.tiktoken", "IQ== 0\nIg== 1\n")))).toContain("--splitPattern")
    mkdirSync(join(directory, "bare"))
    expect(refusal(() => loadTokenizer(join(directory, "bare")))).toContain("the directory has none of tokenizer.json")
  })
})

describe("tiktoken rank files of others", () => {
  const alphabet = Array.from({ length: 256 }, (_, byte) => `${Buffer.from([byte]).toString("base64")} ${byte}`)
  const path = join(directory, "own.tiktoken")
  const row = (text: string, rank: number) => `${Buffer.from(text).toString("base64")} ${rank}`
  const save = (rows: string[]) => writeFileSync(path, `${rows.join("\n")}\n`)

  test("the pattern and special tokens come from the caller", () => {
    // "whale" is reached by no merge of lower rank, only as a whole piece.
    save([...alphabet, row("th", 256), row("the", 257), row("whale", 258)])
    const tokenizer = loadTokenizer(path, { pattern: "llama3", special: ["<|end|>"] })
    expect([...tokenizer.encode("the")]).toEqual([257])
    expect([...tokenizer.encode("whale")]).toEqual([258])
    expect(tokenizer.encode("whales").length).toBe(6)
    expect([...tokenizer.encode("<|end|>", { special: true })]).toEqual([259])
    expect([...parseTokenizer(tokenizer.toJson()).encode("the whale")]).toEqual([...tokenizer.encode("the whale")])
  })
  test("a token below its own parts is still merged as tiktoken does", () => {
    // bc (257) comes after abc (256) in rank: tiktoken merges b c first, then a bc.
    save([...alphabet, row("abc", 256), row("bc", 257)])
    expect([...loadTokenizer(path, { pattern: "gpt2" }).encode("xabcabcx")]).toEqual([120, 256, 256, 120])
  })
  test("damage is refused by line", () => {
    const load = () => refusal(() => loadTokenizer(path, { pattern: "gpt2" }))
    save([...alphabet, row("th", 255)])
    expect(load()).toContain("own.tiktoken: line 257: rank 255 stands twice")
    save([...alphabet, row("th", 300)])
    expect(load()).toContain("no line has rank 256")
    save([...alphabet, "th 256"])
    expect(load()).toContain('line 257: "base64 rank" was expected, not "th 256"')
    save(alphabet.slice(0, 200))
    expect(load()).toContain("byte 0xc8 has no token")
  })
})

const gpt2 = shared("data/gpt2")
const testGpt2 = gpt2 ? test : (name: string, _: () => void) => test.skip(`${name} (no ../shared)`, () => {})

testGpt2("GPT-2's files load from either name, or from the directory; a missing one is named", () => {
  const place = join(directory, "gpt2-hf")
  mkdirSync(place)
  copyFileSync(join(gpt2!, "encoder.json"), join(place, "vocab.json"))
  expect(refusal(() => loadTokenizer(place))).toContain("merges.txt: does not exist")
  copyFileSync(join(gpt2!, "vocab.bpe"), join(place, "merges.txt"))
  const tokenizer = loadTokenizer(place)
  expect(tokenizerHash(tokenizer)).toBe(tokenizerHash(loadTokenizer(join(gpt2!, "vocab.bpe"))))
  expect([tokenizer.vocabSize, tokenizer.special.get("<|endoftext|>")]).toEqual([50257, 50256])
})
