/** The text of data as a stream, for learning a tokenizer from it. */

import { closeSync, openSync, readSync } from "node:fs"
import { AlphaError } from "./base-error.ts"
import { withFile } from "./base-file.ts"
import { chatSpecials } from "./data-chat.ts"
import { parseRow } from "./data-row.ts"
import { checkText, scanAll } from "./data-scan.ts"
import { findSources } from "./data-source.ts"
import { splitPieces } from "./data-split.ts"
import type { DataOptions, Source } from "./data-types.ts"

/** The text and rows files that data means. */
export interface TextStream {
  /** Bytes of all of it. */
  readonly bytes: number
  /** Special tokens that the data's own markup needs (chat rows). */
  readonly specials: readonly string[]
  /** Blocks of text files that end with a line, contents of rows; the texts `without` (special tokens written in the text) are left out. */
  texts(without?: readonly string[]): Iterable<Uint8Array | string>
  /**
   * The part that trains when `fraction` of the characters is held out, cut where `openData` cuts (`marker`: see `splitPieces`).
   * Scans the files for it, which costs little beside learning from them; `onProgress` may throw, which ends it.
   */
  training(fraction: number, marker: string | undefined, onProgress: DataOptions["onProgress"]): Promise<TextStream>
}

const BLOCK = 1 << 20
/** A line grows to this before it is cut. */
const MAX_LINE = 64 << 20

/** Finds the text and rows files that `data` means (see `openData`). Undefined for shards and random tokens, which hold no text. */
export async function openText(data: string, cacheDir: string, onProgress?: DataOptions["onProgress"]): Promise<TextStream | undefined> {
  if (data === "random") return undefined
  const sources = await findSources(data, cacheDir, onProgress)
  if (sources.some(({ kind }) => kind === "shard")) return undefined
  return streamOf(sources)
}

function streamOf(sources: readonly Source[]): TextStream {
  return {
    bytes: sources.reduce((sum, { bytes }) => sum + bytes, 0),
    specials: sources.some(isChat) ? chatSpecials : [],
    texts: (without = []) => textsOf(sources, without),
    async training(fraction, marker, onProgress) {
      const files = await scanAll(sources, onProgress && ((progress) => onProgress({ ...progress, label: "find the split" })))
      const { train } = await splitPieces(files, fraction, marker)
      return streamOf(train.map(({ source, to }) => ({ ...source, bytes: to }))) // a training piece starts where its file does
    },
  }
}

/** True for a rows file whose first row is a conversation. */
function isChat(source: Source): boolean {
  if (source.kind !== "rows") return false
  for (const row of rowsOf(source)) return "messages" in row
  return false
}

function* textsOf(sources: readonly Source[], without: readonly string[]): Generator<Uint8Array | string> {
  const marks = without.length === 0 ? undefined : new RegExp(without.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"))
  for (const source of sources) {
    for (const text of source.kind === "rows" ? rowTexts(source) : blocks(source)) {
      if (marks === undefined) yield text
      else yield* new TextDecoder().decode(Buffer.from(text)).split(marks)
    }
  }
}

function* rowTexts(source: Source): Generator<string> {
  for (const row of rowsOf(source)) {
    if ("text" in row) yield row.text
    else for (const { content } of row.messages) yield content
  }
}

function* rowsOf(source: Source): Generator<ReturnType<typeof parseRow>> {
  let number = 0
  for (const block of blocks(source)) {
    for (const line of new TextDecoder().decode(block).replace(/\n$/, "").split("\n")) {
      number++
      if (line.trim() === "") continue
      try {
        yield parseRow(line)
      } catch (error) {
        if (!(error instanceof AlphaError)) throw error
        throw new AlphaError(`data ${source.name} line ${number}: ${error.message}`, { hint: error.hint, code: error.code, cause: error })
      }
    }
  }
}

/** Whole lines of about BLOCK bytes; throws at what is not UTF-8 text, before a tokenizer learns from it. A line longer than MAX_LINE is cut between characters. */
function* blocks(source: Source): Generator<Uint8Array> {
  const file = withFile("read", source.path, () => openSync(source.path, "r"))
  try {
    let size = BLOCK
    for (let at = 0; at < source.bytes; ) {
      const buffer = new Uint8Array(Math.min(size, source.bytes - at))
      const bytes = buffer.subarray(
        0,
        withFile("read", source.path, () => readSync(file, buffer, 0, buffer.length, at)),
      )
      if (bytes.length === 0) return
      let end = at + bytes.length >= source.bytes ? bytes.length : bytes.lastIndexOf(10) + 1
      if (end === 0 && size < MAX_LINE) {
        size *= 2
        continue
      }
      if (end === 0) for (end = bytes.length - 1; (bytes[end]! & 0xc0) === 0x80; ) end--
      checkText(source, bytes.subarray(0, end), at)
      yield bytes.subarray(0, end)
      at += end
      size = BLOCK
    }
  } finally {
    closeSync(file)
  }
}
