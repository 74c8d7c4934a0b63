/** The training loop: batches → micro-steps → update → evaluation, samples, checkpoints; tells everything through `emit`. */
import { AlphaError, EXIT } from "./base-error.ts"
import { fillBatch } from "./data.ts"
import {
  checkpointPath,
  countParams,
  exactClass,
  flopsPerToken,
  generateText,
  initialise,
  loadParameters,
  recoverCheckpoints,
  refreshCopies,
  retain,
  setLink,
} from "./gpt.ts"
import { CONTROL } from "./op.ts"
import type { Device, Executable, State } from "./program.ts"
import { type Evaluation, evaluate } from "./train-eval.ts"
import { lockRun } from "./train-lock.ts"
import { type Emit, median, type Summary, type TrainEvent } from "./train-metrics.ts"
import { measurePeak } from "./train-peak.ts"
import { type Prepared, prepare, type TrainJob } from "./train-prepare.ts"
import { append, createRun, discardRun, rewindJournals, withSources, writeRecord } from "./train-run.ts"
import { learningRate } from "./train-schedule.ts"
import { loadState, saveState, type TrainerState } from "./train-state.ts"
import { evaluationPlan, microPlan, updatePlan } from "./train-step.ts"

/** Set from outside to end training after the current step; shared between threads. */
export interface StopFlag {
  readonly stopped: boolean
}

/** One run in progress: what the steps change. */
interface Session {
  readonly job: TrainJob
  readonly prepared: Prepared
  readonly device: Device
  readonly state: State
  readonly micro: Executable
  readonly update: Executable
  readonly evaluation: Executable
  readonly emit: Emit
  trainer: TrainerState
  /** Step of the newest checkpoint. */
  saved: number
  lastEval: Evaluation | undefined
}

/** Trains `job` to its end, or until `flag` says stop; a checkpoint is always written last. Returns the summary it emitted. */
export async function train(job: TrainJob, device: Device, flag: StopFlag, emit: Emit): Promise<Summary> {
  const started = performance.now()
  const { directory } = job
  if (!job.resume) createRun(directory)
  const unlock = lockRun(directory)
  try {
    if (job.resume) recoverCheckpoints(directory)
    const prepared = await prepare(job, emit)
    const journal = (event: TrainEvent) => {
      record(directory, event)
      emit(event)
    }
    const session = open(job, prepared, device, journal)
    try {
      announce(session)
      return await loop(session, flag, started)
    } finally {
      for (const run of [session.micro, session.update, session.evaluation]) run.free()
      session.state.free()
      prepared.data.train.close()
      prepared.data.val?.close()
    }
  } catch (error) {
    if (!job.resume) discardRun(directory)
    throw error
  } finally {
    unlock()
  }
}

/** Puts an event into the journal it belongs to. */
function record(directory: string, event: TrainEvent): void {
  if (event.type === "step" || event.type === "eval") append(directory, "metrics", event)
  else if (event.type === "sample") append(directory, "samples", event)
  else if (event.type !== "progress") append(directory, "events", { time: new Date().toISOString(), ...event })
}

/** Compiles the programs and gives the state its first values. */
function open(job: TrainJob, prepared: Prepared, device: Device, emit: Emit): Session {
  const { values } = job
  const { model } = prepared
  const { precision, batch: B, context: T } = values
  const shape = { model, precision, B, T }
  const state = device.state()
  const update = updatePlan(shape, values)
  let trainer: TrainerState = { step: 0, tokens: 0, best: null, stale: 0, dataHash: prepared.data.train.hash, seed: values.seed }
  if (prepared.checkpoint !== undefined) {
    trainer = loadState(prepared.checkpoint, state, update, model, precision)
    checkSameData(trainer, prepared, job)
    checkUnfinished(trainer, job)
  } else if (prepared.init !== undefined) loadParameters(state, model, prepared.init)
  else initialise(device, state, model, values.seed)
  refreshCopies(device, state, model, precision)
  rewindJournals(job.directory, prepared.checkpoint === undefined ? -1 : trainer.step)
  writeRecord(job.directory, {
    ...job.record,
    config: withSources(job.record.config, prepared.data),
    dataHash: prepared.data.train.hash,
    tokenizerHash: prepared.tokenizerHash,
    device: device.description,
  })
  return {
    job,
    prepared,
    device,
    state,
    emit,
    trainer,
    micro: device.compile(microPlan(shape, values.activationCheckpointing), state),
    update: device.compile(update, state),
    evaluation: device.compile(evaluationPlan(shape), state),
    saved: trainer.step,
    lastEval: undefined,
  }
}

