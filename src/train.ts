/** The training loop: batches → micro-steps → update → evaluation, samples, checkpoints; tells everything through `emit`. */
import { type AlphaError, EXIT } from "./base-error.ts"
import { fillBatch } from "./data.ts"
import { recoverCheckpoints } from "./gpt.ts"
import { CONTROL } from "./op.ts"
import type { Device, Executable, RunInputs } from "./program.ts"
import { afterStep, dueAfter, isStale, isStopped, runEvaluation } from "./train-after.ts"
import { Alerts, freeBytes } from "./train-alert.ts"
import { lockRun } from "./train-lock.ts"
import { StepLog, type Submitted } from "./train-log.ts"
import type { Emit, Summary, TrainEvent } from "./train-metrics.ts"
import { openRun } from "./train-open.ts"
import type { TrainJob } from "./train-prepare.ts"
import { StepProfile } from "./train-profile.ts"
import { Ranks } from "./train-ranks.ts"
import { createRun, discardRun, Journals, RankLog } from "./train-run.ts"
import { checkpoint } from "./train-save.ts"
import { learningRate } from "./train-schedule.ts"
import { announce, openSession, type Session } from "./train-session.ts"
import { type Pause, type StopFlag, Stopped } from "./train-stop.ts"

/**
 * Trains `job` to its end, or until `flag` says stop; a checkpoint is always written last. Returns the summary it emitted. Throws Stopped when it
 * was stopped before the first step; a new run then leaves nothing behind. `pause` lets others have the device between two pieces of work.
 */
export async function train(job: TrainJob, device: Device, flag: StopFlag, emit: Emit, pause: Pause = () => undefined): Promise<Summary> {
  if (job.dist === undefined) return await trainAlone(job, device, flag, emit, pause, undefined)
  const ranks = Ranks.join(job, job.dist, device)
  const { rank, size, transport, directory, watch } = ranks
  emit({ type: "ranks", rank, size, transport, watch, directory })
  const own = { ...job, directory }
  try {
    const summary = rank === 0 ? await trainAlone(own, device, flag, emit, pause, ranks) : await follow(own, device, flag, emit, ranks)
    ranks.close()
    return summary
  } catch (error) {
    if (error instanceof Stopped && error.byAll) ranks.close()
    throw error
  }
}

/** A run of one process, or rank 0's part of one. */
async function trainAlone(
  job: TrainJob,
  device: Device,
  flag: StopFlag,
  emit: Emit,
  pause: Pause,
  ranks: Ranks | undefined,
): Promise<Summary> {
  const started = performance.now()
  const { directory } = job
  const made = job.resume ? undefined : createRun(directory)
  const unlock = lockNew(directory, made)
  const journals = new Journals(directory)
  try {
    if (job.resume) recoverCheckpoints(directory)
    const { prepared, plans } = await openRun(job, device, flag, emit, ranks)
    const alerts = new Alerts(() => freeBytes(directory))
    const tell: Emit = (event) => {
      for (const each of [event, ...alerts.of(event)]) {
        record(journals, each)
        emit(each)
      }
    }
    const session = openSession(job, prepared, device, plans, tell, ranks)
    try {
      announce(session)
      return await loop(session, flag, started, pause)
    } catch (error) {
      if (!(error instanceof Stopped)) recordCrash(journals, session.trainer.step, error as Error)
      throw error
    } finally {
      free(session)
    }
  } catch (error) {
    if (!job.resume) discardRun(directory, made, error instanceof Stopped)
    throw error
  } finally {
    journals.close()
    unlock()
  }
}

/** The lock of a run; where it cannot be written, what was made for the run goes again. Who has it made the directory, too. */
function lockNew(directory: string, made: string | undefined): () => void {
  try {
    return lockRun(directory)
  } catch (error) {
    if (made !== undefined && (error as AlphaError).code !== EXIT.busy) discardRun(directory, made, false)
    throw error
  }
}

