/** A gate with real processes: what they time, the thresholds that are stored, the exact counters. */
import { AlphaError, EXIT } from "./base-error.ts"
import { appendCsv, readCsv } from "./bench-csv.ts"
import {
  type CounterRow,
  compareCounters,
  type GateOptions,
  type GateResult,
  gate,
  learnThreshold,
  type Side,
  type Taken,
  USUAL_THRESHOLD,
  type Verdict,
  worst,
} from "./bench-gate.ts"
import { buildOf } from "./bench-gate-build.ts"
import { commitOf, deviceClass } from "./bench-history.ts"
import { type Measurement, withStatistics } from "./bench-measure.ts"
import { runCommand, runWell } from "./bench-process.ts"
import { stepsFor, type TrainBench, trainFlags, trainName, trainOnce } from "./bench-train.ts"
import type { BenchGateConfig } from "./config.ts"

type Tell = (note: string) => void
type Program = readonly string[]

/** What one process of a case tells. */
type Case = (program: Program) => Promise<Taken>

const presetOf = ({ preset }: BenchGateConfig): string => preset[0] ?? "cpu-small"

const jobOf = (config: BenchGateConfig): TrainBench => {
  const { device, precision, threads, batch, steps, seconds } = config
  return { preset: presetOf(config), device, precision, threads, batch, context: undefined, steps, seconds, flags: [] }
}

/** Every case by its name; `train` is the one with a loss. */
function casesOf(config: BenchGateConfig, job: TrainBench, steps: number): Readonly<Record<string, Case>> {
  const { device, precision } = config
  const [flags, name] = [trainFlags(job, steps), trainName(job)]
  return {
    async train(program) {
      const { msPerStep, loss } = await trainOnce(program, flags)
      return { metrics: { [`train ${name} ms/step`]: msPerStep }, loss: String(loss) }
    },
    async cpu(program) {
      const { cpuMs, loss } = await trainOnce(program, flags)
      return { metrics: { [`cpu ${name} ms of ${steps} steps`]: cpuMs }, loss: String(loss) }
    },
    async infer(program) {
      const args = [`--preset=${presetOf(config)}`, `--device=${device}`, `--precision=${precision}`, "--batch=1", "--rounds=3"]
      const { stdout } = await runWell([...program, "bench", "infer", ...args, `--seconds=${config.seconds}`, "--json"])
      const rows = (JSON.parse(stdout) as Measurement[]).map(withStatistics)
      const metrics = Object.fromEntries(rows.map((row) => [`infer ${row.name} µs/token`, 1e6 / row.median]))
      return { metrics, loss: undefined }
    },
    async startup(program) {
      return { metrics: { "startup --version ms": (await runWell([...program, "--version"])).ms }, loss: undefined }
    },
  }
}

/** One fresh process for each case. */
function takerOf(sides: Readonly<Record<Side, Program>>, wanted: readonly Case[]): (side: Side) => Promise<Taken> {
  return async (side) => {
    const all: Taken[] = []
    for (const one of wanted) all.push(await one(sides[side]))
    return { metrics: Object.assign({}, ...all.map(({ metrics }) => metrics)), loss: all.find(({ loss }) => loss !== undefined)?.loss }
  }
}

export interface GateReport extends GateResult {
  readonly device: string
  readonly a: string
  readonly b: string
  readonly counters: readonly CounterRow[]
}

interface Prepared {
  readonly device: string
  readonly sides: Readonly<Record<Side, Program>>
  readonly take: (side: Side) => Promise<Taken>
  readonly options: GateOptions
}