function checkSameData(trainer: TrainerState, prepared: Prepared, job: TrainJob): void {
  const now = prepared.data.train.hash
  if (trainer.dataHash === now) return
  throw new AlphaError(
    `run ${job.directory}: the training data changed since it began (tokens ${trainer.dataHash.slice(0, 12)}, now ${now.slice(0, 12)})`,
    { hint: `restore ${job.values.data}, or start a new run from its weights: --init=${job.directory}`, code: EXIT.data },
  )
}

function checkUnfinished({ step }: TrainerState, { directory, values }: TrainJob): void {
  if (step < values.steps) return
  throw new AlphaError(`run ${directory} is complete: step ${step} of ${values.steps}`, {
    hint: `train on with --steps=${step * 2}`,
    code: EXIT.usage,
  })
}

function announce({ job, prepared, device, state, micro, update, emit, trainer }: Session): void {
  const { values } = job
  const { model, data } = prepared
  const exact = exactClass(model)
  emit({
    type: "start",
    run: job.directory,
    device: device.description,
    precision: values.precision,
    parameters: countParams(model),
    flopsPerToken: flopsPerToken(model, values.context),
    peakFlops: measurePeak(device, values.precision),
    trainTokens: data.train.tokens,
    valTokens: data.val?.tokens ?? 0,
    vocabSize: model.vocabSize,
    tokensPerStep: values.batch * values.accumSteps * values.context,
    memoryBytes: state.bytes() + micro.plan.arenaBytes + update.plan.arenaBytes,
    step: trainer.step,
    steps: values.steps,
    saved: typeof exact === "string" ? exact : `alpha (${exact.none}: ${exact.why})`,
  })
}

/** Steps until the end, an early stop or the flag; then the last checkpoint and the summary. */
async function loop(s: Session, flag: StopFlag, started: number): Promise<Summary> {
  const { values } = s.job
  const times: number[] = []
  const first = s.trainer.step
  const flops = flopsPerToken(s.prepared.model, values.context)
  const peak = measurePeak(s.device, values.precision)
  const tokensPerStep = values.batch * values.accumSteps * values.context
  const speed = () => (tokensPerStep * 1000 * times.length) / times.reduce((a, b) => a + b, 0)
  let status: Summary["status"] = "completed"
  let loss = Number.NaN
  if (first === 0 && values.evalInterval !== undefined) await runEvaluation(s)
  while (s.trainer.step < values.steps) {
    if (flag.stopped) {
      status = "stopped"
      break
    }
    const at = performance.now()
    const result = oneStep(s)
    times.push(performance.now() - at)
    loss = result.loss
    const { step } = s.trainer
    if (result.skip !== undefined) s.emit({ type: "note", step, level: "warn", message: `step ${step} skipped: ${result.skip}` })
    if (step % values.logInterval === 0 || step === values.steps || step === first + 1) {
      const recent = times.slice(-values.logInterval)
      const ms = recent.reduce((a, b) => a + b, 0) / recent.length
      s.emit({
        type: "step",
        step,
        loss,
        lr: result.lr,
        gradNorm: result.gradNorm,
        tokens: s.trainer.tokens,
        tokens_per_s: (tokensPerStep * 1000) / ms,
        ms_per_step: ms,
        mfu: (flops * tokensPerStep * 1000) / ms / peak,
        skipped: result.skipped,
        elapsed_s: (performance.now() - started) / 1000,
        eta_s: ((values.steps - step) * ms) / 1000,
      })
    }
    const isLast = step === values.steps
    const isEvaluation = values.evalInterval !== undefined && (step % values.evalInterval === 0 || isLast)
    if (isEvaluation && (await runEvaluation(s)) === "early_stop") status = "early_stop"
    if (values.sampleInterval !== undefined && (step % values.sampleInterval === 0 || isLast)) runSamples(s)
    if (step % values.checkpointInterval === 0 || (isEvaluation && s.trainer.best?.step === step)) checkpoint(s)
    if (status === "early_stop") break
    await Bun.sleep(0) // lets messages in
  }
  if (s.saved !== s.trainer.step) checkpoint(s)
  const steady = times.slice(Math.ceil(times.length / 10))
  const total = steady.reduce((a, b) => a + b, 0)
  const summary: Summary = {
    type: "summary",
    run: s.job.directory,
    status,
    steps: s.trainer.step,
    tokens_per_s: steady.length > 0 ? (tokensPerStep * 1000 * steady.length) / total : speed() || 0,
    ms_per_step: median(steady),
    loss: Number.isFinite(loss) ? loss : null,
    val_loss: s.lastEval?.loss ?? null,
    best_val_loss: s.trainer.best?.loss ?? null,
    bits_per_byte: s.lastEval?.bitsPerByte ?? null,
    skipped: (s.state.read("control") as Float32Array)[CONTROL.skipped] as number,
    wall_s: (performance.now() - started) / 1000,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    device: s.device.name,
    precision: values.precision,
  }
  s.emit(summary)
  return summary
}

