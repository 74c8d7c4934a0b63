/** Runs on record: their journals, the database, and what views read of both. */

export { metricName } from "./db-blocks.ts"
export type { DatabasePlace } from "./db-client.ts"
export { type NewRun, RunDatabase } from "./db-database.ts"
export { DirectoryStore, filterRuns, runDirectories, runRecord } from "./db-directory.ts"
export { domainsOf } from "./db-domain.ts"
export { ENDS } from "./db-facts.ts"
export { countJournal, type JournalPlace, JournalReader, JournalWriter, journalPath, readJournal, rewindJournal } from "./db-journal.ts"
export { databasePlace } from "./db-place.ts"
export { type Beat, beats, readBeat, writeBeat } from "./db-state.ts"
export { RunMirror, type SyncedRun, syncRuns } from "./db-sync.ts"
export { type TensorboardRow, tensorboardFile, tensorboardFileName, tensorboardRows } from "./db-tensorboard.ts"
export * from "./db-types.ts"
