/** Loss, perplexity and bits per byte of a model directory on data. */
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { type DataProgress, evalWindows, openWhole } from "./data.ts"
import { loadModel, modelPath, type Precision } from "./gpt.ts"
import type { Device } from "./program.ts"
import { parseTokenizer } from "./token.ts"
import { createEvaluator, evaluate, type StopFlag } from "./train.ts"

export interface EvalJob {
  readonly model: string
  readonly data: string
  /** Tokens per window; undefined: the model's blockSize. */
  readonly context: number | undefined
  /** Tokens between the starts of two windows; undefined: the context. */
  readonly stride: number | undefined
  readonly batch: number
  readonly precision: Precision
  readonly runsDir: string
  /** Threads that tokenise. */
  readonly workers: number
}

/** Bytes of data read, or windows evaluated. */
export type EvalEvent = DataProgress

export interface EvalReport {
  readonly type: "eval"
  readonly model: string
  readonly data: string
  /** Nats per target. */
  readonly loss: number
  readonly perplexity: number
  /** Null where the bytes behind the tokens are not known. */
  readonly bits_per_byte: number | null
  /** Tokens predicted: all but the first. */
  readonly targets: number
  readonly context: number
  readonly stride: number
  readonly tokens_per_s: number
  readonly device: string
  readonly precision: Precision
}

/** Every token of `data` but the first is predicted exactly once, in the first window that holds it: the same number every time. */
export async function evaluateModel(job: EvalJob, device: Device, flag: StopFlag, emit: (event: EvalEvent) => void): Promise<EvalReport> {
  const { precision } = job
  const { directory, model, state, tokenizerJson } = loadModel(device, modelPath(job.model, job.runsDir), precision)
  try {
    const T = job.context ?? model.blockSize
    const stride = job.stride ?? T
    if (model.position === "learned" && T > model.blockSize) {
      throw new AlphaError(`context ${T} is longer than the ${model.blockSize} positions of ${directory}`, {
        hint: `set --context=${model.blockSize} or less`,
        code: EXIT.usage,
      })
    }
    if (stride > T) {
      throw new AlphaError(`stride ${stride} is longer than the context of ${T}: tokens would be left out`, {
        hint: `set --stride=${T} or less`,
        code: EXIT.usage,
      })
    }
    const dataset = await openWhole({
      data: job.data,
      valFraction: 0,
      tokenizer: tokenizerJson === undefined ? undefined : parseTokenizer(tokenizerJson),
      vocabSize: model.vocabSize,
      cacheDir: join(job.runsDir, ".cache"),
      workers: job.workers,
      seed: 0,
      documentBoundaries: false,
      maskPrompt: false,
      onProgress: emit,
    })
    const B = Math.min(job.batch, evalWindows(dataset, T, false, stride).count)
    const run = createEvaluator(device, state, { model, precision, B, T })
    try {
      const started = performance.now()
      const onProgress = (done: number, total: number) => {
        if (flag.stopped) throw new AlphaError("eval: stopped before the end, there is no result", { code: EXIT.interrupted })
        emit({ label: "evaluate", done: done * B, total: total * B })
      }
      const result = await evaluate(run, dataset, { stride, onProgress, yieldNow: () => Bun.sleep(0) })
      const { loss, perplexity, targets } = result
      return {
        type: "eval",
        model: directory,
        data: job.data,
        loss,
        perplexity,
        bits_per_byte: result.bitsPerByte ?? null,
        targets,
        context: T,
        stride,
        tokens_per_s: (targets * 1000) / (performance.now() - started),
        device: device.name,
        precision,
      }
    } finally {
      run.free()
      dataset.close()
    }
  } finally {
    state.free()
  }
}
