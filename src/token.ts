/** Tokenizers by name: load, save, identity. */

import { existsSync, readFileSync, statSync } from "node:fs"
import { dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { readJson, readText, sha256, withFile, writeAtomic } from "./base-file.ts"
import { importJson } from "./token-import.ts"
import { importGpt2, importRanks, type RankOptions } from "./token-import-ranks.ts"
import type { Tokenizer } from "./token-interface.ts"

export { gpt2Tokenizer } from "./token-gpt2.ts"
export type { EncodeOptions, Tokenizer } from "./token-interface.ts"
export { type PatternName, patternNames, patternOf } from "./token-split.ts"
export { StreamDecoder } from "./token-text.ts"
export { type TrainOptions, trainTokenizer } from "./token-train.ts"

/** SHA-256 of the tokenizer's tokenizer.json: its identity in caches, checkpoints and run records. */
export function tokenizerHash(tokenizer: Tokenizer): string {
  return sha256(tokenizer.toJson())
}

/** Writes tokenizer.json to `path`, which may be a directory. */
export function saveTokenizer(tokenizer: Tokenizer, path: string): void {
  writeAtomic(isDirectory(path) ? join(path, "tokenizer.json") : path, tokenizer.toJson())
}

/** The tokenizer in the text of a tokenizer.json file. Throws AlphaError naming `source` and the field that is damaged or beyond us. */
export function parseTokenizer(json: string, source = "tokenizer.json"): Tokenizer {
  return inFile(source, () => importJson(json))
}

/**
 * Loads a tokenizer from a file, or from a directory that has one: tokenizer.json, GPT-2's encoder.json + vocab.bpe (or
 * vocab.json + merges.txt), or a tiktoken rank file (`options` say what such a file does not). Throws AlphaError naming the
 * file and what is wrong in it.
 */
export function loadTokenizer(path: string, options: RankOptions = {}): Tokenizer {
  const file = isDirectory(path) ? findIn(path) : path
  return inFile(file, () => loadFile(file, options))
}

/** Names `file` in whatever `work` refuses. */
function inFile<T>(file: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof AlphaError) || error.message.includes(file)) throw error
    throw new AlphaError(`tokenizer ${file}: ${error.message}`, { hint: error.hint, code: error.code, cause: error })
  }
}

const isDirectory = (path: string) => existsSync(path) && statSync(path).isDirectory()

/** Names under which directories keep tokenizers, in the order of preference. */
const FILE_NAMES = ["tokenizer.json", "encoder.json", "vocab.json", "tokenizer.model"]

function findIn(directory: string): string {
  const found = FILE_NAMES.map((name) => join(directory, name)).find(existsSync)
  if (found !== undefined) return found
  throw new AlphaError(`tokenizer ${directory}: the directory has none of ${FILE_NAMES.join(", ")}`, {
    hint: "give a model directory, or the file itself",
    code: EXIT.data,
  })
}

/** GPT-2's vocabulary and merges files under their two sets of names. */
const GPT2_FILES = [
  ["encoder.json", "vocab.bpe"],
  ["vocab.json", "merges.txt"],
] as const

function loadFile(path: string, options: RankOptions): Tokenizer {
  for (const [vocab, merges] of GPT2_FILES) {
    if (path !== vocab && !path.endsWith(`/${vocab}`) && path !== merges && !path.endsWith(`/${merges}`)) continue
    const directory = dirname(path)
    return importGpt2(readJson(join(directory, vocab)), readText(join(directory, merges)))
  }
  const bytes = withFile("read", path, () => readFileSync(path))
  if (bytes.length === 0) throw new AlphaError("the file is empty", { code: EXIT.data })
  const head = bytes.subarray(0, 64).toString("latin1")
  if (head.trimStart().startsWith("{")) return importJson(readText(path))
  if (/^[A-Za-z0-9+/]+={0,2} \d+\r?\n/.test(head)) return importRanks(readText(path), options)
  throw new AlphaError("neither a tokenizer.json nor a tiktoken rank file", {
    hint: "SentencePiece models (tokenizer.model of Llama 2) are not supported",
    code: EXIT.data,
  })
}
