/** One chunk of text or rows → its ids as file bytes; runs in the workers. */

import { AlphaError } from "./base-error.ts"
import { encodeChat } from "./data-chat.ts"
import { parseRow } from "./data-row.ts"
import type { SourceKind } from "./data-types.ts"
import type { Tokenizer } from "./token.ts"

/** How chunks are encoded: everything but the text that the ids depend on. */
export interface EncodeSetup {
  /** Special tokens written in text files become those tokens. */
  special: boolean
  /** Take the loss on assistant messages only. */
  maskPrompt: boolean
  /** Bytes per id: 2 unsigned; 4 signed, with −1 − id for an id that takes no loss. */
  width: 2 | 4
  /** The id written between documents. */
  endOfText: number | undefined
}

/** The ids of a chunk. */
export interface EncodedChunk {
  payload: Uint8Array<ArrayBuffer>
  tokens: number
  /** Bytes of text behind the ids. */
  bytes: number
  /** Documents that have ids here, the one that goes on from the chunk before included. */
  documents: number
  /** Ids that take a loss. */
  counted: number
  /** True when the next chunk starts a document. */
  endsDocument: boolean
}

/** A row that cannot be used. */
export class RowError extends AlphaError {
  /** Its line within the chunk, from 0. */
  readonly line: number

  constructor(line: number, cause: AlphaError) {
    super(cause.message, { hint: cause.hint, code: cause.code, cause })
    this.line = line
  }
}

/** Names of the token that ends a document, in the order they are looked for: GPT-2 and Qwen, Llama 3, Llama 2. */
const endNames = ["<|endoftext|>", "<|end_of_text|>", "</s>"]

/** The text of the tokenizer's end-of-text token, undefined when it has none. */
export function endOfTextName(tokenizer: Tokenizer): string | undefined {
  return endNames.find((name) => tokenizer.special.has(name))
}

/** Bytes of text behind each id, for bits per byte; undefined where an unknown token can stand for any text. */
export const exactByteLengths = (tokenizer: Tokenizer): Uint32Array | undefined =>
  tokenizer.unknown === undefined ? byteLengthsOf(tokenizer) : undefined

/** Bytes of text behind each id; 0 for special tokens. */
export function byteLengthsOf(tokenizer: Tokenizer): Uint32Array {
  return Uint32Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.tokenBytes(id).length)
}

/** Encodes a chunk. Throws RowError (rows) or what the tokenizer says (text); the caller adds the file. */
export function encodeChunk(
  tokenizer: Tokenizer,
  byteLengths: Uint32Array,
  kind: SourceKind,
  bytes: Uint8Array,
  setup: EncodeSetup,
): EncodedChunk {
  if (kind === "rows") return encodeRows(tokenizer, byteLengths, bytes, setup)
  const ids = tokenizer.encode(bytes, { special: setup.special })
  let ends = 0
  if (setup.special) for (const id of ids) if (id === setup.endOfText) ends++
  const endsDocument = ends > 0 && ids[ids.length - 1] === setup.endOfText
  const documents = ids.length === 0 ? 0 : 1 + ends - (endsDocument ? 1 : 0)
  return { ...pack([{ ids }], byteLengths, setup), documents, endsDocument }
}

function encodeRows(tokenizer: Tokenizer, byteLengths: Uint32Array, bytes: Uint8Array, setup: EncodeSetup): EncodedChunk {
  const parts: Part[] = []
  let documents = 0
  const lines = new TextDecoder("utf-8", { ignoreBOM: false }).decode(bytes).split("\n")
  for (const [number, line] of lines.entries()) {
    if (line.trim() === "") continue
    try {
      const row = parseRow(line)
      const part = "text" in row ? { ids: tokenizer.encode(row.text) } : encodeChat(tokenizer, row.messages)
      if (part.ids.length === 0) continue
      if (documents > 0 && setup.endOfText !== undefined) parts.push({ ids: Int32Array.of(setup.endOfText), counts: Uint8Array.of(0) })
      parts.push(part)
      documents++
    } catch (error) {
      throw error instanceof AlphaError ? new RowError(number, error) : error
    }
  }
  return { ...pack(parts, byteLengths, setup), documents, endsDocument: true }
}

interface Part {
  ids: Int32Array
  counts?: Uint8Array
}

/** Joins parts in the width of the file. A part without counts takes the loss on every id. */
function pack(parts: Part[], byteLengths: Uint32Array, { width, maskPrompt }: EncodeSetup) {
  const tokens = parts.reduce((sum, { ids }) => sum + ids.length, 0)
  const out = width === 2 ? new Uint16Array(tokens) : new Int32Array(tokens)
  let at = 0
  let bytes = 0
  let counted = 0
  for (const { ids, counts } of parts) {
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!
      const counts1 = !maskPrompt || counts === undefined || counts[i] === 1
      if (counts1) counted++
      out[at++] = counts1 ? id : ~id
      bytes += byteLengths[id]!
    }
  }
  return { payload: new Uint8Array(out.buffer), tokens, bytes, counted }
}
