/** CSV files that grow by rows: read by column name, appended to, their header kept. */
import { existsSync } from "node:fs"
import { dirname } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { makeDirectory, readText, writeAtomic } from "./base-file.ts"

const quoted = (cell: string): string => (/[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)

/** Rows of cells as CSV (RFC 4180). */
export const csvText = (rows: readonly (readonly string[])[]): string => rows.map((row) => `${row.map(quoted).join(",")}\n`).join("")

/** Cells of a CSV text. Throws AlphaError where a quote is never closed. */
export function parseCsv(text: string, path = "CSV"): string[][] {
  const rows: string[][] = []
  const field = /("((?:[^"]|"")*)"|[^",\n\r]*)(,|\r?\n|$)/y
  let row: string[] = []
  while (field.lastIndex < text.length) {
    const at = field.lastIndex
    const match = field.exec(text)
    if (match === null) throw new AlphaError(`${path}: bad quotes at offset ${at}`, { code: EXIT.data })
    row.push(match[2]?.replaceAll('""', '"') ?? match[1]!)
    if (match[3] === "," && field.lastIndex < text.length) continue
    if (match[3] === ",") row.push("")
    rows.push(row)
    row = []
  }
  return rows
}

export type CsvRow = Readonly<Record<string, string>>

/** Rows of a file by column name; none where the file is not there. */
export function readCsv(path: string): CsvRow[] {
  if (!existsSync(path)) return []
  const [head = [], ...rows] = parseCsv(readText(path), path)
  return rows.map((row) => Object.fromEntries(head.map((name, i) => [name, row[i] ?? ""])))
}

/** Adds rows under `head`; columns that the file has beyond it stay, and those it lacks are added to it. */
export function appendCsv(path: string, head: readonly string[], added: readonly Readonly<Record<string, string | number>>[]): void {
  const before = existsSync(path) ? parseCsv(readText(path), path) : []
  const known = before[0] ?? []
  const all = [...known, ...head.filter((name) => !known.includes(name))]
  const rows = [
    ...before.slice(1).map((row) => all.map((_, i) => row[i] ?? "")),
    ...added.map((row) => all.map((name) => String(row[name] ?? ""))),
  ]
  makeDirectory(dirname(path))
  writeAtomic(path, csvText([all, ...rows]))
}
