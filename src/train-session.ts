/** One run in progress: its programs, its state and their first values. */
import { AlphaError, EXIT } from "./base-error.ts"
import { countParams, exactClass, flopsPerToken, ggufObstacle, initialise, loadParameters, refreshCopies } from "./gpt.ts"
import type { Device, Executable, Plan, State } from "./program.ts"
import { createEvaluator, type Evaluation, type Evaluator } from "./train-eval.ts"
import type { Emit } from "./train-metrics.ts"
import { measurePeak } from "./train-peak.ts"
import type { Prepared, TrainJob } from "./train-prepare.ts"
import type { StepProfile } from "./train-profile.ts"
import type { Ranks } from "./train-ranks.ts"
import { readRecord, rewindJournals, withSources, writeRecord } from "./train-run.ts"
import { loadState, type TrainerState } from "./train-state.ts"
import { type RunPlans, trainerStates } from "./train-step.ts"
import { Stopped } from "./train-stop.ts"

/** One run in progress: what the steps change. */
export interface Session {
  readonly job: TrainJob
  readonly prepared: Prepared
  readonly device: Device
  readonly state: State
  /** Undefined where a step has one micro-batch: `update` is then all of it. */
  readonly micro: Executable | undefined
  readonly update: Executable
  /** The update of all parameters, of which this rank may have a part. */
  readonly whole: Plan
  /** Undefined where nothing is evaluated. */
  readonly evaluation: Evaluator | undefined
  readonly emit: Emit
  /** Undefined where this process trains alone. */
  readonly ranks: Ranks | undefined
  /** Of the step that is profiled, and those shortly before it. */
  profile: StepProfile | undefined
  trainer: TrainerState
  /** Step of the newest checkpoint. */
  saved: number
  lastEval: Evaluation | undefined
}

/** Compiles the programs and gives the state its first values. */
export function openSession(
  job: TrainJob,
  prepared: Prepared,
  device: Device,
  plans: RunPlans,
  emit: Emit,
  ranks: Ranks | undefined,
): Session {
  const { values } = job
  const { model } = prepared
  const { precision } = values
  const { shape, update, whole } = plans
  const state = device.state()
  const inParts = ranks?.shareGradients(device, state, plans, values.bucketMiB)
  let trainer: TrainerState = { step: 0, tokens: 0, best: null, stale: 0, dataHash: prepared.data.train.hash, seed: values.seed }
  const isFirst = ranks === undefined || ranks.rank === 0
  if (isFirst && prepared.checkpoint !== undefined) {
    trainer = loadState(prepared.checkpoint, state, whole, model, precision)
    checkSame(trainer, prepared, job)
  } else if (isFirst && prepared.init !== undefined) loadParameters(state, model, prepared.init)
  else if (isFirst) initialise(device, state, model, values.seed)
  if (ranks !== undefined) trainer = ranks.share(trainer)
  checkUnfinished(trainer, job)
  ranks?.spread(state, model, trainerStates(whole.program))
  refreshCopies(device, state, model, precision)
  if (isFirst) {
    rewindJournals(job.directory, prepared.checkpoint === undefined ? -1 : trainer.step)
    writeRecord(job.directory, {
      id: (job.resume ? readRecord(job.directory).id : undefined) ?? crypto.randomUUID(),
      ...job.record,
      config: withSources(job.record.config, prepared.data),
      dataHash: prepared.data.train.hash,
      tokenizerHash: prepared.tokenizerHash,
      device: device.description,
    })
  }
  return {
    job,
    prepared,
    device,
    state,
    emit,
    ranks,
    profile: undefined,
    trainer,
    whole,
    micro: plans.micro && device.compile(plans.micro, state, inParts),
    update: device.compile(update, state),
    evaluation: plans.evaluation && createEvaluator(device, state, shape, plans.evaluation),
    saved: trainer.step,
    lastEval: undefined,
  }
}

/** The checkpoint's random numbers and data position mean the seed and the data that it was made with. */
function checkSame(trainer: TrainerState, prepared: Prepared, job: TrainJob): void {
  const { seed } = job.values
  if (trainer.seed !== seed) {
    throw new AlphaError(`run ${job.directory} was trained with seed ${trainer.seed}, the configuration says ${seed}`, {
      hint: `leave --seed out, or start a new run from its weights: --init=${job.directory}`,
      code: EXIT.usage,
    })
  }
  const now = prepared.data.train.hash
  if (trainer.dataHash === now) return
  throw new AlphaError(
    `run ${job.directory}: the training data changed since it began (tokens ${trainer.dataHash.slice(0, 12)}, now ${now.slice(0, 12)})`,
    { hint: `restore ${job.values.data}, or start a new run from its weights: --init=${job.directory}`, code: EXIT.data },
  )
}

function checkUnfinished({ step, owed }: TrainerState, { directory, values }: TrainJob): void {
  if (step < values.steps || owed !== undefined) return
  const why = `run ${directory} is complete: step ${step} of ${values.steps}`
  // Who starts it again and again, as launchers do, has what it wanted.
  if (values.resume === "or-start") throw new Stopped(why, true)
  throw new AlphaError(why, {
    hint: `train on with --steps=${step * 2}`,
    code: EXIT.usage,
  })
}

/** Tells what is about to be trained. */
export function announce({ job, prepared, device, state, micro, update, emit, trainer }: Session): void {
  const { values } = job
  const { model, data } = prepared
  const exact = exactClass(model)
  const gguf = ggufObstacle(model)
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
    memoryBytes: state.bytes() + Math.max(...[micro, update].map((run) => (run === undefined ? 0 : device.arenaBytes(run.plan)))),
    step: trainer.step,
    steps: values.steps,
    saved:
      typeof exact !== "string"
        ? `alpha (${exact.none}: ${exact.why})`
        : `${exact}${gguf === undefined ? "" : ` (no GGUF: ${gguf.field} ${model[gguf.field]})`}`,
    chat: prepared.chatTemplate !== undefined,
    webhook: job.hasWebhook ?? false,
  })
}
