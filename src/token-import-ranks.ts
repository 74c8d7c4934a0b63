/** Imports GPT-2's encoder.json + vocab.bpe, and tiktoken rank files. */

import { AlphaError, EXIT } from "./base-error.ts"
import { sha256 } from "./base-file.ts"
import type { AddedToken } from "./token-added.ts"
import { Bpe } from "./token-bpe.ts"
import { toByteLevel } from "./token-bytes.ts"
import type { PatternName } from "./token-split.ts"

const bad = (message: string, hint?: string) => new AlphaError(message, { code: EXIT.data, hint })

const specialToken = (id: number, content: string): AddedToken => ({ id, content, special: true, normalized: false })

/** GPT-2's two files: `encoder` maps tokens to ids, `merges` has "left right" a line. Tokens like <|endoftext|> become special. */
export function importGpt2(encoder: unknown, merges: string): Bpe {
  if (typeof encoder !== "object" || encoder === null || Array.isArray(encoder))
    throw bad("encoder.json: an object of token → id was expected")
  const entries = Object.entries(encoder) as [string, unknown][]
  const vocab: (string | undefined)[] = new Array(entries.length).fill(undefined)
  const added: AddedToken[] = []
  const taken = new Set<number>()
  for (const [token, id] of entries) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= entries.length || taken.has(id as number)) {
      throw bad(
        `encoder.json: id ${JSON.stringify(id)} of token ${JSON.stringify(token)}; ids must be 0 … ${entries.length - 1}, each once`,
      )
    }
    taken.add(id as number)
    if (/^<\|.+\|>$/.test(token)) added.push(specialToken(id as number, token))
    else vocab[id as number] = token
  }
  const lines = merges.split("\n").filter((line) => line !== "" && !line.startsWith("#version"))
  const pairs = lines.map((line, index): [string, string] => {
    const [left, right, ...rest] = line.replace(/\r$/, "").split(" ")
    if (!left || !right || rest.length > 0) throw bad(`vocab.bpe: merge ${index} is ${JSON.stringify(line)}, two tokens were expected`)
    return [left, right]
  })
  return new Bpe({ vocab, merges: pairs, pattern: "gpt2", added, ignoreMerges: false, nfc: false, postProcessor: null })
}

/**
 * Rank files whose pattern and special tokens are published (openai/tiktoken openai_public.py), by the SHA-256 of the file.
 * Where the merges lead to every token, no piece is looked up as a whole: GPT-2's ranks become the tokenizer of its own files.
 */
const KNOWN_RANKS: Record<string, { pattern: PatternName; special: Record<string, number>; mergesSuffice?: true }> = {
  "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": {
    pattern: "gpt2", // r50k_base
    special: { "<|endoftext|>": 50256 },
    mergesSuffice: true,
  },
  "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": { pattern: "gpt2", special: { "<|endoftext|>": 50256 } }, // p50k_base
  "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": {
    pattern: "gpt4", // cl100k_base
    special: {
      "<|endoftext|>": 100257,
      "<|fim_prefix|>": 100258,
      "<|fim_middle|>": 100259,
      "<|fim_suffix|>": 100260,
      "<|endofprompt|>": 100276,
    },
  },
  "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": {
    pattern: "gpt4o", // o200k_base
    special: { "<|endoftext|>": 199999, "<|endofprompt|>": 200018 },
  },
}

export interface RankOptions {
  /** Split pattern; a rank file does not say. Not needed for the files of openai/tiktoken. */
  pattern?: PatternName
  /** Special tokens that get the ids after the last rank. Not needed for the files of openai/tiktoken. */
  special?: readonly string[]
}

