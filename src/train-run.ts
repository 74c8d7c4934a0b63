/** The run directory: its files, its journals and the point a run resumes from. */
import { appendFileSync, existsSync, readdirSync, rmdirSync, rmSync, statSync } from "node:fs"
import { dirname, join, resolve } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { makeDirectory, readJson, writeAtomic } from "./base-file.ts"
import { JOURNALS, type Journal, JournalWriter, journalPath, rewindJournal } from "./db.ts"

/** What config.json of a run holds: every value with its origin, and what it ran on. */
export interface RunRecord {
  /** Names the run for good, wherever its directory goes; absent in runs of older versions. */
  readonly id?: string
  readonly config: Readonly<Record<string, { readonly value: unknown; readonly origin: unknown }>>
  readonly seed: number
  readonly dataHash: string
  readonly tokenizerHash: string | undefined
  readonly commit: string
  readonly version: string
  readonly device: string
}

/** Where runs of one directory keep tokens. */
export const CACHE = ".cache"

/** Creates the directory of a new run; returns the first directory that was not there. Throws when a run of that name already has content. */
export function createRun(dir: string): string | undefined {
  if (existsSync(join(dir, "config.json"))) {
    throw new AlphaError(`run ${dir} exists`, { hint: `continue it with --resume=${dir}, or choose another --run`, code: EXIT.usage })
  }
  return makeDirectory(join(dir, "checkpoints"))
}

/** Removes what `createRun` made, from `made` on, when the run failed before it had a record; `whole`: its record and journals too. */
export function discardRun(dir: string, made: string | undefined, whole: boolean): void {
  if (whole)
    for (const name of ["config.json", "alerts.jsonl", ...JOURNALS.map((journal) => `${journal}.jsonl`)])
      rmSync(join(dir, name), { force: true })
  if (existsSync(join(dir, "config.json"))) return
  for (const part of [join(dir, "checkpoints"), dir]) {
    if (existsSync(part) && readdirSync(part).every((name) => name === "lock")) rmSync(part, { recursive: true })
  }
  if (made === undefined) return
  for (let parent = resolve(dir, ".."); parent.startsWith(resolve(made)); parent = dirname(parent)) {
    if (isEmpty(join(parent, CACHE))) rmdirSync(join(parent, CACHE))
    if (!isEmpty(parent)) return
    rmdirSync(parent)
  }
}

const isEmpty = (path: string): boolean => existsSync(path) && readdirSync(path).length === 0

/** The configuration with what names the data for good in place of standard input, which cannot be read again. */
export function withSources(
  config: RunRecord["config"],
  { source, valSource }: { readonly source: string; readonly valSource: string | undefined },
): RunRecord["config"] {
  const places = Object.entries({ data: source, valData: valSource })
  const rows = places.flatMap(([name, value]) => (config[name]?.value === "-" ? [[name, { ...config[name], value }]] : []))
  return { ...config, ...Object.fromEntries(rows) }
}

export const writeRecord = (dir: string, record: RunRecord): void =>
  writeAtomic(join(dir, "config.json"), `${JSON.stringify(record, null, 1)}\n`)

/** config.json of a run. Throws when `dir` is not a run. */
export function readRecord(dir: string): RunRecord {
  const path = join(dir, "config.json")
  if (!existsSync(path))
    throw new AlphaError(`${dir} is not a run: ${path} is missing`, { hint: "alpha train starts one", code: EXIT.data })
  return readJson(path) as RunRecord
}

/** The run under `runsDir` that was written to last. Throws when there is none. */
export function newestRun(runsDir: string): string {
  const runs = existsSync(runsDir) ? readdirSync(runsDir).filter((name) => existsSync(join(runsDir, name, "config.json"))) : []
  const age = (name: string) =>
    statSync(join(runsDir, name, existsSync(join(runsDir, name, "metrics.jsonl")) ? "metrics.jsonl" : "config.json")).mtimeMs
  const newest = runs.toSorted((a, b) => age(b) - age(a))[0]
  if (newest === undefined)
    throw new AlphaError(`${runsDir}: no run to resume`, { hint: "name its directory: --resume=DIR", code: EXIT.data })
  return join(runsDir, newest)
}

/** Prepares the journals of a run that continues after `step`: rows of later steps, which will be written again, and a torn tail are cut off. */
export function rewindJournals(dir: string, step: number): void {
  for (const journal of JOURNALS) rewindJournal(journalPath(dir, journal), step)
}

/** What a rank but the first tells, beside rank 0's journals: rank-1.jsonl. */
export class RankLog {
  readonly #path: string

  constructor(directory: string, rank: number) {
    makeDirectory(directory)
    this.#path = join(directory, `rank-${rank}.jsonl`)
  }

  append(event: { readonly type: string }): void {
    if (["start", "note", "summary"].includes(event.type)) appendFileSync(this.#path, `${JSON.stringify({ time: Date.now(), ...event })}\n`)
  }
}

/** The journals of a run; each is opened by its first row. */
export class Journals {
  readonly #open = new Map<Journal, JournalWriter>()

  constructor(private readonly directory: string) {}

  append(journal: Journal, row: object): void {
    const writer = this.#open.get(journal) ?? new JournalWriter(journalPath(this.directory, journal))
    this.#open.set(journal, writer)
    writer.append(row)
  }

  close(): void {
    for (const writer of this.#open.values()) writer.close()
    this.#open.clear()
  }
}
