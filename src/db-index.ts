/** metrics.index of a run directory: pages of blocks of its metrics, so that a long journal is read once; a copy that may be deleted. */
import { appendFileSync, closeSync, existsSync, fstatSync, openSync, readSync, truncateSync } from "node:fs"
import { join } from "node:path"
import { AXES, Blocks, type StoredPage } from "./db-blocks.ts"
import type { MetricFacts } from "./db-facts.ts"
import { journalPath } from "./db-journal.ts"
import { isAtPlace, type JournalPlace } from "./db-journal-reader.ts"

const NEWLINE = 10
/** Most bytes of a header, and what is read with it: the axes stand first. */
const HEAD = 1 << 14

/** What stands before the values of a page. */
interface Header {
  readonly page: number
  /** Behind the page's last row. */
  readonly place: JournalPlace
  readonly facts: MetricFacts
  /** Values in their order: name, number of them, CRC-32 of their bytes. */
  readonly columns: readonly (readonly [name: string, length: number, crc: number])[]
}

interface Found {
  readonly header: Header
  /** First byte of the values, and the byte behind them. */
  readonly start: number
  readonly end: number
  readonly axes: StoredPage
}

export class MetricsIndex {
  readonly #path: string
  #found: Found[] = []
  /** Bytes that hold; undefined: as the file is. */
  #sound: number | undefined
  /** It was found to be spoilt, and may be there still. */
  #isSpoilt = false

  constructor(private readonly directory: string) {
    this.#path = join(directory, "metrics.index")
  }

  /** The pages that still say what the journal says, with their axes: where it is read on from, and what its rows said. Columns come by `fill`. */
  load(): { blocks: Blocks; place: JournalPlace | undefined; facts: MetricFacts | undefined } {
    this.#found = (this.#isSpoilt ? undefined : this.#read((file) => [...records(file)])) ?? []
    const journal = journalPath(this.directory, "metrics")
    // Journals change at their end alone: where the last row of a page is as it was, all before it are.
    while (this.#found.length > 0 && !isAtPlace(journal, this.#found.at(-1)!.header.place)) this.#found.pop()
    const last = this.#found.at(-1)
    this.#sound = last?.end ?? 0
    const blocks = new Blocks(this.#found.length)
    for (const { header, axes } of this.#found) for (const [name, values] of axes) blocks.load(header.page, name, values)
    return { blocks, place: last?.header.place, facts: last?.header.facts }
  }

  /** Puts the stored values of columns into `blocks`. False where the file is not what it was: it is made again then. */
  fill(blocks: Blocks, names: readonly string[]): boolean {
    const missing = blocks.missing(names)
    const isFilled = (file: number) =>
      this.#found.every(({ header, start }) => {
        let at = start
        for (const [name, length, crc] of header.columns) {
          if (missing.includes(name)) {
            const values = valuesAt(file, at, length, crc)
            if (values === undefined) return false
            blocks.load(header.page, name, values)
          }
          at += length * 8
        }
        return true
      })
    if (missing.length > 0 && this.#read(isFilled) !== true) {
      this.#isSpoilt = true
      return false
    }
    blocks.isWhole(missing)
    return true
  }

  /** Undefined where the file is not there or cannot be read. */
  #read<T>(work: (file: number) => T): T | undefined {
    try {
      if (!existsSync(this.#path)) return undefined
      const file = openSync(this.#path, "r")
      try {
        return work(file)
      } finally {
        closeSync(file)
      }
    } catch {
      return undefined // what cannot be read is made again
    }
  }

  /** Adds a page. Where nothing can be written the next reader reads the journal again. */
  save(page: number, values: StoredPage, place: JournalPlace, facts: MetricFacts): void {
    const parts = [...values].map(([name, column]) => ({ name, bytes: Buffer.from(column.buffer, column.byteOffset, column.byteLength) }))
    const columns = parts.map(({ name, bytes }) => [name, bytes.length / 8, Bun.hash.crc32(bytes)] as const)
    const header: Header = { page, place, facts, columns }
    try {
      if (this.#sound !== undefined && existsSync(this.#path)) truncateSync(this.#path, this.#sound)
      this.#sound = undefined
      this.#isSpoilt = false
      appendFileSync(this.#path, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...parts.map(({ bytes }) => bytes)]))
    } catch {
      // A directory that is read alone.
    }
  }
}

/** Values at a place in the file; undefined where they are not those that were written. */
function valuesAt(file: number, at: number, length: number, crc: number): Float64Array | undefined {
  const bytes = new Uint8Array(length * 8)
  if (readSync(file, bytes, 0, bytes.length, at) !== bytes.length || Bun.hash.crc32(bytes) !== crc) return undefined
  return new Float64Array(bytes.buffer)
}

/** Records from the beginning on, as far as they are whole and in order. */
function* records(file: number): Generator<Found> {
  const head = Buffer.allocUnsafe(HEAD)
  const { size } = fstatSync(file)
  let next = 0
  for (let at = 0; at < size; ) {
    const line = head.subarray(0, readSync(file, head, 0, HEAD, at)).indexOf(NEWLINE)
    if (line < 0) return
    const header = JSON.parse(head.toString("utf8", 0, line)) as Header
    const start = at + line + 1
    at = start + header.columns.reduce((sum, [, length]) => sum + length * 8, 0)
    if (at > size || header.page > next) return
    // Two processes may write the same page.
    if (header.page < next) continue
    const axes = new Map<string, Float64Array>()
    let from = start
    for (const [name, length, crc] of header.columns.slice(0, AXES.length)) {
      const values = valuesAt(file, from, length, crc)
      if (values === undefined) return
      axes.set(name, values)
      from += length * 8
    }
    next++
    yield { header, start, end: at, axes }
  }
}
