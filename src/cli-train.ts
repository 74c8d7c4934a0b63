/** `alpha train`: starts or continues a run and shows it. */
import { existsSync } from "node:fs"
import { basename, join, resolve } from "node:path"
import { buildInfo } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Base, Invocation } from "./cli-command.ts"
import { jsonLines, trainConsole } from "./cli-train-console.ts"
import { modelFields, recordConfig, runDirectory, type TRAIN_FIELDS, type TrainInput, type Values } from "./config.ts"
import { startEngine } from "./engine.ts"
import { modelDirectory, readConfig } from "./gpt.ts"
import { newestRun, readRecord } from "./train.ts"

/** The configuration of the run that is continued, or the model that is started from. */
export async function base(values: Values<typeof TRAIN_FIELDS>): Promise<Base | undefined> {
  if (values.resume !== undefined) {
    const directory = resumed(values)
    const record = readRecord(directory)
    const other = values.run === undefined ? directory : runDirectory(values.runsDir, values.run).directory
    if (resolve(other) !== resolve(directory))
      throw new AlphaError(`train: resume ${directory} (--resume) and run ${other} (--run) are two runs`, {
        hint: `leave --run out; a new run from its weights: --init=${directory} --run=NAME`,
        code: EXIT.usage,
      })
    return { values: { ...record.config, run: directory, resume: directory }, from: `run ${directory}` }
  }
  if (values.init === undefined) return undefined
  const { model } = readConfig(modelDirectory(values.init, values.runsDir))
  const { vocabSize: _, blockSize, ...fields } = modelFields(model)
  return { values: { ...fields, ...(model.position === "learned" ? { blockSize } : {}) }, from: values.init }
}

/** Directory of the run that --resume means. */
function resumed({ resume, run, runsDir }: Pick<Values<typeof TRAIN_FIELDS>, "resume" | "run" | "runsDir">): string {
  if (resume === undefined || resume === "newest") return run === undefined ? newestRun(runsDir) : runDirectory(runsDir, run).directory
  return existsSync(join(resume, "config.json")) ? resume : runDirectory(runsDir, resume).directory
}

/** Trains; returns 0 also when a signal stopped it after a checkpoint. */
export async function run({ config, loaded, json }: Invocation<TrainInput, typeof TRAIN_FIELDS>): Promise<number | undefined> {
  const resume = config.resume !== undefined
  const directory = resume ? resumed(config) : runDirectory(config.runsDir, config.run ?? defaultName(config)).directory
  if (resume) refuseOther(directory, config)
  const { commit, version } = buildInfo()
  const engine = startEngine()
  const view = json ? jsonLines() : trainConsole()
  const job = engine.start(
    "train",
    { values: config, record: { config: recordConfig(loaded), seed: config.seed, commit, version }, directory, resume },
    { device: config.device, threads: config.threads },
    { onEvent: view.show, onNote: view.note },
  )
  let signals = 0
  const onSignal = () => {
    if (++signals > 1) {
      view.close()
      process.exit(EXIT.interrupted)
    }
    view.note("stopping after this step, then a checkpoint (again: now)")
    job.stop()
  }
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal)
  try {
    await job.result
    return EXIT.ok
  } finally {
    view.close()
    engine.close()
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal)
  }
}

/** Settings that what a checkpoint holds was made with: under another one its moments and counters mean something else. */
const KEPT = ["optimizer", "precision", "seed"] as const

function refuseOther(directory: string, config: TrainInput): void {
  const { config: before } = readRecord(directory)
  for (const name of KEPT) {
    const was = before[name]?.value
    if (was === undefined || was === config[name]) continue
    throw new AlphaError(`run ${directory} was trained with ${name} ${was}, the configuration says ${config[name]}`, {
      hint: `leave --${name} out, or start a new run from its weights: --init=${directory}`,
      code: EXIT.usage,
    })
  }
}

/** Preset or data, date and time: novels-20260131-142501. */
function defaultName({ preset, data }: TrainInput): string {
  const stem = preset ?? (data === undefined || data === "-" ? "run" : basename(data).replace(/\.[^.]*$/, ""))
  const time = new Date().toISOString().replace(/[-:]/g, "").replace("T", "-").slice(0, 15)
  return `${stem.replace(/[^\w.-]+/g, "_") || "run"}-${time}`
}
