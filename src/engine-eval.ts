/** Loss, perplexity and bits per byte of a model directory on data. */
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { openData } from "./data.ts"
import { loadModel, type Precision } from "./gpt.ts"
import type { Device } from "./program.ts"
import { parseTokenizer } from "./token.ts"
import { evaluate, evaluationPlan, type StopFlag } from "./train.ts"

export interface EvalJob {
  readonly model: string
  readonly data: string
  readonly context: number | undefined
  readonly batch: number
  readonly precision: Precision
  readonly runsDir: string
  readonly workers: number
}

export interface EvalReport {
  readonly type: "eval"
  readonly model: string
  readonly data: string
  /** Nats per target. */
  readonly loss: number
  readonly perplexity: number
  readonly bits_per_byte: number | null
  readonly targets: number
  readonly context: number
  readonly tokens_per_s: number
  readonly device: string
  readonly precision: Precision
}

/** Every token of `data` but the first is predicted exactly once, from its window of `context` tokens: the same number every time. */
export async function evaluateModel(job: EvalJob, device: Device, flag: StopFlag, emit: (event: { done: number; total: number }) => void): Promise<EvalReport> {
  const { directory, model, state, tokenizerJson } = loadModel(device, job.model, job.precision)
  const T = job.context ?? model.blockSize
  if (model.position === "learned" && T > model.blockSize) {
    throw new AlphaError(`context ${T} is longer than the ${model.blockSize} positions of ${directory}`, { hint: `set --context=${model.blockSize} or less`, code: EXIT.usage })
  }
  const opened = await openData({
    data: job.data,
    valFraction: 0,
    tokenizer: tokenizerJson === undefined ? undefined : parseTokenizer(tokenizerJson),
    vocabSize: model.vocabSize,
    cacheDir: join(job.runsDir, ".cache"),
    workers: job.workers,
    seed: 0,
    documentBoundaries: false,
    maskPrompt: false,
  })
  const run = device.compile(evaluationPlan({ model, precision: job.precision, B: job.batch, T }), state)
  const started = performance.now()
  const result = await evaluate(run, opened.train, { B: job.batch, T }, {
    onProgress: (done, total) => {
      if (flag.stopped) throw new AlphaError("eval: stopped before the end, there is no result", { code: EXIT.interrupted })
      emit({ done, total })
    },
    yieldNow: () => Bun.sleep(0),
  })
  const seconds = (performance.now() - started) / 1000
  run.free()
  state.free()
  opened.train.close()
  return {
    type: "eval", model: directory, data: job.data, loss: result.loss, perplexity: result.perplexity, bits_per_byte: result.bitsPerByte ?? null,
    targets: result.targets, context: T, tokens_per_s: result.targets / seconds, device: device.name, precision: job.precision,
  }
}
