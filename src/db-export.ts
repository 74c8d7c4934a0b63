/** Rows as text to keep elsewhere: CSV and JSON lines, a page of rows at a time, however long the run. */
import type { Journal, JournalRow, RunStore } from "./db-types.ts"

/** Rows of a page. */
const PAGE = 5000

/** Pages of rows; every call begins anew. */
export type Pages = () => AsyncIterable<readonly object[]>

export const journalPages = (store: RunStore, run: string, journal: Journal): Pages =>
  async function* () {
    for (let after = -1; ; ) {
      const rows = await store.rows(run, journal, { after, limit: PAGE })
      if (rows.length > 0) yield rows
      if (rows.length < PAGE) return
      after = (rows.at(-1) as JournalRow).seq
    }
  }

export async function* jsonlOf(read: Pages): AsyncGenerator<string> {
  for await (const rows of read()) yield rows.map((row) => `${JSON.stringify(row)}\n`).join("")
}

/**
 * RFC 4180 with a column for every key that any row has; the rows are read twice, since the first line names them all. `isGuarded`: a text that a
 * spreadsheet would compute gets an apostrophe.
 */
export async function* csvOf(read: Pages, newline = "\n"): AsyncGenerator<string> {
  const names = new Set<string>()
  for await (const rows of read()) for (const row of rows) for (const name of Object.keys(row)) names.add(name)
  const cell = (value: unknown): string => {
    if (value === undefined || value === null) return ""
    if (typeof value === "number" || typeof value === "boolean") return String(value)
    const text = typeof value === "string" ? value : JSON.stringify(value)
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
  }
  yield `${[...names].map(cell).join(",")}${newline}`
  const line = (row: object) => `${[...names].map((name) => cell((row as Record<string, unknown>)[name])).join(",")}${newline}`
  for await (const rows of read()) yield rows.map(line).join("")
}
