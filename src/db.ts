/** Runs on record: their journals, the database, and what views read of both. */
export * from "./db-types.ts"
