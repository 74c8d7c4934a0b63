/** Token shards: llm.c .bin files with their header, nanoGPT .bin files without. */

import { closeSync, openSync, readSync } from "node:fs"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile } from "./base-file.ts"
import { positionedReader, type TokenLayout } from "./data-reader.ts"
import { blocksOf } from "./data-scan.ts"
import type { Source, TokenReader } from "./data-types.ts"

/** Header of llm.c: 256 little-endian int32 — magic, version, number of tokens, zeros. */
const HEADER_BYTES = 1024
/** Bytes of the header that are zero, also when a few were lost or added before them. As ids they would be hundreds of token 0 in a row. */
const FILLING = [64, 1000] as const
/** magic → version and width. Source: llm.c dev/data/data_common.py (gpt-2: uint16; llama-3: uint32). */
const MAGICS = new Map<number, { version: number; width: 2 | 4 }>([
  [20240520, { version: 1, width: 2 }],
  [20240801, { version: 7, width: 4 }],
])
/** Other files of llm.c: model, debug state, tokenizer, multiple-choice evaluation. */
const OTHER_MAGICS = new Map([
  [20240326, "a model"],
  [20240327, "a debug state"],
  [20240328, "a tokenizer"],
  [20240522, "an evaluation set"],
])

/** The layout of a shard, after checking its header against the size of the file. Throws AlphaError on a truncated or foreign file. */
export function shardLayout(source: Source): TokenLayout {
  const fail = (why: string, hint: string) => new AlphaError(`data ${source.name}: ${why}`, { hint, code: EXIT.data })
  const header = readHeader(source.path)
  const [magic = 0, version = 0, count = 0] = new Int32Array(header.buffer, 0, Math.min(3, header.length >> 2))
  const other = OTHER_MAGICS.get(magic)
  if (other) throw fail(`this is ${other} of llm.c, not token data`, "token shards have magic 20240520 or 20240801")
  const known = MAGICS.get(magic)
  if (known) {
    if (version !== known.version) throw fail(`magic ${magic} with version ${version}, expected ${known.version}`, "write it again")
    const needed = HEADER_BYTES + count * known.width
    if (count < 0 || source.bytes !== needed) {
      throw fail(`truncated: the header promises ${count} tokens (${needed} bytes), the file has ${source.bytes}`, "copy or write it again")
    }
    return { width: known.width, offset: HEADER_BYTES, length: count }
  }
  for (const width of [2, 4]) {
    if (count > 0 && source.bytes === HEADER_BYTES + count * width)
      throw fail(`damaged: an llm.c header with magic ${magic}`, "copy or write it again")
  }
  if (header.length === HEADER_BYTES && header.subarray(...FILLING).every((byte) => byte === 0))
    throw fail(`damaged: it begins like an llm.c header, with magic ${magic}`, "copy or write it again")
  if (source.bytes % 2 !== 0) throw fail(`${source.bytes} bytes is not a whole number of uint16 tokens`, "copy or write it again")
  return { width: 2, offset: 0, length: source.bytes / 2 }
}

function readHeader(path: string): Uint8Array {
  return withFile("read", path, () => {
    const file = openSync(path, "r")
    try {
      const header = new Uint8Array(HEADER_BYTES)
      return header.subarray(0, readSync(file, header, 0, HEADER_BYTES, 0))
    } finally {
      closeSync(file)
    }
  })
}

/** A stretch of a shard, checked. */
export interface ShardSlice {
  reader: TokenReader
  sha256: string
  /** Bytes of text behind the ids, 0 without a tokenizer. */
  bytes: number
  /** End-of-text tokens. */
  ends: number
}

/** What ids must satisfy, and what they stand for. */
export interface ShardCheck {
  /** Ids must be below it. */
  limit: number
  endOfText: number | undefined
  byteLengths: Uint32Array | undefined
  onBytes: (done: number) => void
}

/** Checks ids from … to of a shard in one pass. Throws AlphaError naming file, token offset and value of an id that is too large. */
export async function openShard(source: Source, layout: TokenLayout, from: number, to: number, check: ShardCheck): Promise<ShardSlice> {
  const { limit, endOfText = -1, byteLengths, onBytes } = check
  const { width, offset } = layout
  const hasher = new Bun.CryptoHasher("sha256")
  let bytes = 0
  let ends = 0
  let at = from
  for await (const block of blocksOf(source.path, offset + from * width, offset + to * width)) {
    hasher.update(block)
    const ids = width === 2 ? new Uint16Array(block.buffer, 0, block.length / 2) : new Uint32Array(block.buffer, 0, block.length / 4)
    const wrong = firstAtLeast(ids, limit)
    if (wrong >= 0) {
      throw new AlphaError(`data ${source.name}: token ${ids[wrong]} at offset ${at + wrong}, expected ids below ${limit}`, {
        hint: "the shard was made with another tokenizer, or vocabSize is too small",
        code: EXIT.data,
      })
    }
    for (let i = 0; i < ids.length; i++) if (ids[i] === endOfText) ends++
    if (byteLengths) for (let i = 0; i < ids.length; i++) bytes += byteLengths[ids[i]!]!
    at += ids.length
    onBytes(block.length)
  }
  const reader = positionedReader(source.path, { width, offset: offset + from * width, length: to - from })
  return { reader, sha256: hasher.digest("hex"), bytes, ends }
}

/** Index of the first id ≥ limit, or −1; the common case is one pass for the maximum. */
function firstAtLeast(ids: Uint16Array | Uint32Array, limit: number): number {
  let largest = 0
  for (let i = 0; i < ids.length; i++) if (ids[i]! > largest) largest = ids[i]!
  return largest < limit ? -1 : ids.findIndex((id) => id >= limit)
}
