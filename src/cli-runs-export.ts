/** `alpha runs export`: a run's rows as CSV, JSON lines or TensorBoard's event file, a piece at a time. */
import { closeSync, fstatSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs"
import { hostname } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile } from "./base-file.ts"
import { formatBytes } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { found, withStore } from "./cli-runs.ts"
import type { RunsExportConfig } from "./config.ts"
import {
  csvOf,
  journalPages,
  jsonlOf,
  type Pages,
  type RunStore,
  type RunSummary,
  tensorboardFileName,
  tensorboardReader,
  tensorboardRecords,
  tensorboardVersion,
} from "./db.ts"

type Pieces = AsyncIterable<string | Uint8Array>

/** Pages that are counted as they are read. */
function counted(pages: Pages, count: { rows: number }): Pages {
  return async function* () {
    count.rows = 0
    for await (const rows of pages()) {
      count.rows += rows.length
      yield rows
    }
  }
}

async function* eventFile(store: RunStore, run: RunSummary, count: { rows: number }): Pieces {
  yield tensorboardVersion(run.startedAt)
  const next = tensorboardReader(run.startedAt)
  for (const journal of ["metrics", "samples"] as const) {
    for await (const rows of journalPages(store, run.id, journal)()) {
      count.rows += rows.length
      const made = rows.flatMap((row) => next(row as Record<string, unknown>) ?? [])
      yield Buffer.concat(made.flatMap((row) => [...tensorboardRecords(row)]))
    }
  }
}

/** Writes a file, or standard output, whose reader is waited for; returns the bytes. */
async function write(path: string | undefined, pieces: Pieces): Promise<number> {
  let bytes = 0
  if (path === undefined) {
    for await (const piece of pieces) {
      bytes += Buffer.byteLength(piece)
      if (!process.stdout.write(piece)) await new Promise((resolve) => void process.stdout.once("drain", () => resolve(undefined)))
    }
    return bytes
  }
  const file = withFile("write", path, () => openSync(path, "w"))
  try {
    for await (const piece of pieces) {
      const data = typeof piece === "string" ? Buffer.from(piece) : piece
      withFile("write", path, () => {
        for (let done = 0; done < data.length; ) done += writeSync(file, data, done, data.length - done)
      })
      bytes += data.length
    }
  } catch (error) {
    if (fstatSync(file).isFile()) rmSync(path)
    throw error
  } finally {
    closeSync(file)
  }
  return bytes
}

export async function run({ config, environment, json, print }: Invocation<RunsExportConfig>): Promise<undefined> {
  const { journal, format, out } = config
  if (out === undefined && (json || format === "tensorboard")) {
    throw new AlphaError("runs export: no place to write is given", { hint: "add --out=PATH", code: EXIT.usage })
  }
  await withStore(config, environment, async (store) => {
    const run = await found(store, config.run, "export")
    const count = { rows: 0 }
    const pages = counted(journalPages(store, run.id, journal), count)
    let path = out
    if (format === "tensorboard") {
      path = join(out!, tensorboardFileName(run.startedAt, run.host ?? hostname()))
      withFile("write", path, () => mkdirSync(out!, { recursive: true }))
    }
    const pieces = format === "tensorboard" ? eventFile(store, run, count) : format === "csv" ? csvOf(pages) : jsonlOf(pages)
    const bytes = await write(path, pieces)
    if (path !== undefined) print({ run: run.id, format, rows: count.rows, bytes, out: path }, () => `${path}: ${formatBytes(bytes)}`)
  })
}