/** A tiktoken rank file: one "base64 rank" a line. Ids that neither a rank nor a special token has become <|reserved_ID|>. */
export function importRanks(text: string, options: RankOptions = {}): Bpe {
  const tokens: (string | undefined)[] = []
  let count = 0
  text.split("\n").forEach((line, index) => {
    if (line === "") return
    const row = /^((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?) (\d{1,8})\r?$/.exec(line)
    if (!row?.[1]) throw bad(`line ${index + 1}: "base64 rank" was expected, not ${JSON.stringify(line.slice(0, 80))}`)
    const rank = Number(row[2])
    if (tokens[rank] !== undefined) throw bad(`line ${index + 1}: rank ${rank} stands twice`)
    tokens[rank] = toByteLevel(Buffer.from(row[1], "base64"))
    count++
  })
  const known = KNOWN_RANKS[sha256(text)]
  const pattern = options.pattern ?? known?.pattern
  if (pattern === undefined)
    throw bad("a rank file does not say how text is split before merging", "name the pattern: --splitPattern=llama3, gpt4 …")
  if (tokens.length > count && known === undefined) throw bad(`no line has rank ${tokens.findIndex((_, rank) => !(rank in tokens))}`)
  const names = Object.entries(known?.special ?? {})
  const own = [...new Set(options.special ?? [])].map((content, index): [string, number] => [content, tokens.length + index])
  const special = new Map((options.special === undefined ? names : own).map(([content, id]) => [id, content]))
  const size = Math.max(tokens.length, ...[...special.keys()].map((id) => id + 1))
  const vocab = Array.from({ length: size }, (_, id) => tokens[id])
  const added = vocab.flatMap((token, id) => (token === undefined ? [specialToken(id, special.get(id) ?? `<|reserved_${id}|>`)] : []))
  const ignoreMerges = known?.mergesSuffice === undefined
  return new Bpe({ vocab, merges: recoverMerges(vocab), pattern, added, ignoreMerges, nfc: false, postProcessor: null })
}

/**
 * The merges behind ranks. tiktoken merges any two neighbours whose bytes together are a token, lowest rank first. While a
 * token comes about, nothing beside it takes part, so it can only come from the two parts that its own bytes are reduced
 * to by the same rule; one whose bytes get stuck at more parts is never merged, only looked up as a whole piece.
 */
function recoverMerges(vocab: readonly (string | undefined)[]): [string, string][] {
  const ids = new Map<string, number>()
  vocab.forEach((token, id) => {
    if (token !== undefined) ids.set(token, id)
  })
  const merges: [string, string][] = []
  /** Id of what two ids make, by left · 2²⁴ + right, for the merges known so far: all that make a lower rank. */
  const made = new Map<number, number>()
  const known = (left: number, right: number) => made.get(left * 2 ** 24 + right)
  const possible = (left: number, right: number) => ids.get(vocab[left]! + vocab[right]!)
  vocab.forEach((token, id) => {
    if (token === undefined || token.length === 1) return
    const parts = Array.from(token, (character) => {
      const byte = ids.get(character)
      if (byte === undefined) throw bad(`byte ${JSON.stringify(character)} of token ${JSON.stringify(token)} has no rank`)
      return byte
    })
    reduce(parts, known, id)
    // Only where ranks do not grow with length can merges of a higher rank be needed.
    if (parts.length > 2) reduce(parts, possible, Number.POSITIVE_INFINITY, id)
    if (parts.length > 2) return
    made.set(parts[0]! * 2 ** 24 + parts[1]!, id)
    merges.push([vocab[parts[0]!]!, vocab[parts[1]!]!])
  })
  return merges
}

/** Merges neighbours in `parts`, lowest result first, as long as the result is below `limit` and not `except`, down to two parts. */
function reduce(parts: number[], merge: (left: number, right: number) => number | undefined, limit: number, except = -1): void {
  while (parts.length > 2) {
    let place = -1
    let lowest = limit
    for (let i = 0; i + 1 < parts.length; i++) {
      const id = merge(parts[i]!, parts[i + 1]!)
      if (id === undefined || id >= lowest || id === except) continue
      place = i
      lowest = id
    }
    if (place < 0) return
    parts.splice(place, 2, lowest)
  }
}
