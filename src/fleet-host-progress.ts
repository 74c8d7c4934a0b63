/** How far a training run has come, from the ends of its journals. */
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync, statSync } from "node:fs"
import { join } from "node:path"
import { readJson } from "./base-file.ts"
import { journalPath } from "./db.ts"

export interface Progress {
  readonly step: number
  readonly steps: number | null
  readonly loss: number | null
  readonly valLoss: number | null
  readonly tokensPerS: number | null
  readonly msPerStep: number | null
  /** How the run itself says that it ended: "completed", "stopped", "early_stop", "crash"; null while it goes on. */
  readonly ended: string | null
}

/** Enough for hundreds of rows. */
const TAIL_BYTES = 64 << 10

/** The whole lines among the last bytes of a file; none where there is no file. */
export function lastLines(path: string, bytes = TAIL_BYTES): string[] {
  if (!existsSync(path)) return []
  const file = openSync(path, "r")
  try {
    const { size } = fstatSync(file)
    const from = Math.max(0, size - bytes)
    const piece = new Uint8Array(size - from)
    const lines = new TextDecoder().decode(piece.subarray(0, readSync(file, piece, 0, piece.length, from))).split("\n")
    return lines.slice(from > 0 ? 1 : 0, -1)
  } finally {
    closeSync(file)
  }
}

function rows(path: string): Record<string, unknown>[] {
  return lastLines(path).flatMap((line) => {
    try {
      return [JSON.parse(line) as Record<string, unknown>]
    } catch {
      return [] // a line that a crash tore
    }
  })
}

const numeric = (value: unknown): number | null => (typeof value === "number" && Number.isFinite(value) ? value : null)

/** Undefined where the run has not begun to write. */
export function runProgress(directory: string): Progress | undefined {
  if (!existsSync(join(directory, "config.json"))) return undefined
  const { config } = readJson(join(directory, "config.json")) as { config?: Record<string, { value?: unknown }> }
  const metrics = rows(journalPath(directory, "metrics"))
  const events = rows(journalPath(directory, "events"))
  const step = metrics.findLast(({ type }) => type === "step")
  const evaluation = metrics.findLast(({ type }) => type === "eval")
  const last = events.findLast(({ type }) => type === "start" || type === "summary" || type === "crash")
  const ended = last?.type === "summary" ? String(last.status) : last?.type === "crash" ? "crash" : null
  return {
    step: Math.max(
      numeric(step?.step) ?? 0,
      numeric(evaluation?.step) ?? 0,
      numeric(last?.steps) !== null && ended !== null ? Number(last?.steps) : 0,
    ),
    steps: numeric(config?.steps?.value),
    loss: numeric(step?.loss),
    valLoss: numeric(evaluation?.val_loss),
    tokensPerS: numeric(step?.tokens_per_s),
    msPerStep: numeric(step?.ms_per_step),
    ended,
  }
}

/** How a rank that is not the first says that it ended, in the short log that it alone writes in this directory; null where it has not. */
export function rankEnd(directory: string): string | null {
  const logs = existsSync(directory) ? readdirSync(directory).filter((name) => /^rank-\d+\.jsonl$/.test(name)) : []
  const all = logs.flatMap((name) => rows(join(directory, name))).filter(({ type }) => type === "start" || type === "summary")
  const last = all.toSorted((a, b) => Number(a.time) - Number(b.time)).at(-1)
  return last?.type === "summary" ? String(last.status) : null
}

/** When one of the files was last written to; 0 where there is none. */
export const lastWrite = (paths: readonly string[]): number =>
  Math.max(0, ...paths.map((path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0))
