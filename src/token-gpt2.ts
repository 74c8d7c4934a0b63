/** GPT-2's own tokenizer, from OpenAI's rank file, which alpha carries. */

import ranks from "gpt-tokenizer/data/r50k_base.tiktoken" with { type: "file" }
import { readText } from "./base-file.ts"
import { importRanks } from "./token-import-ranks.ts"
import type { Tokenizer } from "./token-interface.ts"

/** 50,257 tokens, the last <|endoftext|>; `special` tokens get the ids after it. */
export function gpt2Tokenizer(special: readonly string[] = []): Tokenizer {
  return importRanks(readText(ranks), { special: ["<|endoftext|>", ...special] })
}
