/** The training loop: batches → micro-steps → update → evaluation, samples, checkpoints; tells everything through `emit`. */
import { fillBatch } from "./data.ts"
import { checkpointPath, generateText, recoverCheckpoints, retain, setLink } from "./gpt.ts"
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
import { computesLike, Ranks } from "./train-ranks.ts"
import { createRun, discardRun, Journals, RankLog } from "./train-run.ts"
import { learningRate } from "./train-schedule.ts"
import { announce, openSession, type Session } from "./train-session.ts"
import { smokeTest } from "./train-smoke.ts"
import { saveState, type TrainerState } from "./train-state.ts"
import { momentSizes, planRun } from "./train-step.ts"
import { type StopFlag, Stopped, stopIfAsked } from "./train-stop.ts"

/**
 * Trains `job` to its end, or until `flag` says stop; a checkpoint is always written last. Returns the summary it emitted. Throws Stopped when it
 * was stopped before the first step; a new run then leaves nothing behind.
 */
export async function train(job: TrainJob, device: Device, flag: StopFlag, emit: Emit): Promise<Summary> {
  if (job.dist === undefined) return await trainAlone(job, device, flag, emit, undefined)
  const ranks = Ranks.join(job, job.dist)
  const { rank, size, transport, directory, watch } = ranks
  emit({ type: "ranks", rank, size, transport, watch, directory })
  const own = { ...job, directory }
  const summary = rank === 0 ? await trainAlone(own, device, flag, emit, ranks) : await follow(own, device, flag, emit, ranks)
  ranks.close()
  return summary
}

/** A run of one process, or rank 0's part of one. */
async function trainAlone(job: TrainJob, device: Device, flag: StopFlag, emit: Emit, ranks: Ranks | undefined): Promise<Summary> {
  const started = performance.now()
  const { directory } = job
  if (!job.resume) createRun(directory)
  const unlock = lockRun(directory)
  const journals = new Journals(directory)
  try {
    if (job.resume) recoverCheckpoints(directory)
    const { prepared, plans } = await open(job, device, flag, emit, ranks)
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
      return await loop(session, flag, started)
    } catch (error) {
      if (!(error instanceof Stopped)) recordCrash(journals, session.trainer.step, error as Error)
      throw error
    } finally {
      free(session)
    }
  } catch (error) {
    if (!job.resume) discardRun(directory, error instanceof Stopped)
    throw error
  } finally {
    journals.close()
    unlock()
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
  const { prepared, plans } = await open(job, device, flag, tell, ranks)
  const session = openSession(job, prepared, device, plans, tell, ranks)
  try {
    announce(session)
    return await loop(session, flag, started)
  } finally {
    free(session)
  }
}

