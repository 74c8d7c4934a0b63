/** `alpha tokenizer build|encode|decode|info`. */

import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile, writeAtomic } from "./base-file.ts"
import { formatBytes, formatCount, Progress } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { runDirectory, type TokenizerBuildConfig, type TokenizerUseConfig } from "./config.ts"
import { openText } from "./data.ts"
import { modelDirectory } from "./gpt.ts"
import { gpt2Tokenizer, loadTokenizer, saveTokenizer, type Tokenizer, type TrainOptions, tokenizerHash, trainTokenizer } from "./token.ts"

type Build = Invocation<TokenizerBuildConfig>
type Use = Invocation<TokenizerUseConfig>

/** Learns or converts a tokenizer and writes its tokenizer.json. */
export async function build(invocation: Build): Promise<undefined> {
  const { config, print } = invocation
  const start = performance.now()
  const tokenizer = config.from === undefined ? await learn(invocation) : convert(invocation, config.from)
  saveTokenizer(tokenizer, config.out)
  const result = { ...summary(tokenizer), out: config.out, wall_s: (performance.now() - start) / 1e3 }
  print(result, () => `${config.out}: ${tokenizer.kind}, ${tokenizer.vocabSize} tokens`)
}

async function learn({ config, loaded, json }: Build): Promise<Tokenizer> {
  const { data, tokenizer: kind, vocabSize, unknown } = config
  if (kind === "gpt2") {
    if (data === undefined && vocabSize === undefined) return gpt2Tokenizer(config.specialTokens)
    const given = data === undefined ? loaded.naming("vocabSize", vocabSize) : loaded.naming("data", data)
    throw new AlphaError(`${given} contradicts ${loaded.naming("tokenizer", kind)}, which is not learned`, {
      hint: "--tokenizer=bpe learns one like it",
      code: EXIT.usage,
    })
  }
  if (data === undefined) {
    throw new AlphaError("tokenizer build: no text given", { hint: "alpha tokenizer build --data=book.txt", code: EXIT.usage })
  }
  const text = await openText(data, ".")
  if (text === undefined) throw new AlphaError(`data ${data}: token ids, a tokenizer is learned from text`, { code: EXIT.usage })
  const special = [...new Set([...text.specials, ...config.specialTokens])]
  const options: TrainOptions = {
    kind,
    special,
    ...(vocabSize === undefined ? {} : { vocabSize }),
    ...(unknown === undefined ? {} : { unknown }),
  }
  // Words have a pattern of their own unless one is asked for.
  if (kind === "bpe" || (kind === "word" && loaded.isGiven("splitPattern"))) options.pattern = config.splitPattern
  const bars = json ? undefined : new Bars(text.bytes)
  if (bars !== undefined) options.onProgress = ({ phase, done, total }) => bars.update(phase, done, total)
  const tokenizer = trainTokenizer(options, text.texts(special))
  bars?.finish()
  return tokenizer
}

/** One bar after the other: text read, tokens learned. */
class Bars {
  #phase: "read" | "learn" = "read"
  #bar: Progress

  constructor(private readonly bytes: number) {
    this.#bar = new Progress({ label: "count pieces", total: bytes, format: formatBytes })
  }

  update(phase: "read" | "learn", done: number, tokens: number | undefined): void {
    if (phase !== this.#phase) {
      this.#bar.update(this.bytes)
      this.#bar.finish()
      this.#bar = new Progress({ label: "learn tokens", total: tokens, format: formatCount })
      this.#phase = phase
    }
    this.#bar.update(done)
  }

  finish(): void {
    this.#bar.finish()
  }
}

function convert({ config, loaded }: Build, from: string): Tokenizer {
  if (config.data !== undefined) {
    throw new AlphaError(`${loaded.naming("from", from)} contradicts ${loaded.naming("data", config.data)}`, {
      hint: "a tokenizer is converted or learned from text, not both",
      code: EXIT.usage,
    })
  }
  return loadTokenizer(from, {
    ...(loaded.isGiven("splitPattern") ? { pattern: config.splitPattern } : {}),
    ...(loaded.isGiven("specialTokens") ? { special: config.specialTokens } : {}),
  })
}

/** The tokenizer that a path, a run's name or the word gpt2 means. */
function open({ config }: Use): Tokenizer {
  const path = config.tokenizer
  const run = runDirectory(config.runsDir, path).directory
  if (existsSync(path) && !existsSync(join(path, "checkpoints"))) return loadTokenizer(path)
  if (existsSync(path) || existsSync(run)) return loadTokenizer(modelDirectory(existsSync(path) ? path : run))
  if (path === "gpt2") return gpt2Tokenizer()
  throw new AlphaError(`tokenizer ${path}: there is no such file, directory or run`, {
    hint: "make one: alpha tokenizer build --data=book.txt",
    code: EXIT.data,
  })
}

/** What is to be encoded or decoded: the text given, a file, or standard input. */
function input({ config, loaded }: Use): Uint8Array {
  const { text, data } = config
  if (text !== undefined && data !== undefined) {
    throw new AlphaError(`${loaded.naming("text", text)} contradicts ${loaded.naming("data", data)}`, {
      hint: "give one of them",
      code: EXIT.usage,
    })
  }
  if (text !== undefined) return new TextEncoder().encode(text)
  const path = data === undefined || data === "-" ? "/dev/stdin" : data
  return withFile("read", data ?? "standard input", () => readFileSync(path === "/dev/stdin" ? 0 : path))
}

