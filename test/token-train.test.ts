import { describe, expect, test } from "bun:test"
import { AlphaError } from "../src/base-error.ts"
import { type TrainOptions, trainTokenizer } from "../src/token.ts"
import { toByteLevel } from "../src/token-bytes.ts"
import { PATTERNS, type Pattern } from "../src/token-split.ts"
import fixture from "./fixtures/token-hf.json"
import { randomSource } from "./token-fuzz.ts"

const mergesOf = (options: Partial<TrainOptions>, texts: string[]): string[] =>
  JSON.parse(trainTokenizer({ kind: "bpe", ...options }, texts).toJson()).model.merges

describe("merges equal Hugging Face's BpeTrainer", () => {
  test.each(fixture.learned)("split pattern $pattern", ({ pattern, vocabSize, merges }) => {
    expect(mergesOf({ vocabSize, pattern: pattern as "gpt2" }, [fixture.corpus])).toEqual(merges)
  })
})

/** The definition: recount all pairs, merge the most frequent (then the smallest ids) everywhere from the left, repeat. */
function learnByDefinition(texts: string[], vocabSize: number, minCount: number): string[] {
  const split = (PATTERNS.gpt2 as Pattern).split
  let words: string[][] = []
  for (const text of texts) {
    const bytes = new TextEncoder().encode(text)
    for (let at = 0; at < bytes.length; ) {
      const end = split(bytes, at, bytes.length)
      words.push([...toByteLevel(bytes, at, end)])
      at = end
    }
  }
  const tokens = Array.from({ length: 256 }, (_, byte) => toByteLevel([byte])).sort()
  const merges: string[] = []
  while (tokens.length < vocabSize) {
    const counts = new Map<string, number>()
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) counts.set(`${word[i]} ${word[i + 1]}`, (counts.get(`${word[i]} ${word[i + 1]}`) ?? 0) + 1)
    }
    const rank = (pair: string) => pair.split(" ").map((token) => tokens.indexOf(token)) as [number, number]
    const [best] = [...counts].sort(([a, m], [b, n]) => n - m || rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1])
    if (best === undefined || best[1] < minCount) break
    const [left, right] = best[0].split(" ") as [string, string]
    merges.push(best[0])
    if (!tokens.includes(left + right)) tokens.push(left + right)
    words = words.map((word) => {
      const out: string[] = []
      for (let i = 0; i < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) out.push(left + word[++i]!)
        else out.push(word[i]!)
      }
      return out
    })
  }
  return merges
}

test("merges equal the definition on 60 random texts of few letters", () => {
  const random = randomSource(7)
  for (let round = 0; round < 60; round++) {
    const letters = "ab c".slice(0, 2 + random(3))
    const texts = Array.from({ length: 3 }, () => Array.from({ length: 60 }, () => letters[random(letters.length)]).join(""))
    const expected = learnByDefinition(texts, 256 + 12, 2)
    // Ties between different counts of overlapping pairs (a a a) are where incremental counts would go wrong.
    expect(mergesOf({ vocabSize: 256 + tokensMade(expected) }, texts).slice(0, expected.length)).toEqual(expected)
  }
})

const tokensMade = (merges: string[]) => new Set(merges.map((merge) => merge.replace(" ", ""))).size

describe("refusals name the value and the next step", () => {
  const refusal = (options: TrainOptions, texts: string[]) => {
    try {
      trainTokenizer(options, texts)
    } catch (error) {
      if (error instanceof AlphaError) return `${error.message} | ${error.hint}`
    }
    return "no error"
  }
  test("a vocabulary that the text cannot fill", () => {
    expect(refusal({ kind: "bpe", vocabSize: 300, special: ["<|x|>"] }, ["abab abab"])).toMatch(
      /vocabSize 300: .* of 259 tokens.* \| pass --vocabSize=259 or less/,
    )
    expect(trainTokenizer({ kind: "bpe", special: ["<|x|>"] }, ["abab abab"]).vocabSize).toBe(259) // nobody asked for more
  })
  test("a vocabulary below the bytes", () => {
    expect(refusal({ kind: "bpe", vocabSize: 100 }, ["abc"])).toContain("vocabSize 100: a bpe tokenizer has at least 256 tokens")
  })
  test("no text", () => {
    expect(refusal({ kind: "bpe", vocabSize: 300 }, [])).toContain("empty")
    expect(refusal({ kind: "char" }, [""])).toContain("empty")
  })
  test("an unknown token for bpe", () => {
    expect(refusal({ kind: "bpe", vocabSize: 300, unknown: "<unk>" }, ["abc"])).toContain("needs no unknown token")
  })
})

test("the same text gives the same bytes, however it is cut into strings or bytes at word borders", () => {
  const words = fixture.corpus.split(/(?= )/)
  const whole = trainTokenizer({ kind: "bpe", vocabSize: 500 }, [fixture.corpus]).toJson()
  expect(trainTokenizer({ kind: "bpe", vocabSize: 500 }, [new TextEncoder().encode(fixture.corpus)]).toJson()).toBe(whole)
  expect(words.length).toBeGreaterThan(1000)
  expect(trainTokenizer({ kind: "bpe", vocabSize: 500 }, words).toJson()).toBe(whole)
})

test("progress is reported for reading and learning", () => {
  const seen: string[] = []
  const text = fixture.corpus.repeat(300)
  trainTokenizer({ kind: "bpe", vocabSize: 600, onProgress: ({ phase, done }) => seen.push(`${phase} ${done}`) }, [text])
  expect(seen.filter((line) => line.startsWith("read")).length).toBe(1)
  expect(seen.at(-1)).toBe("learn 512")
})
