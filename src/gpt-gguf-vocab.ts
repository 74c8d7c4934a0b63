/** tokenizer.json → the vocabulary keys of a GGUF file. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { TokenIds } from "./gpt-family.ts"
import type { GgufValue } from "./gpt-gguf-file.ts"
import { type PatternName, patternOf } from "./token.ts"

/** llama.cpp's token types. */
const NORMAL = 1
const CONTROL = 3
const USER_DEFINED = 4
const UNUSED = 5

/**
 * llama.cpp's name for each split pattern (src/llama-vocab.cpp). gpt4 is cl100k: "dbrx" differs from it only in a text that ends with a
 * newline followed by spaces, where tiktoken takes all of it as one piece.
 */
const PRE_TOKENIZER: Partial<Record<PatternName, string>> = {
  gpt2: "gpt-2",
  "gpt2-digits": "smollm",
  gpt4: "dbrx",
  llama3: "smaug-bpe",
  qwen2: "qwen2",
  gpt4o: "gpt-4o",
}

interface TokenizerFile {
  added_tokens?: { id: number; content: string; special: boolean }[]
  normalizer?: unknown
  pre_tokenizer?: Step | null
  post_processor?: Step | null
  model?: { type?: string; vocab?: Record<string, number>; merges?: (string | [string, string])[] }
}

interface Step {
  type?: string
  pretokenizers?: Step[]
  processors?: Step[]
  add_prefix_space?: boolean
  use_regex?: boolean
  individual_digits?: boolean
  pattern?: { Regex?: string }
  single?: Record<string, { id?: string }>[]
  special_tokens?: Record<string, { ids?: number[] }>
}

/**
 * The tokenizer.ggml.* keys for a byte-level BPE. `vocabSize` rows are listed; rows beyond the tokenizer are marked unused.
 * Throws AlphaError naming `source` and what llama.cpp has no counterpart for.
 */
export function ggufVocabulary(
  json: string,
  vocabSize: number,
  ids: TokenIds,
  chatTemplate: string | undefined,
  source: string,
): Record<string, GgufValue> {
  const fail = (what: string, hint?: string): never => {
    throw new AlphaError(`${source}: ${what}`, { hint, code: EXIT.data })
  }
  const file = JSON.parse(json) as TokenizerFile
  const { type, vocab = {}, merges = [] } = file.model ?? {}
  if (type !== "BPE")
    return fail(`a tokenizer of type ${type}: GGUF export needs a byte-level BPE`, "train with --tokenizer=bpe, or export --format=hf")
  if ((file.normalizer ?? null) !== null) return fail("it has a normalizer, which llama.cpp does not apply")
  const pattern = patternName(file.pre_tokenizer ?? undefined)
  const pre = pattern === undefined ? undefined : PRE_TOKENIZER[pattern]
  if (pre === undefined) return fail(`llama.cpp has no split pattern ${pattern ?? JSON.stringify(file.pre_tokenizer)}`)

  const tokens: string[] = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`)
  const types: number[] = Array.from({ length: vocabSize }, () => UNUSED)
  const put = (text: string, id: number, kind: number) => {
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize)
      return fail(`token ${JSON.stringify(text)} has id ${id}, the model has ${vocabSize} rows`)
    tokens[id] = text
    types[id] = kind
    return undefined
  }
  for (const [text, id] of Object.entries(vocab)) put(text, id, NORMAL)
  for (const { id, content, special } of file.added_tokens ?? []) put(content, id, special ? CONTROL : USER_DEFINED)

  const [eos, second, ...more] = ids.eos === undefined ? [] : [ids.eos].flat()
  if (eos === undefined || eos >= vocabSize)
    return fail("no end-of-text token: llama.cpp would end every text at token 11", "train with a tokenizer that has one")
  if (more.length > 0) return fail(`${more.length + 2} end tokens: GGUF has places for two`)
  const prefix = textStart(file.post_processor ?? undefined)
  if (prefix === "other" || (typeof prefix === "number" && prefix !== ids.bos))
    return fail("its post_processor adds other tokens than the model's first one, which llama.cpp does not do")
  return {
    "tokenizer.ggml.model": { text: "gpt2" },
    "tokenizer.ggml.pre": { text: pre },
    "tokenizer.ggml.tokens": { texts: tokens },
    "tokenizer.ggml.token_type": { i32s: types },
    "tokenizer.ggml.merges": { texts: merges.map((merge) => (typeof merge === "string" ? merge : merge.join(" "))) },
    // Without this key llama.cpp takes token 11.
    "tokenizer.ggml.bos_token_id": { u32: ids.bos ?? eos },
    "tokenizer.ggml.eos_token_id": { u32: eos },
    ...(second === undefined ? {} : { "tokenizer.ggml.eot_token_id": { u32: second } }),
    ...(ids.pad === undefined ? {} : { "tokenizer.ggml.padding_token_id": { u32: ids.pad } }),
    "tokenizer.ggml.add_bos_token": { bool: typeof prefix === "number" },
    ...(chatTemplate === undefined ? {} : { "tokenizer.chat_template": { text: chatTemplate } }),
  }
}

/** Which of our split patterns a pre_tokenizer is; undefined when none. */
function patternName(step: Step | undefined): PatternName | undefined {
  const isBytes = (s: Step | undefined, useRegex: boolean) =>
    s?.type === "ByteLevel" && s.add_prefix_space !== true && (s.use_regex ?? true) === useRegex
  if (isBytes(step, true)) return "gpt2"
  const [first, second, ...more] = step?.type === "Sequence" ? (step.pretokenizers ?? []) : []
  if (first === undefined || more.length > 0) return undefined
  if (first.type === "Digits" && first.individual_digits === true && isBytes(second, true)) return "gpt2-digits"
  const regex = first.type === "Split" && isBytes(second, false) ? first.pattern?.Regex : undefined
  return regex === undefined ? undefined : patternOf(regex)
}

/** The token a post_processor puts before every text; undefined when it adds none; "other" when it does something else. */
function textStart(step: Step | undefined): number | undefined | "other" {
  if (step === undefined || step.type === "ByteLevel") return undefined
  if (step.type === "Sequence") {
    const found = (step.processors ?? []).map(textStart).filter((start) => start !== undefined)
    return found.length > 1 ? "other" : found[0]
  }
  const single = step.type === "TemplateProcessing" ? (step.single ?? []) : undefined
  if (single === undefined) return "other"
  if (single.length === 1 && single[0]!.Sequence !== undefined) return undefined
  const name = single.length === 2 && single[1]!.Sequence !== undefined ? single[0]!.SpecialToken?.id : undefined
  return (name === undefined ? undefined : step.special_tokens?.[name]?.ids?.[0]) ?? "other"
}