/** Text → ids, printed or written. */
export async function encode(invocation: Use): Promise<undefined> {
  const { config, print } = invocation
  const tokenizer = open(invocation)
  const text = input(invocation)
  const ids = tokenizer.encode(text, { special: config.allowSpecial })
  const result = { tokens: ids.length, bytes: text.length, bytes_per_token: ids.length === 0 ? null : text.length / ids.length }
  if (config.out === undefined) {
    print({ ids: [...ids], ...result }, () => ids.join(" "))
    return
  }
  writeAtomic(config.out, config.out.endsWith(".bin") ? shardBytes(ids, tokenizer.vocabSize) : `${ids.join(" ")}\n`)
  print({ ...result, out: config.out }, () => `${config.out}: ${ids.length} tokens of ${formatBytes(text.length)}`)
}

/** Ids → text. The bytes come out exactly as they are, also when they are not whole characters. */
export async function decode(invocation: Use): Promise<undefined> {
  const { config, json, print } = invocation
  const tokenizer = open(invocation)
  const bytes = input(invocation)
  const ids = config.text === undefined && config.data?.endsWith(".bin") ? shardIds(bytes, config.data) : writtenIds(bytes)
  const text = tokenizer.decodeBytes(ids)
  if (config.out !== undefined) {
    writeAtomic(config.out, text)
    print({ tokens: ids.length, bytes: text.length, out: config.out }, () => `${config.out}: ${formatBytes(text.length)} of text`)
  } else if (json) {
    print({ text: tokenizer.decode(ids), tokens: ids.length, bytes: text.length }, () => "")
  } else {
    process.stdout.write(text)
    if (process.stdout.isTTY && text.at(-1) !== 0x0a) process.stdout.write("\n")
  }
}

/** llm.c's header: 256 int32, of which magic, version and number of tokens are used (dev/data/data_common.py). */
const HEADER_WORDS = 256
const LLMC = { 2: [20240520, 1], 4: [20240801, 7] } as const

/** nanoGPT's .bin (bare uint16) where ids fit, else llm.c's with uint32 ids. */
function shardBytes(ids: Int32Array, vocabSize: number): Uint8Array {
  if (vocabSize <= 1 << 16) return new Uint8Array(Uint16Array.from(ids).buffer)
  const words = new Int32Array(HEADER_WORDS + ids.length)
  words.set([...LLMC[4], ids.length])
  words.set(ids, HEADER_WORDS)
  return new Uint8Array(words.buffer)
}

function shardIds(bytes: Uint8Array, path: string): ArrayLike<number> {
  const copy = Uint8Array.from(bytes).buffer
  const magic = bytes.length >= HEADER_WORDS * 4 ? new Int32Array(copy, 0, 1)[0] : undefined
  const width = magic === LLMC[4][0] ? 4 : 2
  const offset = magic === LLMC[width][0] ? HEADER_WORDS * 4 : 0
  if ((bytes.length - offset) % width !== 0) {
    throw new AlphaError(`${path}: ${bytes.length} bytes are not a whole number of uint${width * 8} ids`, { code: EXIT.data })
  }
  return width === 4 ? new Uint32Array(copy, offset) : new Uint16Array(copy, offset)
}

/** Ids as people and programs write them: "15496, 995" or [15496,995]. */
function writtenIds(bytes: Uint8Array): number[] {
  const words = new TextDecoder()
    .decode(bytes)
    .split(/[\s,[\]]+/)
    .filter((word) => word !== "")
  return words.map((word) => {
    if (/^\d{1,9}$/.test(word)) return Number(word)
    throw new AlphaError(`${JSON.stringify(word)} is not a token id`, {
      hint: "ids are numbers between spaces or commas: 15496 995",
      code: EXIT.usage,
    })
  })
}

/** What the tokenizer is, and on a text how well it does. */
export async function info(invocation: Use): Promise<undefined> {
  const { config, print } = invocation
  const tokenizer = open(invocation)
  const rows: Record<string, unknown> = summary(tokenizer)
  if (config.text !== undefined || config.data !== undefined) {
    const text = input(invocation)
    const ids = tokenizer.encode(text, { special: config.allowSpecial })
    rows.bytes_per_token = text.length / Math.max(ids.length, 1)
    rows.different_tokens = new Set(ids).size
  }
  print(rows, () =>
    Object.entries(rows)
      .map(([name, value]) => `${name.padEnd(17)} ${typeof value === "object" && value !== null ? JSON.stringify(value) : value}`)
      .join("\n"),
  )
}

function summary(tokenizer: Tokenizer) {
  let longest: Uint8Array = new Uint8Array(0)
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const bytes = tokenizer.tokenBytes(id)
    if (bytes.length > longest.length) longest = bytes
  }
  return {
    kind: tokenizer.kind,
    vocab_size: tokenizer.vocabSize,
    split_pattern: tokenizer.pattern ?? null,
    special: Object.fromEntries(tokenizer.special),
    longest_token: new TextDecoder().decode(longest),
    longest_bytes: longest.length,
    sha256: tokenizerHash(tokenizer),
  }
}
