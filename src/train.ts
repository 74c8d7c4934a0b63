/** The training loop: batches → micro-steps → update → evaluation, samples, checkpoints; tells everything through `emit`. */
import { fillBatch } from "./data.ts"
import { checkpointPath, generateText, recoverCheckpoints, retain, setLink, writtenHash } from "./gpt.ts"
import { CONTROL } from "./op.ts"
import type { Device, Executable, RunInputs } from "./program.ts"
import { Alerts, freeBytes } from "./train-alert.ts"
import { evaluate } from "./train-eval.ts"
import { checkFits, memoryOf } from "./train-fit.ts"
import { lockRun } from "./train-lock.ts"
import { StepLog, type Submitted } from "./train-log.ts"
import type { Emit, SampleRow, Summary, TrainEvent } from "./train-metrics.ts"
import { prepare, type TrainJob } from "./train-prepare.ts"
import { StepProfile } from "./train-profile.ts"
import { createRun, discardRun, Journals } from "./train-run.ts"
import { learningRate } from "./train-schedule.ts"
import { announce, openSession, type Session } from "./train-session.ts"
import { smokeTest } from "./train-smoke.ts"
import { saveState, type TrainerState } from "./train-state.ts"
import { planRun } from "./train-step.ts"
import { type Pause, type StopFlag, Stopped, stopIfAsked } from "./train-stop.ts"

/**
 * Trains `job` to its end, or until `flag` says stop; a checkpoint is always written last. Returns the summary it emitted. Throws Stopped when it
 * was stopped before the first step; a new run then leaves nothing behind. `pause` lets others have the device between two pieces of work.
 */
