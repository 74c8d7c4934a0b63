/** Reads Hugging Face tokenizer.json text: byte-level BPE of others, and every tokenizer of ours. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { AddedToken } from "./token-added.ts"
import { Bpe } from "./token-bpe.ts"
import type { Tokenizer } from "./token-interface.ts"
import { checkChecksum } from "./token-json.ts"
import { ANY_CHARACTER, Plain } from "./token-plain.ts"
import { type PatternName, patternNames, patternOf } from "./token-split.ts"

type Fields = Record<string, unknown>

const bad = (message: string, hint?: string) => new AlphaError(message, { code: EXIT.data, hint })

/** Refuses what would have to be approximated, naming the field. */
const unsupported = (field: string, value: unknown) => {
  const text = JSON.stringify(value) ?? "undefined"
  return bad(
    `${field} = ${text.length > 300 ? `${text.slice(0, 300)}…` : text} is not supported`,
    "alpha reads byte-level BPE tokenizers (GPT-2, tiktoken, Llama 3, Qwen families) and its own char and word tokenizers",
  )
}

function fieldsOf(value: unknown, field: string): Fields {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Fields
  throw bad(`${field}: an object was expected`)
}

/** The object's fields, all of which must be in `known`. */
function knownFields(value: unknown, field: string, known: readonly string[]): Fields {
  const fields = fieldsOf(value, field)
  for (const key of Object.keys(fields)) if (!known.includes(key)) throw unsupported(`${field}.${key}`, fields[key])
  return fields
}

/** Refuses a field that is there with another value than one of `allowed` (absent counts as the first). */
function only(fields: Fields, where: string, key: string, allowed: readonly unknown[]): void {
  const value = fields[key]
  if (value !== undefined && !allowed.includes(value)) throw unsupported(`${where}.${key}`, value)
}

const TOP = ["version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"]

/** The tokenizer in the text of a tokenizer.json file. Throws AlphaError naming the field where the file is damaged or beyond us. */
export function importJson(text: string): Tokenizer {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    throw new AlphaError(`not valid JSON (${(cause as Error).message})`, { code: EXIT.data, cause })
  }
  const top = knownFields(json, "tokenizer", TOP)
  only(top, "tokenizer", "version", ["1.0"])
  only(top, "tokenizer", "truncation", [null])
  only(top, "tokenizer", "padding", [null])
  const model = fieldsOf(top.model, "model")
  const checksum = model.sha256
  if (checksum !== undefined && !(typeof checksum === "string" && checkChecksum(text, checksum))) {
    throw bad("the content does not match model.sha256: the file is damaged or was edited", "if the edit is meant, delete the sha256 field")
  }
  const added = readAdded(top.added_tokens ?? [])
  if (model.type === "WordLevel") return readPlain(top, model, added)
  if (model.type === "BPE" || (model.type === undefined && model.merges !== undefined)) return readBpe(top, model, added)
  throw unsupported("model.type", model.type)
}

const ADDED = ["id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"]

function readAdded(value: unknown): AddedToken[] {
  if (!Array.isArray(value)) throw bad("added_tokens: a list was expected")
  const contents = new Set<string>()
  return value.map((row: unknown, index) => {
    const where = `added_tokens[${index}]`
    const { id, content, special, normalized, ...flags } = knownFields(row, where, ADDED)
    if (!isId(id)) throw bad(`${where}.id: a token id was expected, not ${JSON.stringify(id)}`)
    if (typeof content !== "string" || content === "" || !content.isWellFormed()) throw bad(`${where}.content: a text was expected`)
    if (contents.has(content)) throw bad(`${where}: ${JSON.stringify(content)} stands twice`)
    contents.add(content)
    for (const flag of ["single_word", "lstrip", "rstrip"]) only(flags, where, flag, [false])
    if (typeof special !== "boolean") throw bad(`${where}.special: true or false was expected`)
    if (normalized !== undefined && typeof normalized !== "boolean") throw bad(`${where}.normalized: true or false was expected`)
    return { id, content, special, normalized: normalized ?? !special }
  })
}

const isId = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0 && (value as number) < 1 << 24

/** Tokens by id from `model.vocab` and the added tokens: dense, unique. An id that an added token has is undefined in the result. */
function readVocab(value: unknown, added: readonly AddedToken[]): (string | undefined)[] {
  const entries = Object.entries(fieldsOf(value, "model.vocab"))
  const rows = new Map(added.map((row) => [row.id, row]))
  if (rows.size < added.length) throw bad("added_tokens: two have the same id")
  const contents = new Map(added.map((row) => [row.content, row.id]))
  const ids = new Set<number>(rows.keys())
  for (const [token, id] of entries) {
    if (!isId(id)) throw bad(`model.vocab: token ${JSON.stringify(token)} has id ${JSON.stringify(id)}`)
    const row = rows.get(id)
    if (row === undefined ? ids.has(id) : row.content !== token)
      throw bad(`model.vocab: id ${id} of ${JSON.stringify(token)} is taken twice`)
    if (row === undefined && contents.has(token)) {
      throw bad(`added token ${JSON.stringify(token)} has id ${contents.get(token)}, but ${id} in model.vocab`)
    }
    ids.add(id)
  }
  const vocab: (string | undefined)[] = new Array(ids.size).fill(undefined)
  for (const id of ids) if (id >= ids.size) throw bad(`the ids have holes: there are ${ids.size} tokens, but an id ${id}`)
  for (const [token, id] of entries as [string, number][]) if (!rows.has(id)) vocab[id] = token
  return vocab
}

const BPE = [
  ...["type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"],
  ...["ignore_merges", "vocab", "merges", "sha256"],
]

