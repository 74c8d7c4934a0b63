/** `alpha bench tune` with real processes: trials, their CSV, and the winner as a file of variables. */
import { join } from "node:path"
import { makeDirectory, writeAtomic } from "./base-file.ts"
import { appendCsv } from "./bench-csv.ts"
import { speedup, statusOf } from "./bench-loop.ts"
import { inTemporary, runCommand, selfCommand } from "./bench-process.ts"
import { readTrained, type TrainBench, trainFlags } from "./bench-train.ts"
import { candidates, halve, isSameLoss, type Knob, knobsOf, type Settings, type Trial } from "./bench-tune.ts"
import { type BenchTuneConfig, envName, findPreset, TRAIN_FIELDS } from "./config.ts"
import { deviceNames } from "./device.ts"
import { keepTuned, type Tuned, tunedDevice, tunedFile, tunedProgram } from "./engine.ts"

export interface TuneReport {
  readonly device: string
  /** The best of the last round first. */
  readonly last: readonly Trial[]
  readonly trials: readonly Trial[]
  readonly results: string
  /** File of the winner's variables; undefined where nothing was ok. */
  readonly best: string | undefined
  /** The entry that `alpha train` will use, and its file. */
  readonly tuned: (Tuned & { readonly file: string }) | undefined
}

/** Trains once with these variables. */
async function train(job: TrainBench, settings: Settings, steps: number): Promise<Omit<Trial, "settings" | "steps">> {
  return await inTemporary(async (directory) => {
    const flags = trainFlags(job, steps)
    const ran = await runCommand([...selfCommand(), "train", ...flags, `--runsDir=${directory}`, "--run=tune", "--json"], { env: settings })
    const { tokensPerS, loss } = readTrained(ran)
    return { status: statusOf(`${ran.stdout}${ran.stderr}`, ran.code), rate: tokensPerS || 0, loss }
  })
}

export async function tune(config: BenchTuneConfig, tell: (note: string) => void): Promise<TuneReport> {
  const device = config.device === "auto" ? (deviceNames()[1] ?? "cpu") : config.device
  const knobs = knobsOf(device === "cpu" ? "cpu" : "gpu")
  const { precision, batch, lossBound } = config
  const preset = config.preset[0] ?? "cpu-small"
  const job = { preset, device, precision, threads: undefined, batch, context: undefined, steps: undefined, seconds: 0, flags: [] }
  const run = async (settings: Settings, steps: number, usual: Trial | undefined): Promise<Trial> => {
    const done = await train(job, settings, steps)
    const isOther = done.status === "ok" && usual?.status === "ok" && !isSameLoss(done.loss, usual.loss, settings, knobs, lossBound)
    const trial = { ...done, settings, steps, status: isOther ? ("other_loss" as const) : done.status }
    tell(`${steps} steps  ${trial.status}  ${Math.round(trial.rate)} tokens/s  ${settingsText(settings)}`)
    return trial
  }
  const { trials, last } = await halve(candidates(knobs, config.iterations, config.seed), config.steps, run)
  const time = new Date().toISOString().replace(/[-:]/g, "").replace("T", "-").slice(0, 15)
  makeDirectory(config.perfDir)
  const results = join(config.perfDir, `tune-adaptive-env-${time}.csv`)
  writeTrials(results, trials, knobs)
  const [winner] = last
  const best = winner === undefined ? undefined : join(config.perfDir, `best-adaptive-env-${time}.env`)
  if (winner !== undefined && best !== undefined) writeAtomic(best, envText(winner, `${preset} ${precision} on ${device}`))
  return { device, last, trials, results, best, tuned: keep(config, device, last, knobs) }
}

/** Keeps the fastest settings that change no bit for `alpha train`; where those are the usual ones, that is what is kept. */
function keep(
  { preset: [preset = "cpu-small"], precision, batch }: BenchTuneConfig,
  device: string,
  last: readonly Trial[],
  knobs: readonly Knob[],
): TuneReport["tuned"] {
  const [file, place] = [tunedFile(), tunedDevice(device)]
  const isExact = ({ settings }: Trial) => knobs.every(({ variable, isKernel }) => !isKernel || settings[variable] === undefined)
  const [winner, usual] = [last.find(isExact), last.find(({ settings }) => Object.keys(settings).length === 0)]
  if (file === undefined || place === undefined || winner === undefined || usual === undefined) return undefined
  const fields = new Map(Object.keys(TRAIN_FIELDS).map((name) => [envName(name), name]))
  const entry: Tuned = {
    ...place,
    ...{ preset, precision, batch: batch ?? Number(findPreset(preset).values({ isRandom: false }).batch ?? TRAIN_FIELDS.batch.default) },
    ...{ program: tunedProgram(), date: new Date().toISOString().slice(0, 10), rate: winner.rate, usual: usual.rate },
    settings: Object.fromEntries(
      Object.entries(winner.settings).map(([variable, value]) => [fields.get(variable) as string, Number(value)]),
    ),
  }
  keepTuned(file, entry)
  return { ...entry, file }
}

export const settingsText = (settings: Settings): string =>
  Object.keys(settings).length === 0
    ? "as usual"
    : Object.entries(settings)
        .map(([name, value]) => `${name}=${value}`)
        .join(" ")

const envText = ({ settings, rate, steps }: Trial, what: string): string =>
  `# ${what}: ${Math.round(rate)} tokens/s over ${steps} steps; use it with: set -a; . THIS_FILE\n${Object.entries(settings)
    .map(([name, value]) => `${name}=${value}\n`)
    .join("")}`

function writeTrials(path: string, trials: readonly Trial[], knobs: readonly Knob[]): void {
  const columns = knobs.map(({ column }) => column)
  const rows = trials.map(({ settings, steps, status, rate, loss }, iter) => {
    const usual = trials.filter((one) => one.steps === steps && Object.keys(one.settings).length === 0)
    const row = usual.map((one) => ({ status: one.status, device: "", settings: "", avg_tok_s: String(one.rate) }))
    const percent = speedup(rate, row, { device: "", settings: "", window: 1 })
    return {
      ...{ iter: iter + 1, ...Object.fromEntries(knobs.map(({ variable, column }) => [column, settings[variable] ?? ""])) },
      ...{ steps, avg_tok_s: Math.round(rate), status, speedup_pct: percent === undefined ? "" : percent.toFixed(2), loss: loss ?? "" },
    }
  })
  appendCsv(path, ["iter", ...columns, "steps", "avg_tok_s", "status", "speedup_pct", "loss"], rows)
}
