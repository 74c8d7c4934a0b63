/** Which bytes of the input files train, which are held out. */

import { AlphaError, EXIT } from "./base-error.ts"
import { blocksOf, characterOffset, type ScannedSource } from "./data-scan.ts"
import type { Piece, Source } from "./data-types.ts"

/** All of every file. */
export function wholePieces(files: readonly ScannedSource[]): Piece[] {
  return files.map(({ source, scan }) => ({ source, sha256: scan.sha256, from: 0, to: source.bytes }))
}

/**
 * Cuts the files, taken as one text, after floor(characters · (1 − fraction)) characters, as nanoGPT does: the first part trains, the
 * rest is held out. A jsonl row is never cut, the row at the cut trains; with a `marker` (an end-of-text token written in the text) the
 * document at the cut trains too. When nothing would be left to hold out, the cut moves back to the row or marker before.
 * Throws AlphaError when a part would be empty.
 */
export async function splitPieces(
  files: readonly ScannedSource[],
  fraction: number,
  marker: string | undefined,
): Promise<{ train: Piece[]; val: Piece[] }> {
  const characters = files.reduce((sum, { scan }) => sum + scan.characters, 0)
  const cut = Math.floor(characters * (1 - fraction))
  let before = 0
  let number = 0
  while (number < files.length - 1 && before + files[number]!.scan.characters <= cut) before += files[number++]!.scan.characters
  const { source, scan } = files[number]!
  let offset = await characterOffset(source, scan, cut - before)
  const separator = source.kind === "rows" ? "\n" : marker
  if (separator !== undefined && offset > 0) offset = await documentCut(source, offset, separator, number === files.length - 1)
  const train = wholePieces(files.slice(0, number + 1))
  const val = wholePieces(files.slice(number))
  train[number]!.to = offset
  val[0]!.from = offset
  const parts = { train: train.filter((piece) => piece.to > piece.from), val: val.filter((piece) => piece.to > piece.from) }
  for (const [part, pieces] of Object.entries(parts)) {
    if (pieces.length > 0) continue
    throw new AlphaError(`data ${source.name}: nothing left to ${part === "val" ? "hold out" : "train on"} (valFraction ${fraction})`, {
      hint:
        source.kind === "rows" ? "a row is never cut: give more rows, or --valData=FILE" : "change --valFraction, or give --valData=FILE",
      code: EXIT.data,
    })
  }
  return parts
}

/** The end of the first separator that ends at or after `offset`; when that is the end of the last file, of the last one before. */
async function documentCut(source: Source, offset: number, separator: string, isLast: boolean): Promise<number> {
  const mark = Buffer.from(separator)
  const start = Math.max(0, offset - mark.length)
  const after = await findEnd(source, mark, start, source.bytes, "first")
  const end = after ?? source.bytes
  if (end < source.bytes || !isLast) return end
  return (await findEnd(source, mark, 0, offset, "last")) ?? (separator === "\n" ? 0 : offset)
}

/** Offset behind the first or last `mark` within from … to. */
async function findEnd(source: Source, mark: Buffer, from: number, to: number, which: "first" | "last"): Promise<number | undefined> {
  let carry = Buffer.alloc(0)
  let at = from
  let last: number | undefined
  for await (const block of blocksOf(source.path, from, to)) {
    const bytes = Buffer.concat([carry, block])
    const found = which === "first" ? bytes.indexOf(mark) : bytes.lastIndexOf(mark)
    if (found >= 0) {
      last = at - carry.length + found + mark.length
      if (which === "first") return last
    }
    at += block.length
    carry = Buffer.from(bytes.subarray(Math.max(0, bytes.length - mark.length + 1)))
  }
  return last
}
