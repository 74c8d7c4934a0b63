/** Worker that tokenises chunks; one message in, one message out. */

import { AlphaError } from "./base-error.ts"
import { byteLengthsOf, type EncodedChunk, type EncodeSetup, encodeChunk, RowError } from "./data-encode.ts"
import type { SourceKind } from "./data-types.ts"
import { parseTokenizer, type Tokenizer } from "./token.ts"

/** First the tokenizer, then chunks. */
export type WorkerRequest = { tokenizer: string; setup: EncodeSetup } | { kind: SourceKind; bytes: Uint8Array<ArrayBuffer> }
/** The answer to a chunk. */
export type WorkerReply =
  | { encoded: EncodedChunk }
  | { error: { message: string; hint: string | undefined; code: number; line: number | undefined } }

declare const self: Worker

let tokenizer: Tokenizer
let byteLengths: Uint32Array
let setup: EncodeSetup

self.onmessage = ({ data }: MessageEvent<WorkerRequest>) => {
  try {
    if ("tokenizer" in data) {
      tokenizer = parseTokenizer(data.tokenizer)
      byteLengths = byteLengthsOf(tokenizer)
      setup = data.setup
      return
    }
    const encoded = encodeChunk(tokenizer, byteLengths, data.kind, data.bytes, setup)
    self.postMessage({ encoded } satisfies WorkerReply, [encoded.payload.buffer])
  } catch (error) {
    if (!(error instanceof AlphaError)) throw error
    const line = error instanceof RowError ? error.line : undefined
    self.postMessage({ error: { message: error.message, hint: error.hint, code: error.code, line } } satisfies WorkerReply)
  }
}
