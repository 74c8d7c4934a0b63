/** `alpha train`: starts or continues a run and shows it. */
import { existsSync } from "node:fs"
import { basename, join, resolve } from "node:path"
import { buildInfo } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Base, Invocation } from "./cli-command.ts"
import { onStop } from "./cli-signal.ts"
import { jsonLines, trainConsole } from "./cli-train-console.ts"
import { launchOf, launchText, openRank } from "./cli-train-ranks.ts"
import { openRemote } from "./cli-train-remote.ts"
import { serveTraining } from "./cli-train-serve.ts"
import { spawnRanks } from "./cli-train-spawn.ts"
import { modelFields, recordConfig, runDirectory, type TRAIN_FIELDS, type TrainInput, type Values } from "./config.ts"
import { findTuned, startEngine, tunedFile } from "./engine.ts"
import { modelDirectory, readConfig } from "./gpt.ts"
import { newestRun, type RunRecord, readRecord, trainingData } from "./train.ts"

/** The configuration of the run that is continued, or the model that is started from. */
export async function base(values: Values<typeof TRAIN_FIELDS>): Promise<Base | undefined> {
  if (values.resume !== undefined && !isNew(values)) {
    const directory = resumed(values)
    const record = readRecord(directory)
    const other = values.run === undefined ? directory : runDirectory(values.runsDir, values.run).directory
    if (resolve(other) !== resolve(directory))
      throw new AlphaError(`train: resume ${directory} (--resume) and run ${other} (--run) are two runs`, {
        hint: `leave --run out; a new run from its weights: --init=${directory} --run=NAME`,
        code: EXIT.usage,
      })
    // Whether a process also serves is its own affair; what a preset wished for stays its wish.
    const isWish = (name: string) => ["tokenizer", "vocabSize"].includes(name) && layerOf(record, name) === "preset"
    const settings = Object.fromEntries(Object.entries(record.config).filter(([name]) => name !== "serve" && !isWish(name)))
    return { values: { ...settings, ...keptWarmup(record), run: directory, resume: directory }, from: `run ${directory}` }
  }
  const tuned = tunedValues(values)
  if (values.init === undefined) return tuned
  const { model } = readConfig(modelDirectory(values.init, values.runsDir))
  const { vocabSize: _, blockSize, ...fields } = modelFields(model)
  return { values: { ...tuned?.values, ...fields, ...(model.position === "learned" ? { blockSize } : {}) }, from: values.init }
}

type Tunable = Pick<Values<typeof TRAIN_FIELDS>, "tuned" | "preset" | "precision" | "batch" | "device" | "data" | "dist" | "gpus">

/** What the tuner found for this run. Random data is for measurements, which have settings of their own; ranks share a machine. */
function tunedFor({ tuned, preset, precision, batch, device, data, gpus }: Tunable): ReturnType<typeof findTuned> {
  if (!tuned || preset === undefined || data === "random" || gpus !== undefined) return undefined
  return findTuned(tunedFile(), { preset, precision, batch, device })
}

function tunedValues(values: Tunable): Base | undefined {
  const found = tunedFor(values)
  return found === undefined || found.stale !== undefined ? undefined : { values: found.entry.settings, from: "alpha bench tune" }
}

/** Names the settings that the tuner chose and nobody overrode, or says why they are not used. */
function tunedNote({ config, loaded }: Pick<Invocation<TrainInput, typeof TRAIN_FIELDS>, "config" | "loaded">): string | undefined {
  const found = tunedFor(config)
  if (found === undefined) return undefined
  const { settings, date, rate, usual } = found.entry
  if (found.stale !== undefined)
    return `tuned settings of ${date} are not used: ${found.stale} (alpha bench tune ${config.preset} renews them)`
  const used = Object.entries(settings).filter(([name]) => loaded.origins[name as keyof typeof loaded.origins].layer === "base")
  if (used.length === 0) return undefined
  const words = used.map(([name, value]) => `${name}=${value}`).join(" ")
  return `tuned: ${words} (alpha bench tune, ${date}: ${(100 * (rate / usual - 1)).toFixed(1)} % faster; --no-tuned leaves them out)`
}

/** --resume=or-start: nothing to resume yet. Throws where the run has no name, for the next start would not find it. */
function isNew({ resume, run, runsDir }: Pick<Values<typeof TRAIN_FIELDS>, "resume" | "run" | "runsDir">): boolean {
  if (resume !== "or-start") return false
  if (run === undefined) throw new AlphaError("train: --resume=or-start needs the run's name", { hint: "add --run=NAME", code: EXIT.usage })
  return !existsSync(join(runDirectory(runsDir, run).directory, "config.json"))
}

const layerOf = ({ config }: RunRecord, name: string): unknown => (config[name]?.origin as { layer?: unknown } | undefined)?.layer

/** A warm-up that was derived from the steps is that of the run for good: with more --steps the learning rate would jump back into it. */
function keptWarmup({ config }: RunRecord): Record<string, unknown> {
  const value = config.warmupSteps?.value
  return value === undefined || value === null ? {} : { warmupSteps: value }
}

/** Directory of the run that --resume means. */
function resumed({ resume, run, runsDir }: Pick<Values<typeof TRAIN_FIELDS>, "resume" | "run" | "runsDir">): string {
  if (resume === undefined || ["newest", "or-start"].includes(resume))
    return run === undefined ? newestRun(runsDir) : runDirectory(runsDir, run).directory
  return existsSync(join(resume, "config.json")) ? resume : runDirectory(runsDir, resume).directory
}

