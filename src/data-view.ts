/** Datasets over prepared files: tokenised text in the cache, slices of shards. */

import { basename } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256 } from "./base-file.ts"
import { HEADER_BYTES } from "./data-cache.ts"
import { endOfTextName, exactByteLengths } from "./data-encode.ts"
import { prepareTokens } from "./data-prepare.ts"
import { mappedReader, type TokenLayout } from "./data-reader.ts"
import { openShard, type ShardSlice, shardLayout } from "./data-shard.ts"
import type { DataOptions, Dataset, Piece, Source, TokenReader } from "./data-types.ts"
import type { Tokenizer } from "./token.ts"

/** Tokenises `pieces` (or takes them from the cache) and maps the result. */
export async function textDataset(name: string, pieces: readonly Piece[], tokenizer: Tokenizer, options: DataOptions): Promise<Dataset> {
  const { path, info } = await prepareTokens(pieces, tokenizer, name, options)
  if (options.maskPrompt && info.counted === 0) {
    throw new AlphaError(`data ${name}: no assistant message, so maskPrompt leaves nothing to learn`, { code: EXIT.data })
  }
  const { width, tokens, bytes, documents, counted } = info
  const reader = mappedReader(path, { width, offset: HEADER_BYTES, length: tokens })
  const endOfText = requireEnd(name, documents, tokenizer, options)
  const byteLengths = exactByteLengths(tokenizer)
  return { name, tokens, bytes, documents, counted, hash: info.sha256, endOfText, byteLengths, read: reader.read, close: reader.close }
}

/** Ids from … to of one shard. */
interface Range {
  source: Source
  layout: TokenLayout
  from: number
  to: number
}

/** All of every shard. */
export function wholeShards(sources: readonly Source[]): { train: Range[]; val: Range[] } {
  const train = sources.map((source) => {
    const layout = shardLayout(source)
    return { source, layout, from: 0, to: layout.length }
  })
  return { train, val: [] }
}

/** Holds out the shards whose name says so (val.bin, x_val_000.bin) when there are others, else the last `fraction` of all ids. */
export function splitShards(sources: readonly Source[], fraction: number): { train: Range[]; val: Range[] } {
  const all = wholeShards(sources).train
  const isVal = ({ source }: Range) => /(^|[_.-])val([_.-]|$)/.test(basename(source.name))
  const named = { train: all.filter((range) => !isVal(range)), val: all.filter(isVal) }
  if (named.train.length > 0 && named.val.length > 0) return named
  let left = Math.floor(all.reduce((sum, { to }) => sum + to, 0) * (1 - fraction))
  const train: Range[] = []
  const val: Range[] = []
  for (const range of all) {
    const cut = Math.min(left, range.to)
    if (cut > 0) train.push({ ...range, to: cut })
    if (cut < range.to) val.push({ ...range, from: cut })
    left -= cut
  }
  return { train, val }
}

/** Checks ranges of shards and joins them end to end. */
export async function shardDataset(name: string, ranges: readonly Range[], options: DataOptions): Promise<Dataset> {
  const { tokenizer, onProgress } = options
  const limit = Math.min(options.vocabSize ?? Infinity, tokenizer?.vocabSize ?? Infinity)
  const byteLengths = tokenizer && exactByteLengths(tokenizer)
  const endName = tokenizer && endOfTextName(tokenizer)
  const endOfText = endName === undefined ? undefined : tokenizer?.special.get(endName)
  const total = ranges.reduce((sum, { layout, from, to }) => sum + (to - from) * layout.width, 0)
  let done = 0
  const onBytes = (bytes: number) => {
    done += bytes
    onProgress?.({ label: `check ${name}`, done, total })
  }
  const slices: ShardSlice[] = []
  for (const { source, layout, from, to } of ranges) {
    slices.push(await openShard(source, layout, from, to, { limit, endOfText, byteLengths, onBytes }))
  }
  const ends = slices.reduce((sum, slice) => sum + slice.ends, 0)
  const reader = joined(slices.map((slice) => slice.reader))
  return {
    name,
    tokens: reader.length,
    bytes: slices.reduce((sum, slice) => sum + slice.bytes, 0),
    documents: Math.max(1, ends),
    counted: reader.length,
    hash: sha256(slices.map((slice) => slice.sha256).join("")),
    endOfText: requireEnd(name, slices.length, tokenizer, options),
    byteLengths,
    read: reader.read,
    close: reader.close,
  }
}

/** The end-of-text id; documents can only be told apart with one. */
function requireEnd(name: string, documents: number, tokenizer: Tokenizer | undefined, options: DataOptions): number | undefined {
  const endName = tokenizer && endOfTextName(tokenizer)
  if (endName !== undefined) return tokenizer?.special.get(endName)
  if (!options.documentBoundaries || documents <= 1) return undefined
  throw new AlphaError(`data ${name}: documentBoundaries needs a tokenizer with an end-of-text token (<|endoftext|>)`, {
    hint: "build one that reserves it, or leave --documentBoundaries off",
    code: EXIT.usage,
  })
}

/** Readers end to end as one. */
function joined(readers: readonly TokenReader[]): TokenReader {
  const length = readers.reduce((sum, reader) => sum + reader.length, 0)
  return {
    length,
    read(at, into) {
      if (at < 0 || at + into.length > length) throw new RangeError(`tokens ${at} to ${at + into.length} of ${length}`)
      let skip = at
      let done = 0
      for (const reader of readers) {
        if (done === into.length) break
        const part = Math.min(into.length - done, Math.max(0, reader.length - skip))
        if (part > 0) reader.read(skip, into.subarray(done, done + part))
        skip = Math.max(0, skip - reader.length)
        done += part
      }
    },
    close() {
      for (const reader of readers) reader.close()
    },
  }
}
