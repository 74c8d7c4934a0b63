/** The memory a run takes on its device, known from its plans alone, and what would make it fit. */
import { AlphaError, EXIT } from "./base-error.ts"
import { formatBytes } from "./base-term.ts"
import { countParams } from "./gpt.ts"
import type { Device } from "./program.ts"
import { byteLength } from "./tensor.ts"
import type { MemoryEvent } from "./train-metrics.ts"
import type { Prepared, TrainJob } from "./train-prepare.ts"
import { planRun, type RunPlans, type Sharing } from "./train-step.ts"

type Sized = Pick<TrainJob["values"], "batch" | "accumSteps" | "activationCheckpointing">

/** What the run of `job` with these plans needs. Nothing is allocated. */
export function memoryOf(job: TrainJob, { model }: Prepared, device: Device, planned: RunPlans, sharing?: Sharing): MemoryEvent {
  const { values } = job
  const plansOf = (change: Sized) => planRun(model, { ...values, ...change }, planned.evaluation !== undefined, sharing)
  const cacheType = values.precision === "bf16" ? 2 : 4
  const cache = values.sampleInterval === undefined ? 0 : 2 * model.nLayer * model.blockSize * model.nKvHead * model.headDim * cacheType
  const sizes = ({ micro, update, evaluation }: RunPlans) => {
    const plans = [micro, update, evaluation].filter((plan) => plan !== undefined)
    const states = new Map(plans.flatMap(({ program }) => [...program.states.values()].map((t) => [t.name, byteLength(t)] as const)))
    const sum = (holds: (name: string) => boolean) => [...states].reduce((all, [name, bytes]) => all + (holds(name) ? bytes : 0), 0)
    const [copies, gradients] = [sum((name) => name.startsWith("bf16.")), sum((name) => name.startsWith("grad."))]
    const moments = sum((name) => /^[mv]\./.test(name))
    const arena = Math.max(...plans.map((plan) => device.arenaBytes(plan)))
    const weights = sum(() => true) - copies - gradients - moments
    return { weights, copies, gradients, moments, arena, cache, total: sum(() => true) + arena + cache }
  }
  const budget = device.memoryBytes()
  const fitting = (change: Sized) => {
    const found = possible(() => sizes(plansOf(change)))
    return budget !== undefined && !(found instanceof AlphaError) && found.total <= budget
  }
  const now = possible(() => sizes(planned))
  if (now instanceof AlphaError)
    throw new AlphaError(now.message, { hint: fitHint(optionsFor(values, fitting)), code: now.code, cause: now })
  const fits = budget === undefined || now.total <= budget
  return {
    type: "memory",
    device: device.description,
    parameters: countParams(model),
    ...now,
    budget,
    fits,
    options: fits ? [] : optionsFor(values, fitting),
  }
}

/** What `find` gives, or the AlphaError of a device that cannot have a memory of that size. */
function possible<T>(find: () => T): T | AlphaError {
  try {
    return find()
  } catch (error) {
    if (error instanceof AlphaError && error.code === EXIT.device) return error
    throw error
  }
}

const fitHint = (options: readonly string[]): string =>
  options.length > 0 ? `fits with ${options.join(", or with ")}` : "use a smaller model or a shorter context"

/** Recomputation alone, else the largest part of the batch that fits, both spelt as flags. */
function optionsFor(values: TrainJob["values"], fits: (change: Sized) => boolean): string[] {
  const { batch, accumSteps } = values
  const options: string[] = []
  if (!values.activationCheckpointing && fits({ batch, accumSteps, activationCheckpointing: true }))
    options.push("--activationCheckpointing")
  const stepsOf = (rows: number) => (accumSteps * batch) / rows
  let most = 0
  for (const activationCheckpointing of values.activationCheckpointing ? [true] : [false, true]) {
    const rows = largest(divisors(batch), (size) => fits({ batch: size, accumSteps: stepsOf(size), activationCheckpointing }))
    if (rows === undefined || rows <= most) continue
    most = rows
    const more = activationCheckpointing && !values.activationCheckpointing ? " --activationCheckpointing" : ""
    options.push(`--batch=${rows} --accumSteps=${stepsOf(rows)}${more}`)
  }
  return options
}

/** Those of n but n itself, rising. */
function divisors(n: number): number[] {
  const low = Array.from({ length: Math.floor(Math.sqrt(n)) }, (_, i) => i + 1).filter((d) => n % d === 0)
  return [...new Set([...low, ...low.map((d) => n / d)])].filter((d) => d < n).sort((a, b) => a - b)
}

/** The last of rising sizes that fits, where all smaller ones do. */
function largest(sizes: readonly number[], fits: (size: number) => boolean): number | undefined {
  let [low, high] = [-1, sizes.length]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (fits(sizes[middle]!)) low = middle
    else high = middle
  }
  return sizes[low]
}

/** Throws AlphaError naming the sizes and what would fit. */
export function checkFits(memory: MemoryEvent): void {
  if (memory.fits) return
  const { total, budget = 0, options } = memory
  throw new AlphaError(`the run needs ${formatBytes(total)} on ${memory.device}, ${formatBytes(budget)} are free`, {
    hint: fitHint(options),
    code: EXIT.device,
  })
}
