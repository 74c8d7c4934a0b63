/** Brings run directories into the database; doing it again changes nothing. */
import { isDeepStrictEqual } from "node:util"
import type { RunDatabase } from "./db-database.ts"
import { runDirectories, runRecord } from "./db-directory.ts"
import { JournalReader, journalPath } from "./db-journal.ts"
import { JOURNALS, type Journal, type RunSummary } from "./db-types.ts"

/** Rows of one transaction. */
const BATCH = 5000

export interface SyncedRun {
  readonly id: string
  readonly name: string
  /** Rows written by journal. */
  readonly rows: Readonly<Record<Journal, number>>
}

/** Reads every run under `runsDir`. `state` tells how a run stands as seen from its directory. */
export async function syncRuns(
  database: RunDatabase,
  runsDir: string,
  state: (id: string) => Promise<RunSummary | undefined>,
): Promise<SyncedRun[]> {
  const done: SyncedRun[] = []
  for (const directory of runDirectories(runsDir)) {
    const { id, name, config, host, startedAt, notes, tags } = runRecord(directory)
    await database.startRun({ id, name, config, host, startedAt })
    const rows = { metrics: 0, events: 0, samples: 0 }
    for (const kind of JOURNALS) rows[kind] = await syncJournal(database, id, directory, kind)
    if (notes !== "" || tags.length > 0) await database.setNotes(id, { notes, tags })
    const now = (await state(id))?.state
    await database.endRun(id, now === undefined || now === "running" || now === "stalled" ? undefined : now)
    done.push({ id, name, rows })
  }
  return done
}

/** Writes what the database lacks of a journal. Journals change at their end alone: where the last row is the same, all before it are. */
async function syncJournal(database: RunDatabase, id: string, directory: string, kind: Journal): Promise<number> {
  const path = journalPath(directory, kind)
  const through = await database.through(id, kind)
  const reader = new JournalReader(path)
  if (through >= 0) {
    let last = reader.read(BATCH).rows
    while (last.length > 0 && last.at(-1)!.seq < through) last = reader.read(BATCH).rows
    const [stored] = await database.rows(id, kind, { after: through - 1, limit: 1 })
    const own = last.find(({ seq }) => seq === through)
    if (own !== undefined && isDeepStrictEqual({ ...own }, { ...stored })) {
      const behind = last.filter(({ seq }) => seq > through)
      if (behind.length > 0) await database.append(id, kind, behind)
      return behind.length + (await writeRest(database, id, kind, reader))
    }
    await database.truncate(id, kind, 0)
  }
  return await writeRest(database, id, kind, through >= 0 ? new JournalReader(path) : reader)
}

async function writeRest(database: RunDatabase, id: string, kind: Journal, reader: JournalReader): Promise<number> {
  for (let count = 0; ; ) {
    const { rows } = reader.read(BATCH)
    if (rows.length === 0) return count
    await database.append(id, kind, rows)
    count += rows.length
  }
}
