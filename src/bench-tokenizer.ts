/** Speed of the tokenizers on a text: GPT-2's, and those that are learned from it. */
import { uniform } from "./base-random.ts"
import type { Measurement } from "./bench-measure.ts"
import { collect, type Sampling } from "./bench-sample.ts"
import { gpt2Tokenizer, trainTokenizer } from "./token.ts"

/** Text for a machine without one: made-up words by Zipf's law, in lines; the same everywhere. */
export function inventedText(bytes: number): string {
  const letters = "etaoinshrdlucmfwypvbgkjqxz"
  const words = Array.from({ length: 4096 }, (_, i) =>
    Array.from(
      { length: 2 + Math.floor(9 * uniform(1, 21, i, 0) ** 2) },
      (_, j) => letters[Math.floor(26 * uniform(1, 21, i, j + 1) ** 2)],
    ).join(""),
  )
  let text = ""
  for (let i = 0; text.length < bytes; i++) {
    const word = words[Math.floor(words.length ** uniform(1, 22, 0, i)) - 1]!
    text += i % 13 === 12 ? `${word}.\n` : `${word} `
  }
  return text.slice(0, bytes)
}

export function benchTokenizer(text: string, source: string, sampling: Sampling): Measurement[] {
  const bytes = new TextEncoder().encode(text)
  const gpt2 = gpt2Tokenizer()
  const ids = gpt2.encode(bytes)
  const char = trainTokenizer({ kind: "char" }, [text])
  const word = trainTokenizer({ kind: "word" }, [text])
  const works: Record<string, () => unknown> = {
    "gpt2 encode": () => gpt2.encode(bytes),
    "gpt2 decode": () => gpt2.decode(ids),
    "learn 2,048 bpe": () => trainTokenizer({ kind: "bpe", vocabSize: 2048 }, [bytes]),
    "char encode": () => char.encode(bytes),
    "word encode": () => word.encode(bytes),
  }
  return Object.entries(works).map(([name, work]): Measurement => {
    const once = () => {
      const from = sampling.now()
      work()
      return (bytes.length / 1000) * (1 / (sampling.now() - from))
    }
    return {
      bench: "tokenizer",
      name: `${name}, ${source === "invented" ? "invented text" : source}`,
      device: "",
      unit: "MB/s",
      better: "more",
      samples: collect(once, sampling),
      facts: { text: source, bytes: bytes.length, tokens: ids.length },
      command: `alpha bench tokenizer${source === "invented" ? "" : ` --data=${source}`}`,
    }
  })
}