/** The part of every rank but the first: the same steps; of what they tell, a short log in the run's directory. */
async function follow(job: TrainJob, device: Device, flag: StopFlag, emit: Emit, ranks: Ranks): Promise<Summary> {
  const started = performance.now()
  const log = new RankLog(job.directory, ranks.rank)
  const tell: Emit = (event) => {
    log.append(event)
    if (event.type === "note") emit(event)
  }
  const { prepared, plans } = await openRun(job, device, flag, tell, ranks)
  const session = openSession(job, prepared, device, plans, tell, ranks)
  try {
    announce(session)
    return await loop(session, flag, started, () => undefined)
  } finally {
    free(session)
  }
}

function free({ micro, update, evaluation, state, prepared }: Session): void {
  for (const run of [micro, update, evaluation]) run?.free()
  state.free()
  prepared.data.train.close()
  prepared.data.val?.close()
}

/** Puts an event into the journal it belongs to. */
function record(journals: Journals, event: TrainEvent): void {
  if (event.type === "step" || event.type === "eval") journals.append("metrics", event)
  else if (event.type === "sample") journals.append("samples", event)
  else if (event.type !== "progress") journals.append("events", event)
}

/** The run's last word; where even that cannot be written, the error itself is what counts. */
function recordCrash(journals: Journals, step: number, { message }: Error): void {
  try {
    journals.append("events", { type: "crash", step, message })
  } catch {}
}

/** Steps until the end, an early stop or the flag; then the last checkpoint and the summary. */
async function loop(s: Session, flag: StopFlag, started: number, pause: Pause): Promise<Summary> {
  const { values } = s.job
  const first = s.trainer.step
  const steps = new StepLog(s, first, started)
  let status: Summary["status"] = "completed"
  if (first === 0 && values.evalInterval !== undefined) await runEvaluation(s, flag, pause)
  if (s.trainer.owed !== undefined) {
    await afterStep(s, s.trainer.owed, flag, pause)
    if (s.trainer.owed === undefined) checkpoint(s) // as it would have been written without the stop
    if (isStale(s)) status = "early_stop"
  }
  while (s.trainer.step < values.steps && status !== "early_stop") {
    if (isStopped(s, flag, "step")) {
      if (s.trainer.step === 0) throw new Stopped()
      status = "stopped"
      break
    }
    const isProfiled = values.profile === s.trainer.step + 1
    if (isProfiled) steps.drain() // it waits for the steps before, which would seem to have taken no time
    steps.push(await submitStep(s, pause))
    const { step } = s.trainer
    const due = dueAfter(step, values)
    const saves = step % values.checkpointInterval === 0
    if (due.length > 0 || saves || isProfiled) steps.drain()
    await afterStep(s, due, flag, pause)
    if (due.includes("evaluation") && isStale(s)) status = "early_stop"
    if (saves || (due.includes("evaluation") && s.trainer.best?.step === step)) checkpoint(s)
    if (step % values.callbackYieldEvery === 0) await Bun.sleep(0) // lets messages in
    // Requests that come while there are some do not wait behind steps that the device was given ahead.
    if (await pause()) steps.drain()
  }
  steps.drain()
  if (s.trainer.owed !== undefined) status = "stopped"
  if (s.saved !== s.trainer.step) checkpoint(s)
  const { loss } = steps
  const summary: Summary = {
    type: "summary",
    run: s.job.directory,
    status,
    steps: s.trainer.step,
    ...steps.speed(),
    loss: Number.isFinite(loss) ? loss : null,
    val_loss: s.lastEval?.loss ?? null,
    best_val_loss: s.trainer.best?.loss ?? null,
    bits_per_byte: s.lastEval?.bitsPerByte ?? null,
    skipped: (s.state.read("control") as Float32Array)[CONTROL.skipped] as number,
    wall_s: (performance.now() - started) / 1000,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    peak_gpu_bytes: s.device.peakBytes() ?? null,
    device: s.device.name,
    precision: values.precision,
  }
  s.emit(summary)
  return summary
}

