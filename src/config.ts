/** The configuration: tables of every field, and loading of a command's values from all their sources. */
import { basename, dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { BENCH_SERVE } from "./config-bench.ts"
import { BENCH_GATE } from "./config-bench-gate.ts"
import { BENCH_LOOP } from "./config-bench-loop.ts"
import { BENCH } from "./config-bench-measure.ts"
import { BENCH_PEER } from "./config-bench-peer.ts"
import { BENCH_REPORT, BENCH_TUNE } from "./config-bench-tune.ts"
import { DIST_TEMPLATE } from "./config-dist.ts"
import { envName, type Fields } from "./config-field.ts"
import { FLEET_DEPLOY, FLEET_RUN, FLEET_SELECT, FLEET_SYNC_KEYS, FLEET_TRUST, FLEET_UPLOAD } from "./config-fleet.ts"
import {
  FLEET_BENCH,
  FLEET_DOWNLOAD,
  FLEET_LOGS,
  FLEET_RESUME,
  FLEET_SERVE,
  FLEET_STATUS,
  FLEET_STOP,
  FLEET_TRAIN,
  FLEET_WATCH,
} from "./config-fleet-jobs.ts"
import { EVAL, EXPORT, INFER } from "./config-infer.ts"
import { type Entry, Loaded } from "./config-merge.ts"
import { findPreset } from "./config-preset.ts"
import { RUNS_COMPARE, RUNS_EXPORT, RUNS_LS, RUNS_RM, RUNS_SHIP, RUNS_SHOW, RUNS_SYNC } from "./config-runs.ts"
import { SECRETS, SERVE } from "./config-serve.ts"
import { type Environment, environmentEntries, fileEntries, objectEntries } from "./config-source.ts"
import { DOCTOR, RUNTIME, TOKENIZER_BUILD, TOKENIZER_USE } from "./config-tool.ts"
import { TRAIN_FIELDS } from "./config-train.ts"
import { TUI } from "./config-tui.ts"

export { BENCH_SERVE, type BenchServeConfig, finishBenchServe, goodputLimits } from "./config-bench.ts"
export { BENCH_GATE, type BenchGateConfig } from "./config-bench-gate.ts"
export { BENCH_LOOP, type BenchLoopConfig, heritageLoop } from "./config-bench-loop.ts"
export {
  BENCH,
  BENCH_ALL,
  BENCH_COUNTERS,
  BENCH_INFER,
  BENCH_OPS,
  BENCH_OUTPUT,
  BENCH_STARTUP,
  BENCH_TOKENIZER,
  BENCH_TRAIN,
  type BenchConfig,
  pick,
} from "./config-bench-measure.ts"
export { BENCH_CUDA, BENCH_PEER, type BenchPeerConfig } from "./config-bench-peer.ts"
export { BENCH_REPORT, BENCH_TUNE, type BenchReportConfig, type BenchTuneConfig, heritageTune } from "./config-bench-tune.ts"
export { DIST_TEMPLATE, type DistTemplateConfig } from "./config-dist.ts"
export {
  camelName,
  envName,
  expected,
  type Field,
  type Fields,
  jsonSchema,
  kebabName,
  parseValue,
  type Resolved,
  type Values,
} from "./config-field.ts"
export {
  FLEET_DEPLOY,
  FLEET_HOST,
  FLEET_RUN,
  FLEET_SELECT,
  FLEET_SYNC_KEYS,
  FLEET_TRUST,
  FLEET_UPLOAD,
  type FleetDeployConfig,
  type FleetHostFields,
  type FleetRunConfig,
  type FleetSelectConfig,
  type FleetSyncKeysConfig,
  type FleetTrustConfig,
  type FleetUploadConfig,
} from "./config-fleet.ts"
export {
  FLEET_BENCH,
  FLEET_DOWNLOAD,
  FLEET_LOGS,
  FLEET_RESUME,
  FLEET_SERVE,
  FLEET_STATUS,
  FLEET_STOP,
  FLEET_TRAIN,
  FLEET_WATCH,
  type FleetBenchConfig,
  type FleetDownloadConfig,
  type FleetLogsConfig,
  type FleetResumeConfig,
  type FleetServeConfig,
  type FleetStatusConfig,
  type FleetStopConfig,
  type FleetTrainConfig,
  type FleetWatchConfig,
} from "./config-fleet-jobs.ts"
export {
  HOST_FILES,
  HOST_LOGS,
  HOST_READ,
  HOST_RESUME,
  HOST_START,
  HOST_STATUS,
  HOST_STOP,
  HOST_SUPERVISE,
  type HostFilesConfig,
  type HostLogsConfig,
  type HostReadConfig,
  type HostResumeConfig,
  type HostStartConfig,
  type HostStatusConfig,
  type HostStopConfig,
  type HostSuperviseConfig,
  JOB_POLICY,
} from "./config-host.ts"
export { EVAL, type EvalConfig, EXPORT, type ExportConfig, finishInfer, INFER, type InferConfig } from "./config-infer.ts"
export { type Entry, Loaded, type Naming, type Origin } from "./config-merge.ts"
export { checkModel, MODEL, type ModelConfig, modelFields, resolveModel } from "./config-model.ts"
export { findPreset, PRESETS } from "./config-preset.ts"
export {
  RUNS_COMPARE,
  RUNS_EXPORT,
  RUNS_LS,
  RUNS_RM,
  RUNS_SHIP,
  RUNS_SHOW,
  RUNS_SYNC,
  type RunsCompareConfig,
  type RunsExportConfig,
  type RunsLsConfig,
  type RunsRmConfig,
  type RunsShipConfig,
  type RunsShowConfig,
  type RunsSyncConfig,
} from "./config-runs.ts"
export { finishServe, SECRETS, SERVE, type ServeConfig } from "./config-serve.ts"
export { BPE_VOCABULARY } from "./config-shared.ts"
export { type Environment, readEnvironment } from "./config-source.ts"
export {
  DOCTOR,
  type DoctorConfig,
  RUNTIME,
  TOKENIZER_BUILD,
  TOKENIZER_USE,
  type TokenizerBuildConfig,
  type TokenizerUseConfig,
} from "./config-tool.ts"
export { finishTrain, TRAIN, TRAIN_FIELDS, type TrainConfig, type TrainInput } from "./config-train.ts"
export { TUI, type TuiConfig } from "./config-tui.ts"

/** Every table; what is not in one of them is not a setting. */
export const TABLES: readonly Fields[] = [
  TRAIN_FIELDS,
  DIST_TEMPLATE,
  INFER,
  EVAL,
  EXPORT,
  TOKENIZER_BUILD,
  TOKENIZER_USE,
  DOCTOR,
  SERVE,
  SECRETS,
  BENCH,
  BENCH_GATE,
  BENCH_LOOP,
  BENCH_PEER,
  BENCH_REPORT,
  BENCH_SERVE,
  BENCH_TUNE,
  TUI,
  RUNS_LS,
  RUNS_SHOW,
  RUNS_COMPARE,
  RUNS_EXPORT,
  RUNS_RM,
  RUNS_SYNC,
  RUNS_SHIP,
  FLEET_SELECT,
  FLEET_BENCH,
  FLEET_DOWNLOAD,
  FLEET_LOGS,
  FLEET_RESUME,
  FLEET_SERVE,
  FLEET_STATUS,
  FLEET_STOP,
  FLEET_TRAIN,
  FLEET_WATCH,
  FLEET_TRUST,
  FLEET_SYNC_KEYS,
  FLEET_DEPLOY,
  FLEET_RUN,
  FLEET_UPLOAD,
  RUNTIME,
]

/** Names of all environment variables the program knows. */
export const ENVIRONMENT_NAMES: ReadonlySet<string> = new Set(TABLES.flatMap((fields) => Object.keys(fields).map(envName)))

/** Where a command's values come from; all but the flags are optional in tests. */
export interface Sources {
  readonly flags: readonly Entry[]
  readonly environment: Environment
  /** Values of the run or model that is continued: { field: value } and what to call it. */
  readonly base?: { readonly values: Readonly<Record<string, unknown>>; readonly from: string } | undefined
}

/**
 * Merges default < preset < base < --config file < environment < flag. The preset and the file may themselves be named in a stronger source.
 * Throws AlphaError (EXIT.usage) for unknown names and bad values.
 */
export function loadConfig<F extends Fields>(fields: F, { flags, environment, base }: Sources): Loaded<F> {
  const outer = [...environmentEntries(fields, environment, ENVIRONMENT_NAMES), ...flags]
  const path = lastText(outer, "config")
  const file = path === undefined ? [] : fileEntries(fields, path)
  const basis = base === undefined ? [] : objectEntries(fields, base.values, "base", base.from)
  const entries = [...basis, ...file, ...outer]
  return new Loaded(fields, [...presetEntries(fields, entries), ...entries])
}

function presetEntries(fields: Fields, entries: readonly Entry[]): Entry[] {
  // A list of presets names what is measured, and sets nothing.
  const name = fields.preset?.kind === "text" ? lastText(entries, "preset") : undefined
  if (name === undefined) return []
  const values = findPreset(name).values({ isRandom: lastText(entries, "data") === "random" })
  const from = `preset ${name}`
  return Object.entries(values).map(([field, raw]) => ({ name: field, raw, layer: "preset", from }))
}

/** The strongest text given for a field before merging; entries are in rising order of strength. */
function lastText(entries: readonly Entry[], name: string): string | undefined {
  const raw = entries.findLast((entry) => entry.name === name)?.raw
  return typeof raw === "string" && raw !== "none" ? raw : undefined
}

/** Values with origins as run records and --print-config --json write them, and --config reads them. */
export function recordConfig<F extends Fields>(
  loaded: Loaded<F>,
): Record<string, { value: unknown; origin: { layer: string; from: string } }> {
  return Object.fromEntries(
    Object.keys(loaded.fields).map((name) => [name, { value: loaded.values[name] ?? null, origin: loaded.origins[name]! }]),
  )
}

/** Directory of the run called `run`: a bare name stands under runsDir, anything with a slash is a path. Throws where its name begins with a dot. */
export function runDirectory(runsDir: string, run: string): { directory: string; name: string } {
  if (basename(run).startsWith(".")) {
    throw new AlphaError(`run ${run}: its name begins with a dot, as what is hidden does`, { hint: "--run=NAME", code: EXIT.usage })
  }
  const directory = run.includes("/") ? join(dirname(run), basename(run)) : join(runsDir, run)
  return { directory, name: basename(directory) }
}
