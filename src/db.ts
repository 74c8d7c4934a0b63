/** Runs on record: their journals, the database, and what views read of both. */

export { JournalReader, JournalWriter, journalPath, readJournal, rewindJournal } from "./db-journal.ts"
export { type TensorboardRow, tensorboardFile, tensorboardFileName, tensorboardRows } from "./db-tensorboard.ts"
export * from "./db-types.ts"
