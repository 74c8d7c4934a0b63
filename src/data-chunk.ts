/** Cuts text and rows into chunks that can be tokenised apart. */

import { AlphaError, EXIT } from "./base-error.ts"
import { blocksOf } from "./data-scan.ts"
import type { Piece, SourceKind } from "./data-types.ts"

/** A part of a piece whose ids do not depend on its neighbours. */
export interface Chunk {
  kind: SourceKind
  bytes: Uint8Array<ArrayBuffer>
  /** Its bytes (they may have been handed to a worker since). */
  length: number
  /** Offset of the first byte in its file, for messages. */
  offset: number
  piece: Piece
  /** True for the first chunk of a piece: a document starts here. */
  isFirst: boolean
}

/** Finds a place where text may be cut: the smallest index ≥ at, or bytes.length when there is none. */
export type FindCut = (bytes: Uint8Array, at: number) => number

/** Bytes after which a chunk ends as soon as it may. Cuts depend on the text alone, never on the number of workers. */
export const CHUNK_BYTES = 1 << 20
/** A chunk grows to this many bytes while no cut is found; then text is cut between characters, and a row is refused. */
const MAX_CHUNK_BYTES = 64 << 20
/** A cut closer to the end of what was read may depend on bytes not read yet. */
const LOOK_AHEAD = 256

/** The chunks of `piece`, in order; memory stays below two chunks. */
export async function* chunksOf(piece: Piece, findCut: FindCut, target = CHUNK_BYTES, limit = MAX_CHUNK_BYTES): AsyncGenerator<Chunk> {
  const { source, from, to } = piece
  const find = source.kind === "rows" ? endOfRow : findCut
  let pending: Uint8Array = new Uint8Array(0)
  let offset = from
  let searched = target
  const chunk = (length: number): Chunk => {
    const bytes = new Uint8Array(pending.subarray(0, length))
    const made: Chunk = { kind: source.kind, bytes, length, offset, piece, isFirst: offset === from }
    pending = pending.subarray(length)
    offset += length
    searched = target
    return made
  }
  for await (const block of blocksOf(source.path, from, to)) {
    pending = Buffer.concat([pending, block])
    while (pending.length >= searched + LOOK_AHEAD) {
      const cut = find(pending, searched)
      if (cut <= pending.length - LOOK_AHEAD) yield chunk(cut)
      else if (pending.length < limit) searched = pending.length - LOOK_AHEAD + 1
      else if (source.kind === "rows") throw longRow(source.name, offset, limit)
      else yield chunk(characterBoundary(pending, target))
    }
  }
  if (offset + pending.length < to) {
    throw new AlphaError(`data ${source.name}: the file became shorter than ${to} bytes while it was read`, { code: EXIT.data })
  }
  if (pending.length > 0) yield chunk(pending.length)
}

/** Never cuts inside a special token written in the text. */
export function besideSpecials(findCut: FindCut, specials: readonly string[]): FindCut {
  const marks = specials.map((text) => Buffer.from(text))
  const isInside = (bytes: Uint8Array, cut: number) =>
    marks.some((mark) => {
      const window = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).subarray(
        Math.max(0, cut - mark.length + 1),
        cut + mark.length - 1,
      )
      return window.includes(mark)
    })
  return (bytes, at) => {
    let cut = findCut(bytes, at)
    while (cut < bytes.length && isInside(bytes, cut)) cut = findCut(bytes, cut + 1)
    return cut
  }
}

/** Rows end at newlines: JSON strings hold none. */
function endOfRow(bytes: Uint8Array, at: number): number {
  const newline = bytes.indexOf(10, at - 1)
  return newline < 0 ? bytes.length : newline + 1
}

function characterBoundary(bytes: Uint8Array, at: number): number {
  while ((bytes[at]! & 0xc0) === 0x80) at--
  return at
}

function longRow(name: string, offset: number, limit: number): AlphaError {
  return new AlphaError(`data ${name}: the row at byte ${offset} is longer than ${limit} bytes`, {
    hint: "expected one JSON object per line",
    code: EXIT.data,
  })
}