/** Builds what is to be built and finds how long a process must be; the first runs also warm the machine up. */
async function prepare(config: BenchGateConfig, tell: Tell): Promise<Prepared> {
  const { a, b = a } = config
  if (a === undefined) {
    throw new AlphaError("gate: no build is given", { hint: "alpha bench gate main HEAD, or two binaries", code: EXIT.usage })
  }
  const sides = { A: [await buildOf("A", a, tell)], B: [await buildOf("B", b as string, tell)] }
  const job = jobOf(config)
  const steps = await stepsFor(sides.A, job)
  const { device: description } = await trainOnce(sides.A, trainFlags(job, 2))
  const device = deviceClass(description).device
  const cases = casesOf(config, job, steps)
  const wanted = config.case
    .flatMap((one) => one.split(","))
    .map((name) => {
      const found = cases[name]
      if (found !== undefined) return found
      throw new AlphaError(`--case ${name}: expected ${Object.keys(cases).join(", ")}`, { code: EXIT.usage })
    })
  const stored = readCsv(config.noise).filter((row) => row.device === device)
  const threshold = (metric: string): number => {
    const own = stored.filter((row) => row.metric === metric).map((row) => ({ low: Number(row.low), high: Number(row.high) }))
    return config.threshold ?? learnThreshold(own) ?? USUAL_THRESHOLD
  }
  const { blocks, maxBlocks, seed } = config
  return { device, sides, take: takerOf(sides, wanted), options: { blocks, maxBlocks: Math.max(blocks, maxBlocks), threshold, seed } }
}

/** Compares build B with build A. */
export async function runGate(config: BenchGateConfig, tell: Tell, onBlock: (done: number, of: number) => void): Promise<GateReport> {
  const { device, sides, take, options } = await prepare(config, tell)
  const counters = await exactCounters(config, sides, tell)
  const result = await gate(take, { ...options, onBlock })
  const verdict: Verdict = worst([...result.rows, ...counters].map((row) => row.verdict))
  return { ...result, verdict, counters, device, a: config.a as string, b: config.b as string }
}

/** Times a build against itself, all blocks each time, and stores what that shows; returns the new thresholds by metric. */
export async function learnNoise(config: BenchGateConfig, tell: Tell, onBlock: (done: number, of: number) => void) {
  const { device, take, options } = await prepare(config, tell)
  const [date, commit] = [new Date().toISOString().slice(0, 10), commitOf()]
  for (let run = 0; run < config.learn; run++) {
    const { rows } = await gate(take, { ...options, blocks: options.maxBlocks, threshold: () => 1, seed: options.seed + run, onBlock })
    const round = (x: number) => Number(x.toPrecision(5))
    const added = rows.map(({ metric, first }) => ({
      ...{ date, commit, device, metric, blocks: first.blocks },
      ...{ ratio: round(first.ratio), low: round(first.low), high: round(first.high) },
    }))
    appendCsv(config.noise, ["date", "commit", "device", "metric", "blocks", "ratio", "low", "high"], added)
    tell(
      `run ${run + 1} of ${config.learn}: ${added.map(({ metric, ratio, low, high }) => `${metric} ${ratio} (${low} … ${high})`).join(", ")}`,
    )
  }
  const stored = Map.groupBy(
    readCsv(config.noise).filter((row) => row.device === device),
    (row) => row.metric as string,
  )
  return [...stored].map(([metric, rows]) => {
    const threshold = learnThreshold(rows.map((row) => ({ low: Number(row.low), high: Number(row.high) })))
    return { metric, device, runs: rows.length, threshold: threshold ?? null }
  })
}

/** Counters of both builds, compared; none where one of them is too old to tell. */
async function exactCounters(config: BenchGateConfig, sides: Prepared["sides"], tell: Tell): Promise<CounterRow[]> {
  const args = [
    "bench",
    "counters",
    `--preset=${presetOf(config)}`,
    `--device=${config.device}`,
    `--precision=${config.precision}`,
    "--json",
  ]
  const [a, b] = await Promise.all(
    [sides.A, sides.B].map(async (program) => {
      const { code, stdout } = await runCommand([...program, ...args])
      if (code !== 0 || !stdout.startsWith("[")) return undefined
      return Object.fromEntries((JSON.parse(stdout) as Measurement[]).map(({ name, samples }) => [name, samples[0] as number]))
    }),
  )
  if (a !== undefined && b !== undefined) return compareCounters(a, b, config.allow)
  tell(`gate: ${a === undefined ? "A" : "B"} tells no counters (alpha bench counters), so none are compared`)
  return []
}