/** Data, model and programs of a run; ranks open them in turn, and make sure that they have the same. Throws where memory is too small. */
async function open(job: TrainJob, device: Device, flag: StopFlag, emit: Emit, ranks: Ranks | undefined) {
  const prepared =
    ranks === undefined
      ? await prepare(job, flag, emit)
      : await ranks.inTurn(
          (known: { tokenizerJson: string | undefined } | undefined) => prepare(job, flag, emit, known?.tokenizerJson),
          ({ tokenizerJson }) => ({ tokenizerJson }),
        )
  if (ranks !== undefined) {
    const { data, tokenizerHash } = prepared
    ranks.requireSame({ dataHash: data.train.hash, valHash: data.val?.hash, tokenizerHash }, "give every rank the same data")
    ranks.requireSame({ device: computesLike(device) }, "ranks need like processors; where these differ, ALPHA_ISA=v3 on all uses what they share")
    if (job.values.shardOptimizer) ranks.shardParameters(prepared.model)
  }
  const evaluates = prepared.data.val !== undefined && job.values.evalInterval !== undefined
  const plans = planRun(prepared.model, job.values, evaluates, ranks?.sharing)
  const memory = memoryOf(job, prepared, device, plans, ranks?.sharing)
  if (job.values.dryRun) {
    emit(memory)
    throw new Stopped("nothing was trained (--dryRun)")
  }
  checkFits(memory)
  smokeTest(device, job.values.failOnSmokeTest, emit)
  return { prepared, plans }
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
async function loop(s: Session, flag: StopFlag, started: number): Promise<Summary> {
  const { values } = s.job
  const first = s.trainer.step
  const steps = new StepLog(s, first, started)
  let status: Summary["status"] = "completed"
  if (first === 0 && values.evalInterval !== undefined) await runEvaluation(s, flag)
  if (s.trainer.owed !== undefined) {
    await afterStep(s, s.trainer.owed, flag)
    if (s.trainer.owed === undefined) checkpoint(s) // as it would have been written without the stop
    if (isStale(s)) status = "early_stop"
  }
  while (s.trainer.step < values.steps && status !== "early_stop") {
    if (isStopped(s, flag)) {
      if (s.trainer.step === 0) throw new Stopped()
      status = "stopped"
      break
    }
    steps.push(submitStep(s))
    const { step } = s.trainer
    const due = dueAfter(step, values)
    const saves = step % values.checkpointInterval === 0
    if (due.length > 0 || saves) steps.drain()
    await afterStep(s, due, flag)
    if (due.includes("evaluation") && isStale(s)) status = "early_stop"
    if (saves || (due.includes("evaluation") && s.trainer.best?.step === step)) checkpoint(s)
    if (step % values.callbackYieldEvery === 0) await Bun.sleep(0) // lets messages in
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

/** Whether this process, or any rank, was asked to stop: ranks stop after the same step. */
const isStopped = ({ ranks }: Session, flag: StopFlag): boolean => ranks?.anyOf(flag.stopped) ?? flag.stopped

/** Batches and micro-steps, shared by the ranks in turn, then the update; its results may still be on their way. */
function submitStep(s: Session): Submitted {
  const at = performance.now()
  const { values } = s.job
  const { batch: rows, context: T, accumSteps, seed } = values
  const { step } = s.trainer
  const profile = values.profile === step + 1 ? new StepProfile() : undefined
  const run = (program: Executable, inputs: RunInputs) => profile?.run(program, inputs) ?? program.submit(inputs)
  const tokens = new Int32Array(rows * T)
  const targets = new Int32Array(rows * T)
  const { ranks } = s
  const { rank, size } = ranks ?? { rank: 0, size: 1 }
  for (let first = 0; first < accumSteps; first += size) {
    const k = first + rank
    if (k < accumSteps) {
      fillBatch(
        s.prepared.data.train,
        { seed, step, row: k * rows, rows, T, order: values.order, globalBatch: rows * accumSteps, boundaries: values.documentBoundaries },
        tokens,
        targets,
      )
      const accumulate = first === 0 || ranks?.isOrdered ? 0 : 1
      run(s.micro, { tokens, targets, accumulate, seed: seed | 0, step, row: k * rows * T })
    }
    ranks?.endRound(s.state, s.prepared.model, first / size, Math.min(size, accumSteps - first), first + size >= accumSteps)
  }
  const lr = learningRate(step, values)
  const out = run(s.update, { lr })
  ranks?.endStep(s.state, s.prepared.model, values.precision)
  if (profile !== undefined) s.emit(profile.event(step + 1, values.traceFile))
  s.trainer = { ...s.trainer, step: step + 1, tokens: s.trainer.tokens + rows * accumSteps * T }
  return { step: step + 1, tokens: s.trainer.tokens, lr, at, out }
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
async function afterStep(s: Session, due: readonly Due[], flag: StopFlag): Promise<void> {
  for (const [i, part] of due.entries()) {
    try {
      if (part === "evaluation") await runEvaluation(s, flag)
      else runSamples(s, flag)
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
async function runEvaluation(s: Session, flag: StopFlag): Promise<void> {
  const { values } = s.job
  const { val } = s.prepared.data
  if (val === undefined || s.evaluation === undefined) return
  const result = await evaluate(s.evaluation, val, {
    batches: values.evalSteps,
    ranks: s.ranks,
    yieldNow: async () => {
      await Bun.sleep(0)
      if (isStopped(s, flag)) throw new Stopped()
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
  })
}

/** Continues the prompts: rank 0 does, the others wait. Throws Stopped, with nothing recorded. */
function runSamples(s: Session, flag: StopFlag): void {
  const { ranks } = s
  if (ranks === undefined) return drawSamples(s, flag)
  let isDone = true
  try {
    if (ranks.rank === 0) drawSamples(s, flag)
  } catch (error) {
    if (!(error instanceof Stopped)) throw error
    isDone = false
  }
  if (!ranks.share(isDone)) throw new Stopped()
}

function drawSamples(s: Session, flag: StopFlag): void {
  const { prepared, job, device, state, trainer } = s
  const { tokenizer } = prepared
  if (tokenizer === undefined) return
  const rows = prepared.samplePrompts.map((prompt): SampleRow => {
    const text = generateText(device, state, prepared.model, tokenizer, prompt, {
      precision: job.values.precision,
      maxTokens: job.values.sampleTokens,
      ends: [prepared.ids.eos ?? []].flat(),
      sampling: { temperature: 0.8, topK: 200, topP: 1, minP: 0, repetitionPenalty: 1, seed: job.values.seed + trainer.step },
      onToken: () => stopIfAsked(flag),
    })
    return { type: "sample", step: trainer.step, prompt, text }
  })
  for (const row of rows) s.emit(row)
}

/** Writes the checkpoint of the current step, moves the links, deletes what retention lets go; ranks but the first give what only they have. */
function checkpoint(s: Session): void {
  const { job, prepared, state, whole, trainer, ranks } = s
  const moment = (name: string, length: number) => ranks?.collect(state, name, length) ?? (state.read(name) as Float32Array)
  ranks?.requireSameWeights(state, prepared.model, trainer.step)
  if (ranks !== undefined && ranks.rank > 0) {
    for (const [name, length] of momentSizes(whole.program)) moment(name, length)
    s.saved = trainer.step
    return
  }
  const path = checkpointPath(job.directory, trainer.step)
  const bytes = saveState(path, state, whole, {
    moment,
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
  s.emit({ type: "checkpoint", step: trainer.step, path, bytes, best })
}

export { createEvaluator, type Evaluation, evaluate } from "./train-eval.ts"
export type {
  AlertEvent,
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
export type { TrainJob } from "./train-prepare.ts"
export { newestRun, type RunRecord, readRecord } from "./train-run.ts"
export { learningRate } from "./train-schedule.ts"
export { type ShipOptions, type Shipper, startShipper } from "./train-ship.ts"
export { markCounts, offsetOf, prefixMarks, repairJournal } from "./train-ship-journal.ts"
export { microPlan, type OptimizerConfig, updatePlan } from "./train-step.ts"
export type { StopFlag } from "./train-stop.ts"