/** Batches and micro-steps, shared by the ranks in turn, then the update; its results may still be on their way. */
async function submitStep(s: Session, pause: Pause): Promise<Submitted> {
  const at = performance.now()
  const { values } = s.job
  const { batch: rows, context: T, accumSteps, seed } = values
  const { step } = s.trainer
  if (StepProfile.covers(step + 1, values.profile)) s.profile ??= new StepProfile(s.device, values.profile as number)
  const { profile } = s
  const run = (program: Executable, inputs: RunInputs, onFinal?: () => void) =>
    profile?.run(step + 1, program, inputs, onFinal) ?? program.submit(inputs, onFinal)
  const tokens = new Int32Array(rows * T)
  const targets = new Int32Array(rows * T)
  const { ranks } = s
  let dataMs = 0
  let batch: RunInputs = {}
  const { rank, size } = ranks ?? { rank: 0, size: 1 }
  for (let first = 0; first < accumSteps; first += size) {
    if (first > 0) await pause()
    const k = first + rank
    const isLast = first + size >= accumSteps
    if (k < accumSteps) {
      const began = performance.now()
      fillBatch(
        s.prepared.data.train,
        { seed, step, row: k * rows, rows, T, order: values.order, globalBatch: rows * accumSteps, boundaries: values.documentBoundaries },
        tokens,
        targets,
      )
      dataMs += performance.now() - began
      const accumulate = first === 0 || ranks?.isOrdered ? 0 : 1
      const sums = ranks !== undefined && isLast ? () => ranks.sumBucket() : undefined
      batch = { tokens, targets, seed: seed | 0, step, row: k * rows * T }
      if (s.micro !== undefined) run(s.micro, { ...batch, accumulate }, sums)
    }
    ranks?.endRound(s.state, s.prepared.model, first / size, Math.min(size, accumSteps - first), isLast)
  }
  const lr = learningRate(step, values)
  const out = run(s.update, { ...batch, lr })
  ranks?.endStep(s.state, s.prepared.model, values.precision)
  const submitMs = performance.now() - at - dataMs
  if (profile?.step === step + 1) {
    s.emit(profile.event(values.traceFile))
    s.profile = undefined
  }
  s.trainer = { ...s.trainer, step: step + 1, tokens: s.trainer.tokens + rows * accumSteps * T }
  return { step: step + 1, tokens: s.trainer.tokens, lr, at, dataMs, submitMs, out }
}

export { Alerts, freeBytes, isFull } from "./train-alert.ts"
export { measureBandwidth } from "./train-bandwidth.ts"
export { createEvaluator, type Evaluation, evaluate } from "./train-eval.ts"
export type {
  AlertEvent,
  Bubbles,
  EvalRow,
  MemoryEvent,
  ProfileEvent,
  RanksEvent,
  SampleRow,
  StartEvent,
  StepRow,
  Summary,
  TrainEvent,
} from "./train-metrics.ts"
export { measurePeak, productRate } from "./train-peak.ts"
export { type TrainJob, trainingData } from "./train-prepare.ts"
export { bubblesOf } from "./train-profile.ts"
export { LOCAL_FIELDS } from "./train-ranks.ts"
export { newestRun, type RunRecord, readRecord } from "./train-run.ts"
export { learningRate } from "./train-schedule.ts"
export { type ShipOptions, type Shipper, startShipper } from "./train-ship.ts"
export { markCounts, offsetOf, prefixMarks } from "./train-ship-journal.ts"
export { microPlan, type OptimizerConfig, stepPlan, updatePlan } from "./train-step.ts"
export type { StopFlag } from "./train-stop.ts"
export { addressIn, openWebhook, type Webhook } from "./train-webhook.ts"
