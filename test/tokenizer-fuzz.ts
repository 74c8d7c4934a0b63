/** Every tokenizer on random bytes, and damaged tokenizer files; for the tests and the soak. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError } from "../src/base-error.ts"
import { gpt2Tokenizer, loadTokenizer, parseTokenizer, patternNames, StreamDecoder, type Tokenizer, trainTokenizer } from "../src/token.ts"
import { damage, type FuzzCounts, refusalOf } from "./file-fuzz.ts"
import fixture from "./fixtures/token-hf.json"
import { randomBytes, randomSource, randomText } from "./token-fuzz.ts"

/** A byte-level tokenizer of each split pattern, and GPT-2's own. */
export function byteTokenizers(): [string, Tokenizer][] {
  const texts = Array.from({ length: 200 }, (_, i) => randomText(randomSource(i)))
  const own = patternNames.map((pattern): [string, Tokenizer] => [pattern, trainTokenizer({ kind: "bpe", vocabSize: 400, pattern }, texts)])
  return [...own, ["GPT-2", gpt2Tokenizer()]]
}

/** `count` random byte strings come back exactly; every tenth also streamed token by token. */
export function fuzzBytes(name: string, tokenizer: Tokenizer, count: number, seed: number): void {
  const random = randomSource(seed)
  for (let i = 0; i < count; i++) {
    const bytes = randomBytes(random)
    const ids = tokenizer.encode(bytes)
    const fail = (why: string) => new Error(`${name}, string ${i} (seed ${seed}): bytes ${bytes} became ${why}`)
    if (Buffer.compare(tokenizer.decodeBytes(ids), bytes) !== 0) throw fail(`ids ${ids}, and these ${tokenizer.decodeBytes(ids)}`)
    if (i % 10 > 0) continue
    const stream = new StreamDecoder(tokenizer)
    const text = [...ids].map((id) => stream.push(id)).join("") + stream.finish()
    if (text !== tokenizer.decode(ids)) throw fail(`another text when streamed: ${JSON.stringify(text)}`)
  }
}

/** A char or word tokenizer gives `count` random byte strings back, or refuses them naming the place; its saved copy does the same. */
export function fuzzText(kind: "char" | "word", count: number, seed: number): FuzzCounts {
  const random = randomSource(seed)
  const texts = Array.from({ length: 20_000 }, () => randomText(random))
  const tokenizer = trainTokenizer({ kind }, texts)
  const copy = parseTokenizer(tokenizer.toJson())
  let refused = 0
  for (let i = 0; i < count; i++) {
    // Half of them from the text it was built from, whose words it knows.
    const bytes = i % 2 === 0 ? randomBytes(random) : Buffer.from(texts[random(texts.length)]! + texts[random(texts.length)]!)
    try {
      const ids = tokenizer.encode(bytes)
      const isBack = Buffer.compare(tokenizer.decodeBytes(ids), bytes) === 0
      if (!isBack || copy.encode(bytes).join() !== ids.join())
        throw new Error(`${kind}, string ${i} (seed ${seed}): bytes ${bytes}, ids ${ids}`)
    } catch (error) {
      if (!(error instanceof AlphaError) || !/at byte offset \d+/.test(error.message)) throw error
      refused++
    }
  }
  return { refused, read: count - refused }
}

interface TokenizerFile {
  /** The file that is damaged, and the one that is loaded. */
  readonly path: string
  readonly load: () => Tokenizer
  /** Carries a checksum, so that every change is found. */
  readonly sealed: boolean
}

/** Every kind of tokenizer file: ours, tokenizer.json of others, GPT-2's pair, tiktoken ranks. */
function writeFiles(folder: string): TokenizerFile[] {
  mkdirSync(folder, { recursive: true })
  const file = (name: string, text: string, sealed: boolean, load?: () => Tokenizer): TokenizerFile => {
    const path = join(folder, name)
    writeFileSync(path, text)
    return { path, sealed, load: load ?? (() => loadTokenizer(path)) }
  }
  const own = [
    trainTokenizer({ kind: "bpe", vocabSize: 300, special: ["<|end|>"] }, [fixture.corpus]),
    trainTokenizer({ kind: "char", special: ["<|end|>"] }, [fixture.corpus]),
    trainTokenizer({ kind: "word", vocabSize: 50, unknown: "<unk>" }, [fixture.corpus]),
  ].map((tokenizer) => file(`own-${tokenizer.kind}.json`, tokenizer.toJson(), true))
  const byteLevel = fixture.files.filter(({ name }) => ["gpt2", "llama3", "qwen2"].includes(name))
  const others = byteLevel.map(({ name, json }) => file(`${name}.json`, json, false))
  const { vocab, merges } = (JSON.parse(byteLevel[0]!.json) as { model: { vocab: object; merges: string[][] } }).model
  const pair = () => loadTokenizer(join(folder, "encoder.json"))
  const encoder = file("encoder.json", JSON.stringify(vocab), false, pair)
  const lines = file("vocab.bpe", `#version: 0.2\n${merges.map((merge) => merge.join(" ")).join("\n")}\n`, false, pair)
  const alphabet = Array.from({ length: 256 }, (_, byte) => Buffer.from([byte]))
  const ranks = [...alphabet, ...["th", "the", "in", "ing", "er", "ster", "whale"].map((text) => Buffer.from(text))]
  const text = ranks.map((bytes, rank) => `${bytes.toString("base64")} ${rank}\n`).join("")
  const tiktoken = file("own.tiktoken", text, false, () => loadTokenizer(join(folder, "own.tiktoken"), { pattern: "gpt4" }))
  return [...own, ...others, encoder, lines, tiktoken]
}

/**
 * Damaged tokenizer files. One of ours carries a checksum: it is refused or still the same tokenizer. The others have none, and damage may
 * leave the valid file of another tokenizer: then that one must give random bytes back exactly, also from its own copy, with the same ids.
 */
export async function fuzzTokenizerFiles(count: number, seed: number, folder: string): Promise<FuzzCounts> {
  const random = randomSource(seed)
  const files = writeFiles(folder).map((file) => ({ ...file, whole: readFileSync(file.path), right: file.load().toJson() }))
  let refused = 0
  for (let i = 0; i < count; i++) {
    const { path, load, sealed, whole, right } = files[i % files.length]!
    const bytes = damage(whole, random)
    writeFileSync(path, bytes)
    const fail = (why: string) => new Error(`damage ${i} (seed ${seed}) of ${path}, ${bytes.length} of ${whole.length} bytes: ${why}`)
    const error = await refusalOf(() => {
      const tokenizer = load()
      const json = tokenizer.toJson()
      if (sealed && json !== right) throw fail("read as another tokenizer")
      if (sealed) return
      // Qwen's normalises text (NFC) and so refuses what is no text.
      const isText = path.endsWith("qwen2.json")
      if (!isText) fuzzBytes(`damage ${i} (seed ${seed}) of ${path}`, tokenizer, 5, i)
      const copy = parseTokenizer(json)
      for (const any of [fixture.corpus, randomText(random)]) {
        const text = isText ? any.normalize("NFC") : any
        const ids = tokenizer.encode(text)
        if (tokenizer.decode(ids) !== text || copy.encode(text).join() !== ids.join()) throw fail("its text does not come back")
      }
    })
    if (error !== undefined) {
      refused++
      if (bytes.equals(whole)) throw fail(`refused whole: ${error.message}`)
      if (!error.message.includes(folder)) throw fail(`the error names no file: ${error.message}`)
    }
    writeFileSync(path, whole)
  }
  return { refused, read: count - refused }
}