/** Trains; returns 0 also when a signal stopped it: after a checkpoint, or before the first step with nothing to save. */
export async function run(invocation: Invocation<TrainInput, typeof TRAIN_FIELDS>): Promise<number | undefined> {
  const { config, loaded, environment, json } = invocation
  trainingData(config)
  const launch = launchOf(config)
  if (launch !== undefined && launch.spawns > 1)
    return await spawnRanks(launch, invocation.argv, (text) => void process.stderr.write(`${text}\n`))
  const resume = config.resume !== undefined && !isNew(config)
  const directory = resume ? resumed(config) : runDirectory(config.runsDir, config.run ?? defaultName(config)).directory
  const changes = resume ? changedBatches(directory, config) : []
  const { commit, version } = buildInfo()
  const isFirst = launch === undefined || launch.rank === 0
  const view = json ? jsonLines() : trainConsole()
  if (launch !== undefined) view.note(launchText(launch))
  const tuned = resume ? undefined : tunedNote(invocation)
  if (tuned !== undefined) view.note(tuned)
  const ranks = launch === undefined ? undefined : await openRank(config, launch, view.note)
  const device = ranks?.device ?? config.device
  const threads = ranks?.threads ?? config.threads
  const remote = isFirst ? openRemote(environment, { directory, withOptimizer: config.remoteOptimizer }, view.note) : undefined
  const engine = startEngine()
  const server =
    config.serve === undefined || !isFirst
      ? undefined
      : serveTraining({ ...config, device, threads }, environment, { engine, directory, view, json })
  for (const change of changes) view.note(change)
  const job = engine.start(
    "train",
    {
      values: config,
      record: { config: resume ? keptOrigins(directory, recordConfig(loaded)) : recordConfig(loaded), seed: config.seed, commit, version },
      directory,
      resume,
      ...(remote === undefined ? {} : { hasWebhook: remote.hasWebhook }),
      dist: ranks?.join,
    },
    { device, threads, debugGpu: config.debugGpu },
    {
      onEvent: (event) => {
        ranks?.show(event)
        if (isFirst || event.type === "note") view.show(event)
        remote?.show(event)
      },
      onNote: view.note,
    },
  )
  const release = onStop(
    () => {
      job.stop()
      view.note(`stopping; what is trained is saved first${ranks === undefined ? " (again: now)" : ""}`)
      ranks?.stop()
    },
    view.close,
    ranks === undefined ? "run" : "rank",
  )
  try {
    await job.result
    await ranks?.end()
    await Promise.all([remote?.end(), server?.close()])
  } catch (error) {
    const isStopped = error instanceof AlphaError && error.code === EXIT.ok
    await ranks?.fail(error as Error)
    await Promise.all([remote?.end(isStopped ? undefined : (error as Error)), server?.close()])
    if (!isStopped) throw error
    view.note(error.message)
  } finally {
    view.close()
    engine.close()
    release()
  }
  return EXIT.ok
}

/** Where the settings of a continued run first came from; those that this start changes, from where they are changed. */
function keptOrigins(directory: string, config: RunRecord["config"]): RunRecord["config"] {
  const before = readRecord(directory).config
  const rows = Object.entries(config).map(([name, row]) => {
    const isKept = (row.origin as { layer?: unknown }).layer === "base"
    return [name, isKept ? { ...row, origin: before[name]?.origin ?? row.origin } : row]
  })
  return Object.fromEntries(rows)
}

/** Settings that what a checkpoint holds was made with: under another one its moments, or the position in its data, mean something else. */
const KEPT = ["optimizer", "precision", "order", "documentBoundaries", "maskPrompt"] as const
/** Settings that a run may go on with differently; which windows are drawn depends on them. */
const DRAWN = ["batch", "accumSteps", "context"] as const

/**
 * Refuses what a resumed run cannot change and tells what it may. Sequential data counts windows from the beginning, so that other batches or
 * windows would skip or repeat some; random windows are drawn anew for each step.
 */
function changedBatches(directory: string, config: TrainInput): string[] {
  const { config: before } = readRecord(directory)
  const isOther = (name: keyof TrainInput) => before[name]?.value !== undefined && before[name].value !== config[name]
  const refuse = (name: keyof TrainInput, because = "") => {
    throw new AlphaError(
      `run ${directory} was trained with ${name} ${before[name]?.value}, the configuration says ${config[name]}${because}`,
      {
        hint: `leave --${name} out, or start a new run from its weights: --init=${directory}`,
        code: EXIT.usage,
      },
    )
  }
  for (const name of KEPT) if (isOther(name)) refuse(name)
  const changed = DRAWN.filter(isOther)
  const rowsBefore = Number(before.batch?.value) * Number(before.accumSteps?.value)
  const isSameStep = !isOther("context") && rowsBefore === config.batch * config.accumSteps
  if (changed.length === 0) return []
  if (config.order === "sequential" && !isSameStep)
    refuse(changed.at(-1) as keyof TrainInput, ": sequential data would jump to another place")
  const list = changed.map((name) => `${name} ${config[name]} instead of ${before[name]?.value}`).join(", ")
  return [
    `run ${directory} goes on with ${list}: ${isSameStep ? "the same windows, sums rounded otherwise" : "other windows than it would have seen"}`,
  ]
}

/** Preset or data, date and time: novels-20260131-142501. */
export function defaultName({ preset, data }: TrainInput): string {
  const stem = preset ?? (data === undefined || data === "-" ? "run" : basename(data).replace(/\.[^.]*$/, ""))
  const time = new Date().toISOString().replace(/[-:]/g, "").replace("T", "-").slice(0, 15)
  return `${stem.replace(/[^\w.-]+/g, "_") || "run"}-${time}`
}
