/** The fields of `alpha runs`: ls, show, compare, export, rm, sync, ship. */
import { bool, choice, inGroup, int, list, text, type Values } from "./config-field.ts"
import { FILES } from "./config-shared.ts"

const DATABASE = inGroup("Database", {
  database: text("database of runs: a file, or the URL of a Turso or sqld server", { derive: "TURSO_DATABASE_URL, else alpha.db" }),
})

/** Where runs are read from. */
const STORE = {
  ...inGroup("Database", { from: choice("where runs are looked for", ["directories", "database"], { default: "directories" }) }),
  ...DATABASE,
  ...FILES,
}

const RUN = { run: text("name or id of the run", {}) }

export const RUNS_LS = {
  ...inGroup("Show", {
    filter: text("part of the name", {}),
    state: choice("runs in this state alone", ["running", "stalled", "crashed", "finished", "stopped"], { optional: true }),
    tag: text("runs with this tag alone", {}),
    limit: int("most runs shown, the one written to last first", { default: 50, min: 1 }),
  }),
  ...STORE,
}
export type RunsLsConfig = Values<typeof RUNS_LS>

export const RUNS_SHOW = { ...inGroup("Show", RUN), ...STORE }
export type RunsShowConfig = Values<typeof RUNS_SHOW>

export const RUNS_COMPARE = { ...inGroup("Show", { runs: list("names or ids of two runs or more", { default: [] }) }), ...STORE }
export type RunsCompareConfig = Values<typeof RUNS_COMPARE>

export const RUNS_EXPORT = {
  ...inGroup("Output", {
    ...RUN,
    journal: choice("which rows", ["metrics", "events", "samples"], { default: "metrics" }),
    format: choice("csv, jsonl, or tensorboard: metrics and samples as an event file", ["csv", "jsonl", "tensorboard"], { default: "csv" }),
    out: text("file to write, for tensorboard a directory; without it standard output", {}),
  }),
  ...STORE,
}
export type RunsExportConfig = Values<typeof RUNS_EXPORT>

export const RUNS_RM = { ...inGroup("Show", { ...RUN, yes: bool("delete it", { default: false }) }), ...STORE }
export type RunsRmConfig = Values<typeof RUNS_RM>

export const RUNS_SYNC = { ...DATABASE, ...FILES }
export type RunsSyncConfig = Values<typeof RUNS_SYNC>

export const RUNS_SHIP = { ...inGroup("Show", RUN), ...FILES }
export type RunsShipConfig = Values<typeof RUNS_SHIP>
