/** What follows a step at its interval: evaluation and samples, and what of them is owed after a stop. */
import { generateText } from "./gpt.ts"
import { evaluate } from "./train-eval.ts"
import type { SampleRow } from "./train-metrics.ts"
import type { TrainJob } from "./train-prepare.ts"
import type { Session } from "./train-session.ts"
import type { TrainerState } from "./train-state.ts"
import { type Pause, type StopFlag, Stopped, stopIfAsked } from "./train-stop.ts"

type Due = NonNullable<TrainerState["owed"]>[number]

/** What follows a step at its interval, and the last step. */
export function dueAfter(step: number, { steps, evalInterval, sampleInterval }: TrainJob["values"]): Due[] {
  const isDue = (interval: number | undefined) => interval !== undefined && (step % interval === 0 || step === steps)
  return [...(isDue(evalInterval) ? (["evaluation"] as const) : []), ...(isDue(sampleInterval) ? (["samples"] as const) : [])]
}

/**
 * Does what is due. A stop ends it without half a result; the rest is owed: the checkpoint remembers it, and the resumed run does it first,
 * so that it ends in the same bytes.
 */
export async function afterStep(s: Session, due: readonly Due[], flag: StopFlag, pause: Pause): Promise<void> {
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
export const isStale = ({ job, trainer }: Session): boolean => job.values.patience !== undefined && trainer.stale >= job.values.patience

/** Evaluates, remembers the best, counts evaluations without a better loss. Throws Stopped, with nothing recorded. */
export async function runEvaluation(s: Session, flag: StopFlag, pause: Pause): Promise<void> {
  const { values } = s.job
  const { val } = s.prepared.data
  if (val === undefined || s.evaluation === undefined) return
  const began = performance.now()
  const result = await evaluate(s.evaluation, val, {
    batches: values.evalSteps,
    ranks: s.ranks,
    yieldNow: async () => {
      await Bun.sleep(0)
      await pause()
      if (isStopped(s, flag, "evaluation")) throw new Stopped()
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

/** Continues the prompts: rank 0 does, the others wait. Throws Stopped, with nothing recorded. */
async function runSamples(s: Session, flag: StopFlag, pause: Pause): Promise<void> {
  const { ranks } = s
  if (ranks === undefined) {
    await drawSamples(s, flag, pause)
    return
  }
  let isDone = true
  try {
    if (ranks.rank === 0) await drawSamples(s, flag, pause)
  } catch (error) {
    if (!(error instanceof Stopped)) throw error
    isDone = false
  }
  if (!ranks.share(isDone)) throw new Stopped()
}

async function drawSamples(s: Session, flag: StopFlag, pause: Pause): Promise<void> {
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

/** Whether this process, or any rank, was asked to stop: ranks stop after the same step. */
export const isStopped = ({ ranks }: Session, flag: StopFlag, before: "step" | "evaluation"): boolean =>
  ranks?.anyOf(flag.stopped, before) ?? flag.stopped
