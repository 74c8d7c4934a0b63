/** What training tells the outside: the events, and the metrics row of a step. */

/** What a GPU's maker tells of it, in some of the steps. */
export interface GpuColumns {
  readonly gpu_memory_bytes?: number
  /** Share of the time in which a kernel ran, 0 to 1. */
  readonly gpu_utilisation?: number
  readonly gpu_power_w?: number
  readonly gpu_temperature_c?: number
  readonly gpu_sm_mhz?: number
  readonly gpu_memory_mhz?: number
}

/** One logged step. Losses in nats per counted target, ms per optimizer step, tokens/s of the whole run. */
export interface StepRow extends GpuColumns {
  readonly type: "step"
  readonly step: number
  readonly loss: number
  readonly lr: number
  readonly gradNorm: number
  readonly tokens: number
  readonly tokens_per_s: number
  readonly ms_per_step: number
  /** Of it, since the row before: making batches, giving work to the device, waiting for results. What is left is the device at work meanwhile. */
  readonly data_ms: number
  readonly submit_ms: number
  readonly wait_ms: number
  /** Share of the best matrix-product rate that the device has shown so far, at most 1. */
  readonly mfu: number
  readonly skipped: number
  readonly elapsed_s: number
  /** Seconds left at this speed. */
  readonly eta_s: number
}

export interface EvalRow {
  readonly type: "eval"
  readonly step: number
  readonly val_loss: number
  readonly perplexity: number
  /** Absent where the bytes behind the tokens are not known. */
  readonly bits_per_byte?: number
  readonly best: boolean
  readonly eval_ms: number
}

export interface SampleRow {
  readonly type: "sample"
  readonly step: number
  readonly prompt: string
  readonly text: string
  readonly ms: number
}

export interface Summary {
  readonly type: "summary"
  readonly run: string
  readonly status: "completed" | "stopped" | "early_stop"
  readonly steps: number
  readonly tokens_per_s: number
  /** Median without the first tenth of this process's steps. */
  readonly ms_per_step: number
  /** Of the last step; null when it was not a number. */
  readonly loss: number | null
  readonly val_loss: number | null
  readonly best_val_loss: number | null
  readonly bits_per_byte: number | null
  readonly skipped: number
  readonly wall_s: number
  readonly peak_rss_bytes: number
  /** Most bytes on the GPU at once; null on the CPU. */
  readonly peak_gpu_bytes: number | null
  readonly device: string
  readonly precision: string
}

export interface StartEvent {
  readonly type: "start"
  readonly run: string
  readonly device: string
  readonly precision: string
  readonly parameters: number
  readonly flopsPerToken: number
  /** Rate of the device's matrix product, FLOP/s. */
  readonly peakFlops: number
  readonly trainTokens: number
  readonly valTokens: number
  readonly vocabSize: number
  readonly tokensPerStep: number
  readonly memoryBytes: number
  readonly step: number
  readonly steps: number
  /** Class transformers loads the checkpoints as, or why there is none; whether there can be a GGUF file. */
  readonly saved: string
  /** The checkpoints carry a chat template. */
  readonly chat: boolean
  /** Alerts go to a webhook from the trainer's process. */
  readonly webhook: boolean
}

/** Bytes of each part of a run; all but the arena outlive its steps. */
export interface MemoryEvent {
  readonly type: "memory"
  readonly device: string
  readonly parameters: number
  readonly weights: number
  readonly copies: number
  readonly gradients: number
  readonly moments: number
  /** Activations and scratch: one piece of memory that all programs share. */
  readonly arena: number
  /** Keys and values of the samples drawn during training. */
  readonly cache: number
  readonly total: number
  /** What the device has for this process; undefined where it does not tell. */
  readonly budget: number | undefined
  readonly fits: boolean
  /** Settings with which it would fit, the least change first. */
  readonly options: readonly string[]
}

/** One kernel (on the CPU: op) over a whole step. */
export interface KernelTime {
  readonly op: string
  readonly kernel: string | undefined
  readonly launches: number
  readonly ms: number
  /** Share of all kernels' time. */
  readonly share: number
  readonly gb_per_s: number
  /** 0 where memory decides. */
  readonly tflop_per_s: number
}

/** A step as it really ran, launches side by side and the next step's already given: when the device had nothing to do. */
export interface Bubbles {
  readonly step: number
  /** From the end of the step before to its own. */
  readonly step_ms: number
  /** Between what must end before a barrier and the first launch behind it, over all barriers. */
  readonly barriers_ms: number
  /** Before the first launch of each submit. */
  readonly submits_ms: number
  /** Of step_ms, both. */
  readonly share: number
}

export interface ProfileEvent {
  readonly type: "profile"
  readonly step: number
  /** Time of all launches one after another; the step itself may take less (side by side) or more (waiting). */
  readonly ms: number
  readonly launches: number
  /** How often the step makes everything wait for everything before; 0 on a CPU. */
  readonly barriers: number
  /** A launch of nothing with its barrier: at most so long a barrier of the step keeps the device waiting. Only with barriers. */
  readonly barrier_ms?: number
  /** Of a step before it; only on a GPU, where two steps or more ran before. */
  readonly bubbles?: Bubbles
  readonly kernels: readonly KernelTime[]
  /** File for chrome://tracing, if one was asked for. */
  readonly traceFile: string | undefined
}

/** A checkpoint was written. */
export interface CheckpointEvent {
  readonly type: "checkpoint"
  readonly step: number
  readonly path: string
  readonly bytes: number
  /** Of the weights. */
  readonly sha256: string | undefined
  readonly best: boolean
  readonly ms: number
}

/** The beginning of something a person should look at. */
export interface AlertEvent {
  readonly type: "alert"
  readonly step: number
  readonly rule: "nan" | "spike" | "slow" | "disk"
  readonly message: string
}

/** Several ranks have found each other. */
export interface RanksEvent {
  readonly type: "ranks"
  readonly rank: number
  readonly size: number
  readonly transport: string
  /** Where rank 0 watches; empty where every rank knew it before. */
  readonly watch: string
  /** Directory of the run, which rank 0 chose. */
  readonly directory: string
}

export type TrainEvent =
  | StartEvent
  | RanksEvent
  | StepRow
  | EvalRow
  | SampleRow
  | { readonly type: "progress"; readonly label: string; readonly done: number; readonly total: number }
  | { readonly type: "note"; readonly step: number; readonly level: "info" | "warn"; readonly message: string }
  | CheckpointEvent
  | AlertEvent
  | ProfileEvent
  | MemoryEvent
  | Summary

export type Emit = (event: TrainEvent) => void

/** Median; 0 of nothing. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return 0
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}
