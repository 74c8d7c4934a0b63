/** Data: text, rows, shards, standard input or random numbers → token datasets to train and evaluate on. */

import { AlphaError, EXIT } from "./base-error.ts"
import { requireWindow } from "./data-batch.ts"
import { endOfTextName } from "./data-encode.ts"
import { randomTokens } from "./data-random.ts"
import { scanAll } from "./data-scan.ts"
import { findSources } from "./data-source.ts"
import { splitPieces, wholePieces } from "./data-split.ts"
import type { DataOptions, Dataset, Source } from "./data-types.ts"
import { shardDataset, splitShards, textDataset, wholeShards } from "./data-view.ts"
import type { Tokenizer } from "./token.ts"

export { type BatchSpec, type EvalWindows, evalWindows, fillBatch, NO_TARGET, requireWindow } from "./data-batch.ts"
export { type ChatMessage, chatRoles, chatSpecials, chatTemplate, type EncodedChat, encodeChat } from "./data-chat.ts"
export { endOfTextName } from "./data-encode.ts"
export { parseRow, type Row } from "./data-row.ts"
export { openText, type TextStream } from "./data-text.ts"
export type { DataOptions, DataProgress, Dataset } from "./data-types.ts"

/** What `openData` gives. */
export interface OpenedData {
  train: Dataset
  /** Undefined when nothing is held out (valFraction 0, no valData). */
  val: Dataset | undefined
  /** What to pass as `data` to read the same again: differs from it for standard input only. */
  source: string
  /** The same of `valData`. */
  valSource: string | undefined
}

/**
 * Opens, checks, splits and (for text) tokenises data. Text needs a tokenizer; tokenised text is cached by the hashes of text,
 * tokenizer and options. Without valData the last valFraction of the characters (shards: tokens) is held out; shards with names like
 * val.bin or x_val_000.bin are held out instead.
 * Throws AlphaError naming file, offset and what was expected.
 */
export async function openData(options: DataOptions): Promise<OpenedData> {
  const { data, valData, valFraction, context } = options
  if (!(valFraction >= 0 && valFraction < 1)) {
    throw new AlphaError(`valFraction ${valFraction}: expected 0 ≤ valFraction < 1`, { code: EXIT.usage })
  }
  const { train, val, source } = data === "random" ? openRandom(options) : await openFiles(options)
  if (context !== undefined) requireWindow(train, context)
  const own = valData === undefined ? undefined : await openAll(valData, `held-out data ${nameOf(valData)}`, options)
  const held = own === undefined ? val : own.all
  if (held && held.tokens < 2) throw new AlphaError(`data ${held.name}: ${held.tokens} tokens, expected at least 2`, { code: EXIT.data })
  return { train, val: held, source, valSource: own?.source }
}

function openRandom({ vocabSize, seed }: DataOptions): Omit<OpenedData, "valSource"> {
  if (vocabSize === undefined) {
    throw new AlphaError("data random: the number of different tokens is not known", { hint: "add --vocabSize=N", code: EXIT.usage })
  }
  return { train: randomTokens("train", vocabSize, seed), val: randomTokens("val", vocabSize, seed), source: "random" }
}

/** The files of `data`; held-out data of its own leaves all of them to train on. */
async function openFiles(options: DataOptions): Promise<Omit<OpenedData, "valSource">> {
  const { data, valData, valFraction } = options
  const sources = await findSources(data, options.cacheDir, options.onProgress)
  const parts = await split(data, sources, valData === undefined ? valFraction : 0, options)
  const train = await parts.train(parts.val ? `train split of ${nameOf(data)}` : nameOf(data))
  const val = valData === undefined ? await parts.val?.(`held-out split of ${nameOf(data)}`) : undefined
  return { train, val, source: sourceOf(data, sources) }
}

/** All of `data`, nothing held out, whatever its files are called; of random data the held-out split. What is evaluated on. */
export async function openWhole(options: DataOptions): Promise<Dataset> {
  const { data } = options
  const whole = data === "random" ? (openRandom(options).val as Dataset) : (await openAll(data, nameOf(data), options)).all
  if (whole.tokens < 2) throw new AlphaError(`data ${whole.name}: ${whole.tokens} tokens, expected at least 2`, { code: EXIT.data })
  return whole
}

/** All of the files of `data`. */
async function openAll(data: string, name: string, options: DataOptions): Promise<{ all: Dataset; source: string }> {
  const sources = await findSources(data, options.cacheDir, options.onProgress)
  const { train } = await split(data, sources, undefined, options)
  return { all: await train(name), source: sourceOf(data, sources) }
}

/** Standard input is found again in its copy. */
function sourceOf(data: string, sources: readonly Source[]): string {
  return data === "-" ? sources[0]!.path : data
}

type Open = (name: string) => Promise<Dataset>

/** Divides files; a fraction of undefined leaves everything in the first part, also what is named as held out. */
async function split(
  data: string,
  sources: readonly Source[],
  fraction: number | undefined,
  options: DataOptions,
): Promise<{ train: Open; val: Open | undefined }> {
  if (sources[0]!.kind === "shard") {
    if (options.maskPrompt) throw noMask(nameOf(data))
    const { train, val } = fraction === undefined ? wholeShards(sources) : splitShards(sources, fraction)
    const open = (ranges: typeof train) => (name: string) => shardDataset(name, ranges, options)
    return { train: open(train), val: val.length > 0 ? open(val) : undefined }
  }
  const tokenizer = requireTokenizer(data, options)
  if (options.maskPrompt && sources.every(({ kind }) => kind === "text")) throw noMask(nameOf(data))
  const files = await scanAll(sources, options.onProgress)
  const marker = options.documentBoundaries ? endOfTextName(tokenizer) : undefined
  const { train, val } = fraction ? await splitPieces(files, fraction, marker) : { train: wholePieces(files), val: [] }
  const open = (pieces: typeof train) => (name: string) => textDataset(name, pieces, tokenizer, options)
  return { train: open(train), val: val.length > 0 ? open(val) : undefined }
}

function nameOf(data: string): string {
  return data === "-" ? "standard input" : data
}

function noMask(name: string): AlphaError {
  return new AlphaError(`data ${name}: maskPrompt takes the loss on assistant messages only, but this is not chat data`, {
    hint: "give .jsonl rows with messages, or leave --maskPrompt off",
    code: EXIT.usage,
  })
}

function requireTokenizer(data: string, { tokenizer, vocabSize }: DataOptions): Tokenizer {
  if (!tokenizer) throw new AlphaError(`data ${data}: text needs a tokenizer`, { hint: "add --tokenizer=bpe", code: EXIT.usage })
  if (vocabSize !== undefined && vocabSize < tokenizer.vocabSize) {
    throw new AlphaError(`vocabSize ${vocabSize} is below the ${tokenizer.vocabSize} tokens of the tokenizer`, {
      hint: `use --vocabSize=${tokenizer.vocabSize} or leave it out`,
      code: EXIT.usage,
    })
  }
  return tokenizer
}