/** Batches, micro-steps, update; `skip` says why nothing was updated. */
function oneStep(s: Session): { loss: number; lr: number; gradNorm: number; skipped: number; skip: string | undefined } {
  const { values } = s.job
  const { batch: rows, context: T, accumSteps, seed } = values
  const { step } = s.trainer
  const tokens = new Int32Array(rows * T)
  const targets = new Int32Array(rows * T)
  for (let k = 0; k < accumSteps; k++) {
    fillBatch(
      s.prepared.data.train,
      { seed, step, row: k * rows, rows, T, order: values.order, globalBatch: rows * accumSteps, boundaries: values.documentBoundaries },
      tokens,
      targets,
    )
    s.micro.submit({ tokens, targets, accumulate: k === 0 ? 0 : 1, seed: seed | 0, step, row: k * rows * T })
  }
  const lr = learningRate(step, values)
  const out = s.update.submit({ lr })
  const control = out.read("control")
  const count = out.read("count")[0] as number
  const loss = (out.read("loss")[0] as number) / count
  s.trainer = { ...s.trainer, step: step + 1, tokens: s.trainer.tokens + rows * accumSteps * T }
  return {
    loss,
    lr,
    gradNorm: control[CONTROL.norm] as number,
    skipped: control[CONTROL.skipped] as number,
    skip: control[CONTROL.skip] === 1 ? skipReason(control, count) : undefined,
  }
}

function skipReason(control: ArrayLike<number>, count: number): string {
  if (count === 0) return "no token of its batch takes the loss"
  const norm = (control[CONTROL.norm] as number).toPrecision(4)
  if (!Number.isFinite(control[CONTROL.norm])) return `gradient norm ${norm}`
  return `gradient norm ${norm} is a spike, the running mean is ${(control[CONTROL.meanNorm] as number).toPrecision(4)}`
}

/** Evaluates, remembers the best, counts towards early stop. */
async function runEvaluation(s: Session): Promise<"early_stop" | undefined> {
  const { values } = s.job
  const { val } = s.prepared.data
  if (val === undefined) return undefined
  const result = await evaluate(
    s.evaluation,
    val,
    { B: values.batch, T: values.context },
    { batches: values.evalSteps, yieldNow: () => Bun.sleep(0) },
  )
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
  return values.patience !== undefined && s.trainer.stale >= values.patience ? "early_stop" : undefined
}

function runSamples(s: Session): void {
  const { prepared, job, device, state, trainer } = s
  const { tokenizer } = prepared
  if (tokenizer === undefined) return
  for (const prompt of prepared.samplePrompts) {
    const text = generateText(device, state, prepared.model, tokenizer, prompt, {
      precision: job.values.precision,
      maxTokens: job.values.sampleTokens,
      ends: [prepared.ids.eos ?? []].flat(),
      sampling: { temperature: 0.8, topK: 200, topP: 1, minP: 0, repetitionPenalty: 1, seed: job.values.seed + trainer.step },
    })
    s.emit({ type: "sample", step: trainer.step, prompt, text })
  }
}

/** Writes the checkpoint of the current step, moves the links, deletes what retention lets go. */
function checkpoint(s: Session): void {
  const { job, prepared, state, update, trainer } = s
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
  s.emit({ type: "checkpoint", step: trainer.step, path, bytes, best })
}

export { type Evaluation, evaluate } from "./train-eval.ts"
export type { EvalRow, SampleRow, StartEvent, StepRow, Summary, TrainEvent } from "./train-metrics.ts"
export { measurePeak } from "./train-peak.ts"
export type { TrainJob } from "./train-prepare.ts"
export { newestRun, type RunRecord, readRecord } from "./train-run.ts"
export { learningRate } from "./train-schedule.ts"
export { evaluationPlan, microPlan, type OptimizerConfig, updatePlan } from "./train-step.ts"