export async function train(job: TrainJob, device: Device, flag: StopFlag, emit: Emit, pause: Pause = () => undefined): Promise<Summary> {
  const started = performance.now()
  const { directory } = job
  if (!job.resume) createRun(directory)
  const unlock = lockRun(directory)
  const journals = new Journals(directory)
  try {
    if (job.resume) recoverCheckpoints(directory)
    const prepared = await prepare(job, flag, emit)
    const plans = planRun(prepared.model, job.values, prepared.data.val !== undefined && job.values.evalInterval !== undefined)
    const memory = memoryOf(job, prepared, device, plans)
    if (job.values.dryRun) {
      emit(memory)
      throw new Stopped("nothing was trained (--dryRun)")
    }
    checkFits(memory)
    smokeTest(device, job.values.failOnSmokeTest, emit)
    const alerts = new Alerts(() => freeBytes(directory))
    const session = openSession(job, prepared, device, plans, (event) => {
      for (const each of [event, ...alerts.of(event)]) {
        record(journals, each)
        emit(each)
      }
    })
    try {
      announce(session)
      return await loop(session, flag, started, pause)
    } catch (error) {
      if (!(error instanceof Stopped)) recordCrash(journals, session.trainer.step, error as Error)
      throw error
    } finally {
      for (const run of [session.micro, session.update, session.evaluation]) run?.free()
      session.state.free()
      prepared.data.train.close()
      prepared.data.val?.close()
    }
  } catch (error) {
    if (!job.resume) discardRun(directory, error instanceof Stopped)
    throw error
  } finally {
    journals.close()
    unlock()
  }
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
    if (flag.stopped) {
      if (s.trainer.step === 0) throw new Stopped()
      status = "stopped"
      break
    }
    steps.push(await submitStep(s, pause))
    const { step } = s.trainer
    const due = dueAfter(step, values)
    const saves = step % values.checkpointInterval === 0
    if (due.length > 0 || saves) steps.drain()
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

/** Batches and micro-steps, then the update; its results may still be on their way. */
async function submitStep(s: Session, pause: Pause): Promise<Submitted> {
  const at = performance.now()
  const { values } = s.job
  const { batch: rows, context: T, accumSteps, seed } = values
  const { step } = s.trainer
  const profile = values.profile === step + 1 ? new StepProfile() : undefined
  const run = (program: Executable, inputs: RunInputs) => profile?.run(program, inputs) ?? program.submit(inputs)
  const tokens = new Int32Array(rows * T)
  const targets = new Int32Array(rows * T)
  let dataMs = 0
  for (let k = 0; k < accumSteps; k++) {
    if (k > 0) await pause()
    const began = performance.now()
    fillBatch(
      s.prepared.data.train,
      { seed, step, row: k * rows, rows, T, order: values.order, globalBatch: rows * accumSteps, boundaries: values.documentBoundaries },
      tokens,
      targets,
    )
    dataMs += performance.now() - began
    run(s.micro, { tokens, targets, accumulate: k === 0 ? 0 : 1, seed: seed | 0, step, row: k * rows * T })
  }
  const lr = learningRate(step, values)
  const out = run(s.update, { lr })
  const submitMs = performance.now() - at - dataMs
  if (profile !== undefined) s.emit(profile.event(step + 1, values.traceFile))
  s.trainer = { ...s.trainer, step: step + 1, tokens: s.trainer.tokens + rows * accumSteps * T }
  return { step: step + 1, tokens: s.trainer.tokens, lr, at, dataMs, submitMs, out }
}

type Due = NonNullable<TrainerState["owed"]>[number]

/** What follows a step at its interval, and the last step. */
function dueAfter(step: number, { steps, evalInterval, sampleInterval }: TrainJob["values"]): Due[] {
  const isDue = (interval: number | undefined) => interval !== undefined && (step % interval === 0 || step === steps)
  return [...(isDue(evalInterval) ? (["evaluation"] as const) : []), ...(isDue(sampleInterval) ? (["samples"] as const) : [])]
}

/**
 * Does what is due. A stop ends it without half a result; the rest is owed: the checkpoint remembers it, and the resumed run does it first,
 * so that it ends in the same bytes.
 */
async function afterStep(s: Session, due: readonly Due[], flag: StopFlag, pause: Pause): Promise<void> {
  for (const [i, part] of due.entries()) {
    try {
      if (part === "evaluation") await runEvaluation(s, flag, pause)
      else await runSamples(s, flag, pause)
    } catch (error) {
      if (!(error instanceof Stopped)) throw error
      s.trainer = { ...s.trainer, owed: due.slice(i) }
      return
    }
  }
  s.trainer = { ...s.trainer, owed: undefined }
}

/** Whether the evaluations without a better loss are as many as the run has patience for. */
const isStale = ({ job, trainer }: Session): boolean => job.values.patience !== undefined && trainer.stale >= job.values.patience

/** Evaluates, remembers the best, counts evaluations without a better loss. Throws Stopped, with nothing recorded. */
async function runEvaluation(s: Session, flag: StopFlag, pause: Pause): Promise<void> {
  const { values } = s.job
  const { val } = s.prepared.data
  if (val === undefined || s.evaluation === undefined) return
  const began = performance.now()
  const result = await evaluate(s.evaluation, val, {
    batches: values.evalSteps,
    yieldNow: async () => {
      await Bun.sleep(0)
      await pause()
      stopIfAsked(flag)
    },
  })
  const { step, best } = s.trainer
  const isBest = Number.isFinite(result.loss) && (best === null || result.loss < best.loss)
  s.lastEval = result
  s.trainer = { ...s.trainer, best: isBest ? { loss: result.loss, step } : best, stale: isBest ? 0 : s.trainer.stale + 1 }
  s.emit({
    type: "eval",
    step,
    val_loss: result.loss,
    perplexity: result.perplexity,
    ...(result.bitsPerByte === undefined ? {} : { bits_per_byte: result.bitsPerByte }),
    best: isBest,
    eval_ms: performance.now() - began,
  })
}

/** Continues the prompts. Throws Stopped, with nothing recorded. */
async function runSamples(s: Session, flag: StopFlag, pause: Pause): Promise<void> {
  const { prepared, job, device, state, trainer } = s
  const { tokenizer } = prepared
  if (tokenizer === undefined) return
  const rows: SampleRow[] = []
  for (const prompt of prepared.samplePrompts) {
    await pause()
    const began = performance.now()
    const text = generateText(device, state, prepared.model, tokenizer, prompt, {
      precision: job.values.precision,
      maxTokens: job.values.sampleTokens,
      ends: [prepared.ids.eos ?? []].flat(),
      sampling: { temperature: 0.8, topK: 200, topP: 1, minP: 0, repetitionPenalty: 1, seed: job.values.seed + trainer.step },
      onToken: () => stopIfAsked(flag),
    })
    rows.push({ type: "sample", step: trainer.step, prompt, text, ms: performance.now() - began })
  }
  for (const row of rows) s.emit(row)
}

/** Writes the checkpoint of the current step, moves the links, deletes what retention lets go. */
function checkpoint(s: Session): void {
  const { job, prepared, state, update, trainer } = s
  const began = performance.now()
  const path = checkpointPath(job.directory, trainer.step)
  const bytes = saveState(path, state, update.plan, {
    model: prepared.model,
    precision: job.values.precision,
    ids: prepared.ids,
    tokenizerJson: prepared.tokenizerJson,
    chatTemplate: prepared.chatTemplate,
    trainer,
  })
  const best = trainer.best?.step === trainer.step
  if (best) setLink(job.directory, "best", path)
  setLink(job.directory, "last", path)
  retain(job.directory, { keepLast: job.values.keepCheckpoints, keepEvery: job.values.keepEvery })
  s.saved = trainer.step
  const sha256 = writtenHash(path, "model.safetensors")
  s.emit({ type: "checkpoint", step: trainer.step, path, bytes, sha256, best, ms: performance.now() - began })
}

export { Alerts, freeBytes, isFull } from "./train-alert.ts"
export { measureBandwidth } from "./train-bandwidth.ts"
export { createEvaluator, type Evaluation, evaluate } from "./train-eval.ts"
export type {
  AlertEvent,
  EvalRow,
  MemoryEvent,
  ProfileEvent,
  SampleRow,
  StartEvent,
  StepRow,
  Summary,
  TrainEvent,
} from "./train-metrics.ts"
export { measurePeak, productRate } from "./train-peak.ts"
export type { TrainJob } from "./train-prepare.ts"
export { newestRun, type RunRecord, readRecord } from "./train-run.ts"
export { learningRate } from "./train-schedule.ts"
export { type ShipOptions, type Shipper, startShipper } from "./train-ship.ts"
export { markCounts, offsetOf, prefixMarks, repairJournal } from "./train-ship-journal.ts"
export { microPlan, type OptimizerConfig, updatePlan } from "./train-step.ts"
export type { StopFlag } from "./train-stop.ts"
export { addressIn, openWebhook, type Webhook } from "./train-webhook.ts"
