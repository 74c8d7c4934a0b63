/** Text and rows → a verified .tokens file, tokenised in parallel unless the cache holds it. */

import { basename, join } from "node:path"
import { makeDirectory, sha256 } from "./base-file.ts"
import { removeStale, type TokenFileInfo, TokenFileWriter, verifyTokenFile } from "./data-cache.ts"
import { besideSpecials, type Chunk, chunksOf } from "./data-chunk.ts"
import { type EncodeSetup, endOfTextName } from "./data-encode.ts"
import { type Encoded, encodeAll } from "./data-pool.ts"
import type { DataOptions, Piece } from "./data-types.ts"
import type { Tokenizer } from "./token.ts"

/** Changes whenever the same input would give other ids: chunking, separators, chat template. */
const RECIPE = 1

/** A worker reads the tokenizer and warms up for about half a second, in which one thread encodes this much. */
const BYTES_PER_WORKER = 32 << 20

/** What tokenising needs from DataOptions. */
export type PrepareOptions = Pick<DataOptions, "cacheDir" | "workers" | "documentBoundaries" | "maskPrompt" | "onProgress" | "onNote">

/**
 * The .tokens file of `pieces`, joined in order with the end-of-text token between documents (when the tokenizer has one).
 * A damaged file in the cache is reported through onNote and made again. Throws AlphaError naming file and place of bad input.
 */
export async function prepareTokens(
  pieces: readonly Piece[],
  tokenizer: Tokenizer,
  label: string,
  options: PrepareOptions,
): Promise<{ path: string; info: TokenFileInfo }> {
  const { cacheDir, documentBoundaries, maskPrompt, onProgress, onNote } = options
  const endName = endOfTextName(tokenizer)
  const setup: EncodeSetup = {
    special: documentBoundaries,
    maskPrompt,
    width: maskPrompt || tokenizer.vocabSize > 65536 ? 4 : 2,
    endOfText: endName === undefined ? undefined : tokenizer.special.get(endName),
  }
  const inputs = pieces.map(({ source, sha256, from, to }) => ({ kind: source.kind, sha256, from, to }))
  const key = sha256(JSON.stringify({ recipe: RECIPE, setup, tokenizer: sha256(tokenizer.toJson()), inputs }))
  makeDirectory(cacheDir)
  const stem = basename(pieces[0]!.source.name).replace(/[^A-Za-z0-9._-]/g, "-")
  const path = join(cacheDir, `${stem}.${key.slice(0, 24)}.tokens`)
  const total = pieces.reduce((sum, { from, to }) => sum + to - from, 0)
  try {
    let checked = 0
    const found = await verifyTokenFile(path, key, (bytes) => {
      checked += bytes
      onProgress?.({ label: `check ${label} tokens`, done: checked, total: Math.max(checked, total) })
    })
    if (found) return { path, info: found }
  } catch (error) {
    onNote?.(`${(error as Error).message}; tokenising again`)
  }
  removeStale(cacheDir)
  let done = 0
  const report = (bytes: number) => {
    done += bytes
    onProgress?.({ label: `tokenise ${label}`, done, total })
  }
  const workers = Math.min(options.workers, Math.floor(total / BYTES_PER_WORKER))
  const info = await writeTokens(
    path,
    key,
    encodeAll(allChunks(pieces, tokenizer, documentBoundaries), tokenizer, setup, workers),
    setup,
    report,
  )
  return { path, info }
}

async function* allChunks(pieces: readonly Piece[], tokenizer: Tokenizer, special: boolean): AsyncGenerator<Chunk> {
  const plain = (bytes: Uint8Array, at: number) => tokenizer.cut(bytes, at)
  const findCut = special ? besideSpecials(plain, [...tokenizer.special.keys()]) : plain
  for (const piece of pieces) yield* chunksOf(piece, findCut)
}

async function writeTokens(
  path: string,
  key: string,
  encodings: AsyncIterable<Encoded>,
  setup: EncodeSetup,
  report: (bytes: number) => void,
): Promise<TokenFileInfo> {
  const { width, endOfText, maskPrompt } = setup
  const separator = endOfText === undefined ? undefined : idBytes(maskPrompt ? ~endOfText : endOfText, width)
  const writer = new TokenFileWriter(path)
  const sum = { tokens: 0, bytes: 0, documents: 0, counted: 0 }
  let lastEnds = true // the last id written is an end-of-text token, or nothing is written
  let endsDocument = true
  try {
    for await (const { chunk, encoded } of encodings) {
      report(chunk.length)
      if (encoded.tokens === 0) continue
      const starts = endsDocument || chunk.isFirst
      if (starts && !lastEnds && separator) {
        writer.append(separator)
        sum.tokens++
        if (!maskPrompt) sum.counted++
      }
      writer.append(encoded.payload)
      sum.tokens += encoded.tokens
      sum.bytes += encoded.bytes
      sum.counted += encoded.counted
      sum.documents += encoded.documents - (starts ? 0 : 1)
      endsDocument = encoded.endsDocument
      lastEnds = chunk.kind === "text" && encoded.endsDocument
    }
    return writer.finish({ key, width, ...sum })
  } catch (error) {
    writer.abandon()
    throw error
  }
}

function idBytes(id: number, width: 2 | 4): Uint8Array {
  return new Uint8Array((width === 2 ? Uint16Array.of(id) : Int32Array.of(id)).buffer)
}
