/** A journal on disk: numbered JSON lines, appended cheaply, a torn tail cut off on open. */
import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, statSync, writeSync } from "node:fs"
import { join } from "node:path"
import { withFile } from "./base-file.ts"
import { linesOf, offsetOf, parseRow, rowOf, soundEnd, withJournal } from "./db-lines.ts"
import type { Journal, JournalRow } from "./db-types.ts"

export const journalPath = (directory: string, journal: Journal): string => join(directory, `${journal}.jsonl`)

/** The writing end of a journal; one per file and process. */
export class JournalWriter {
  readonly #file: number
  #size: number
  #seq: number

  /** Opens or makes the file and cuts off what a kill or a full disk left behind the last whole line. */
  constructor(readonly path: string) {
    const { file, end, count } = withFile("open", path, () => {
      const file = openSync(path, existsSync(path) ? "r+" : "w+")
      const { end, count } = soundEnd(file)
      if (fstatSync(file).size > end) ftruncateSync(file, end)
      return { file, end, count }
    })
    this.#file = file
    this.#size = end
    this.#seq = count
  }

  /** Number that the next row gets. */
  get next(): number {
    return this.#seq
  }

  /** Writes one row with its number and, unless it has one, its time. After an error the file ends with the row before. */
  append(row: object): JournalRow {
    const { time: given, ...columns } = row as Record<string, unknown>
    const stored = { seq: this.#seq, time: given ?? Date.now(), ...columns } as JournalRow
    const bytes = Buffer.from(`${JSON.stringify(stored)}\n`)
    withFile("write", this.path, () => {
      try {
        for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done, bytes.length - done, this.#size + done)
      } catch (error) {
        ftruncateSync(this.#file, this.#size)
        throw error
      }
    })
    this.#size += bytes.length
    this.#seq++
    return stored
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** Cuts a journal before its first row of a step after `step`: a run that continues there writes those rows again. */
export function rewindJournal(path: string, step: number): void {
  withJournal(path, "r+", (file) => {
    let keep = 0
    for (const { text, end } of linesOf(file, 0)) {
      const row = parseRow(text)
      if (row === undefined || (typeof row.step === "number" && row.step > step)) break
      keep = end
    }
    if (keep < fstatSync(file).size) ftruncateSync(file, keep)
  })
}

/** Rows of a journal with seq > `after`, at most `limit`. */
export function readJournal(path: string, { after = -1, limit = Number.POSITIVE_INFINITY } = {}): JournalRow[] {
  const rows: JournalRow[] = []
  withJournal(path, "r", (file) => {
    const offset = offsetOf(file, after + 1)
    let seq = offset === undefined ? 0 : Math.max(0, after + 1)
    for (const { text } of linesOf(file, offset ?? 0)) {
      if (rows.length >= limit) break
      if (seq > after) rows.push(rowOf(text, seq))
      seq++
    }
  })
  return rows
}

/** Changes whenever one of the files does. */
export const signatureOf = (paths: readonly string[]): string =>
  paths
    .map((path) => {
      const { mtimeMs = 0, size = -1 } = statSync(path, { throwIfNoEntry: false }) ?? {}
      return `${mtimeMs}:${size}`
    })
    .join()

/** Number of rows of a journal. */
export const countJournal = (path: string): number => withJournal(path, "r", (file) => soundEnd(file).count) ?? 0
