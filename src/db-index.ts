/** metrics.index of a run directory: pages of blocks of its metrics, so that a long journal is read once; a copy that may be deleted. */
import { appendFileSync, existsSync, readFileSync, truncateSync } from "node:fs"
import { join } from "node:path"
import { Blocks, type StoredPage } from "./db-blocks.ts"
import type { MetricFacts } from "./db-facts.ts"
import { isAtPlace, type JournalPlace, journalPath } from "./db-journal.ts"

const NEWLINE = 10

/** What stands before the values of a page. */
interface Header {
  readonly page: number
  /** Behind the page's last row. */
  readonly place: JournalPlace
  readonly facts: MetricFacts
  /** Names and lengths of the values. */
  readonly columns: readonly (readonly [name: string, length: number])[]
  readonly crc: number
}

export class MetricsIndex {
  readonly #path: string
  /** Bytes that hold; undefined: as the file is. */
  #sound: number | undefined

  constructor(private readonly directory: string) {
    this.#path = join(directory, "metrics.index")
  }

  /** The pages that still say what the journal says: with where it is read on from, and what the rows said. */
  load(): { blocks: Blocks; place: JournalPlace | undefined; facts: MetricFacts | undefined } {
    const found = this.#records()
    const journal = journalPath(this.directory, "metrics")
    // Journals change at their end alone: where the last row of a page is as it was, all before it are.
    while (found.length > 0 && !isAtPlace(journal, found.at(-1)!.header.place)) found.pop()
    this.#sound = found.at(-1)?.end ?? 0
    const blocks = new Blocks(found.length)
    const names = new Set<string>()
    for (const { header, values } of found) {
      for (const [name, column] of values) {
        blocks.load(header.page, name, column)
        names.add(name)
      }
    }
    blocks.isWhole([...names])
    return { blocks, place: found.at(-1)?.header.place, facts: found.at(-1)?.header.facts }
  }

  #records(): { header: Header; values: StoredPage; end: number }[] {
    const found: { header: Header; values: StoredPage; end: number }[] = []
    try {
      if (!existsSync(this.#path)) return found
      const bytes = readFileSync(this.#path)
      for (let at = 0; at < bytes.length; ) {
        const line = bytes.indexOf(NEWLINE, at)
        if (line < 0) break
        const header = JSON.parse(bytes.toString("utf8", at, line)) as Header
        const length = header.columns.reduce((sum, [, count]) => sum + count * 8, 0)
        const data = bytes.subarray(line + 1, line + 1 + length)
        if (data.length < length || Bun.hash.crc32(data) !== header.crc) break
        at = line + 1 + length
        // Two processes may write the same page.
        if (header.page < found.length) continue
        if (header.page > found.length) break
        let from = 0
        const values = new Map(
          header.columns.map(([name, count]) => {
            const column = new Float64Array(new Uint8Array(data.subarray(from, from + count * 8)).buffer)
            from += count * 8
            return [name, column] as const
          }),
        )
        found.push({ header, values, end: at })
      }
    } catch {
      // What cannot be read is made again.
    }
    return found
  }

  /** Adds a page. Where nothing can be written the next reader reads the journal again. */
  save(page: number, values: StoredPage, place: JournalPlace, facts: MetricFacts): void {
    const data = Buffer.concat([...values.values()].map((column) => new Uint8Array(column.buffer, column.byteOffset, column.byteLength)))
    const columns = [...values].map(([name, { length }]) => [name, length] as const)
    const header: Header = { page, place, facts, columns, crc: Bun.hash.crc32(data) }
    try {
      if (this.#sound !== undefined && existsSync(this.#path)) truncateSync(this.#path, this.#sound)
      this.#sound = undefined
      appendFileSync(this.#path, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), data]))
    } catch {
      // A directory that is read alone.
    }
  }
}
