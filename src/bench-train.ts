/** Speed of training: `alpha train` on random tokens in fresh processes, one for every sample. */
import type { Measurement } from "./bench-measure.ts"
import { inTemporary, type Ran, runWell } from "./bench-process.ts"
import { plainTraining } from "./bench-step.ts"

export interface TrainBench {
  readonly preset: string
  readonly device: string
  readonly precision: string
  readonly threads: number | undefined
  readonly batch: number | undefined
  readonly context: number | undefined
  /** Steps of each process; undefined: as many as take about `seconds`. */
  readonly steps: number | undefined
  readonly seconds: number
  /** Further flags: the form of the peer's model, knobs. */
  readonly flags: readonly string[]
}

/** What a process of training told. */
export interface Trained {
  readonly tokensPerS: number
  readonly msPerStep: number
  /** Of the last step; the same bits in every process. */
  readonly loss: number | null
  readonly peakBytes: number
  readonly device: string
  readonly smMhz: number | undefined
  readonly mfu: number
}

export const trainFlags = (job: TrainBench, steps: number): string[] => [
  ...plainTraining(job.preset, job.precision, steps),
  `--device=${job.device}`,
  ...(job.threads === undefined ? [] : [`--threads=${job.threads}`]),
  ...(job.batch === undefined ? [] : [`--batch=${job.batch}`]),
  ...(job.context === undefined ? [] : [`--context=${job.context}`]),
  ...job.flags,
]

/** Trains once in a process of `program`, leaving nothing behind. */
export async function trainOnce(
  program: readonly string[],
  flags: readonly string[],
  env: Readonly<Record<string, string | undefined>> = {},
): Promise<Trained & Pick<Ran, "cpuMs">> {
  return await inTemporary(async (directory) => {
    const ran = await runWell([...program, "train", ...flags, `--runsDir=${directory}`, "--run=bench", "--json"], { env })
    return { ...readTrained(ran), cpuMs: ran.cpuMs }
  })
}

export function readTrained({ lines }: Pick<Ran, "lines">): Trained {
  const of = (type: string) => lines.findLast((line) => line.type === type) ?? {}
  const [start, step, summary] = [of("start"), of("step"), of("summary")] as [
    { device?: string },
    { gpu_sm_mhz?: number; mfu?: number },
    Record<string, number>,
  ]
  return {
    tokensPerS: summary.tokens_per_s ?? Number.NaN,
    msPerStep: summary.ms_per_step ?? Number.NaN,
    loss: summary.loss ?? null,
    peakBytes: summary.peak_gpu_bytes ?? summary.peak_rss_bytes ?? 0,
    device: start.device ?? "",
    smMhz: step.gpu_sm_mhz,
    mfu: step.mfu ?? 0,
  }
}

/** A short run tells how many steps take `seconds`; it also fills the driver's caches and raises the clocks. */
export async function stepsFor(program: readonly string[], job: TrainBench): Promise<number> {
  if (job.steps !== undefined) return job.steps
  const { msPerStep } = await trainOnce(program, trainFlags(job, 6))
  return Math.min(5000, Math.max(6, Math.round((job.seconds * 1000) / msPerStep)))
}

export const trainName = ({ preset, batch, context, precision }: TrainBench): string =>
  [preset, ...(batch === undefined ? [] : [`batch ${batch}`]), ...(context === undefined ? [] : [`context ${context}`]), precision].join(
    " ",
  )

/** Rates of processes as a measurement. */
export function trainMeasurement(job: TrainBench, all: readonly Trained[], steps: number): Measurement {
  const last = all.at(-1)!
  const flags = trainFlags(job, steps).filter((flag) => !/^--(evalInterval|sampleInterval|logInterval|checkpointInterval)=/.test(flag))
  return {
    bench: "train",
    name: trainName(job),
    device: last.device,
    unit: "tokens/s",
    better: "more",
    samples: all.map(({ tokensPerS }) => tokensPerS),
    facts: {
      steps,
      "ms/step": last.msPerStep,
      loss: String(last.loss),
      "peak MiB": Math.round(last.peakBytes / 2 ** 20),
      mfu: `${(100 * last.mfu).toFixed(0)} %`,
      ...(last.smMhz === undefined ? {} : { MHz: last.smMhz }),
    },
    command: `alpha train ${flags.join(" ")}`,
  }
}

/** The usual flags of this build: no checkpoint is written, whose gigabytes would take longer than the steps. */
export const quickly = (job: TrainBench): TrainBench => ({ ...job, flags: [...job.flags, "--keepCheckpoints=0"] })

export async function benchTrain(program: readonly string[], job: TrainBench, rounds: number): Promise<Measurement> {
  const steps = await stepsFor(program, quickly(job))
  const all: Trained[] = []
  for (let round = 0; round < rounds; round++) all.push(await trainOnce(program, trainFlags(quickly(job), steps)))
  return trainMeasurement(job, all, steps)
}