function readBpe(top: Fields, model: Fields, added: AddedToken[]): Tokenizer {
  knownFields(model, "model", BPE)
  only(model, "model", "dropout", [null, 0])
  only(model, "model", "continuing_subword_prefix", [null, ""])
  only(model, "model", "end_of_word_suffix", [null, ""])
  only(model, "model", "byte_fallback", [false])
  only(model, "model", "ignore_merges", [false, true])
  // unk_token and fuse_unk never matter: Bpe insists that every byte has a token.
  const nfc = readNormalizer(top.normalizer)
  const pattern = readPreTokenizer(top.pre_tokenizer)
  readDecoder(top.decoder)
  checkPostProcessor(top.post_processor)
  const merges = readMerges(model.merges)
  const vocab = readVocab(model.vocab, added)
  return new Bpe({
    vocab,
    merges,
    pattern,
    added,
    ignoreMerges: model.ignore_merges === true,
    nfc,
    postProcessor: top.post_processor ?? null,
  })
}

/** Merges as pairs: "left right" or ["left", "right"]. */
function readMerges(value: unknown): [string, string][] {
  if (!Array.isArray(value)) throw bad("model.merges: a list was expected")
  return value.map((merge: unknown, rank) => {
    const parts = typeof merge === "string" ? merge.split(" ") : merge
    if (Array.isArray(parts) && parts.length === 2 && parts.every((part) => typeof part === "string" && part !== ""))
      return parts as [string, string]
    throw bad(`model.merges[${rank}]: two tokens were expected, not ${JSON.stringify(merge)}`)
  })
}

/** Whether text is brought to normal form C. */
function readNormalizer(value: unknown): boolean {
  if (value === null || value === undefined) return false
  const { type, normalizers } = fieldsOf(value, "normalizer")
  if (type === "NFC") return true
  if (type === "Sequence" && Array.isArray(normalizers)) return normalizers.map(readNormalizer).includes(true)
  throw unsupported("normalizer", value)
}

/** The split pattern of a ByteLevel pre-tokenizer, alone or behind Split or Digits. */
function readPreTokenizer(value: unknown): PatternName {
  const { type, pretokenizers } = fieldsOf(value, "pre_tokenizer")
  const steps: unknown[] = type === "Sequence" && Array.isArray(pretokenizers) ? pretokenizers : [value]
  const last = fieldsOf(steps.at(-1), "pre_tokenizer")
  if (last.type !== "ByteLevel") throw unsupported("pre_tokenizer", value)
  only(last, "pre_tokenizer", "add_prefix_space", [false])
  const usesRegex = last.use_regex !== false
  if (steps.length === 1) return usesRegex ? "gpt2" : "none"
  const first = fieldsOf(steps[0], "pre_tokenizer")
  if (steps.length === 2 && first.type === "Digits" && first.individual_digits === true && usesRegex) return "gpt2-digits"
  if (steps.length === 2 && first.type === "Split" && !usesRegex) return readSplit(first)
  throw unsupported("pre_tokenizer", value)
}

function readSplit(split: Fields): PatternName {
  // Some files cut out the pieces themselves, inverted; as they cover the text, that gives the same pieces.
  const isWhole = (split.behavior === "Isolated" && split.invert === false) || (split.behavior === "Removed" && split.invert === true)
  if (!isWhole) throw unsupported("pre_tokenizer", split)
  const regex = fieldsOf(split.pattern, "pre_tokenizer.pattern").Regex
  const pattern = typeof regex === "string" ? patternOf(regex) : undefined
  if (pattern !== undefined) return pattern
  throw bad(
    `the split pattern ${JSON.stringify(regex ?? split.pattern)} is not one alpha implements`,
    `implemented: ${patternNames.filter((name) => name !== "none").join(", ")} (alpha tokenizer build --help)`,
  )
}

function readDecoder(value: unknown): void {
  const { type, decoders } = fieldsOf(value, "decoder")
  const steps: unknown[] = type === "Sequence" && Array.isArray(decoders) ? decoders : [value]
  if (steps.length !== 1 || fieldsOf(steps[0], "decoder").type !== "ByteLevel") throw unsupported("decoder", value)
}

/** Post-processors only add special tokens around a text, or change offsets; neither concerns plain encoding. */
function checkPostProcessor(value: unknown): void {
  if (value === null || value === undefined) return
  const { type, processors } = fieldsOf(value, "post_processor")
  if (type === "Sequence" && Array.isArray(processors)) processors.forEach(checkPostProcessor)
  else if (type !== "ByteLevel" && type !== "TemplateProcessing") throw unsupported("post_processor", value)
}

function readPlain(top: Fields, model: Fields, added: AddedToken[]): Tokenizer {
  knownFields(model, "model", ["type", "unk_token", "vocab", "sha256"])
  for (const field of ["normalizer", "post_processor"]) only(top, "tokenizer", field, [null])
  if (fieldsOf(top.decoder, "decoder").type !== "Fuse") throw unsupported("decoder", top.decoder)
  const split = fieldsOf(top.pre_tokenizer, "pre_tokenizer")
  if (split.type !== "Split") throw unsupported("pre_tokenizer", split)
  const isChar = fieldsOf(split.pattern, "pre_tokenizer.pattern").Regex === ANY_CHARACTER
  const pattern = isChar ? undefined : readSplit(split)
  const unknown = model.unk_token
  if (typeof unknown !== "string") throw bad("model.unk_token: a text was expected")
  const vocab = readVocab(model.vocab, added)
  const isKnown = added.some((row) => row.content === unknown) || vocab.includes(unknown)
  return new Plain({ vocab, pattern, added, unknown: isKnown ? unknown : undefined })
}
