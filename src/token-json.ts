/** Writes Hugging Face tokenizer.json files with stable bytes. */

import { sha256 } from "./base-file.ts"
import type { AddedToken } from "./token-added.ts"

const NO_CHECKSUM = "0".repeat(64)

export interface TokenizerFile {
  added: readonly AddedToken[]
  normalizer: unknown
  preTokenizer: unknown
  postProcessor: unknown
  decoder: unknown
  /** Fields of `model` other than sha256, vocab and merges. */
  model: Record<string, unknown>
  /** Tokens of the model by id. */
  vocab: readonly string[]
  /** Merges in order of rank, "left right"; undefined for models without merges. */
  merges: readonly string[] | undefined
}

/** One value, indented as inside an object at depth `depth`. */
const nested = (value: unknown, depth: number) => JSON.stringify(value, undefined, 2).replaceAll("\n", `\n${"  ".repeat(depth)}`)

const block = (open: string, rows: string[], close: string, indent: string) =>
  rows.length === 0 ? open + close : `${open}\n${rows.map((row) => `${indent}  ${row}`).join(",\n")}\n${indent}${close}`

/**
 * The file's text. `model.sha256` is the SHA-256 of the text with the checksum itself written as 64 zeros: Hugging Face
 * ignores the field, `checkChecksum` finds a damaged file with it.
 */
export function writeTokenizerJson(file: TokenizerFile): string {
  const added = file.added.map((token) =>
    nested(
      {
        id: token.id,
        content: token.content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: token.normalized,
        special: token.special,
      },
      2,
    ),
  )
  const model = [
    ...Object.entries(file.model).map(([key, value]) => `${JSON.stringify(key)}: ${nested(value, 2)}`),
    `"sha256": "${NO_CHECKSUM}"`,
    // Written by hand: in a JavaScript object "42" would move to the front and "__proto__" would vanish.
    `"vocab": ${block(
      "{",
      file.vocab.map((token, id) => `${JSON.stringify(token)}: ${id}`),
      "}",
      "    ",
    )}`,
  ]
  if (file.merges !== undefined) {
    model.push(
      `"merges": ${block(
        "[",
        file.merges.map((merge) => JSON.stringify(merge)),
        "]",
        "    ",
      )}`,
    )
  }
  const rows = [
    `"version": "1.0"`,
    `"truncation": null`,
    `"padding": null`,
    `"added_tokens": ${block("[", added, "]", "  ")}`,
    `"normalizer": ${nested(file.normalizer, 1)}`,
    `"pre_tokenizer": ${nested(file.preTokenizer, 1)}`,
    `"post_processor": ${nested(file.postProcessor, 1)}`,
    `"decoder": ${nested(file.decoder, 1)}`,
    `"model": ${block("{", model, "}", "  ")}`,
  ]
  const text = `${block("{", rows, "}", "")}\n`
  return text.replace(`"sha256": "${NO_CHECKSUM}"`, `"sha256": "${sha256(text)}"`)
}

/** Whether a file that carries `checksum` in model.sha256 is as it was written. */
export function checkChecksum(text: string, checksum: string): boolean {
  return sha256(text.replace(`"sha256": "${checksum}"`, `"sha256": "${NO_CHECKSUM}"`)) === checksum
}
