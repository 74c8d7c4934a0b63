/** How training looks: a live line with lasting lines above it, or JSON lines. */
import { colours, columns, formatBytes, formatCount, formatDuration, LiveLine, Progress } from "./base-term.ts"
import type { Bubbles, EvalRow, MemoryEvent, ProfileEvent, StartEvent, StepRow, Summary, TrainEvent } from "./train.ts"

export interface TrainView {
  show(event: TrainEvent): void
  note(text: string): void
  close(): void
}

/** One JSON object per logged step, evaluation and sample on standard output; the summary last. */
export function jsonLines(): TrainView {
  return {
    show(event) {
      if (event.type !== "progress") process.stdout.write(`${JSON.stringify(event)}\n`)
    },
    note: (text) => void process.stderr.write(`${text}\n`),
    close: () => {},
  }
}

/** For people, on standard error. */
export function trainConsole(): TrainView {
  const line = new LiveLine()
  const paint = colours()
  let progress: Progress | undefined
  let label = ""
  let valLoss: number | undefined
  let start: StartEvent | undefined
  const endProgress = () => {
    progress?.finish()
    progress = undefined
    label = ""
  }
  return {
    show(event) {
      if (event.type === "progress") {
        if (event.label !== label) {
          endProgress()
          label = event.label
          progress = new Progress({ label, total: event.total, format: label === "learn tokens" ? formatCount : formatBytes })
        }
        progress?.update(event.done)
        return
      }
      endProgress()
      if (event.type === "start") {
        start = event
        for (const text of startLines(event)) line.print(text)
      } else if (event.type === "step") {
        const text = stepText(event, start?.steps ?? 0, valLoss)
        if (line.isLive) line.show(text)
        else line.print(text)
      } else if (event.type === "eval") {
        valLoss = event.val_loss
        line.print(paint.cyan(evalText(event)))
      } else if (event.type === "sample") line.print(`${paint.dim("sample")} ${paint.bold(event.prompt)}${event.text}`)
      else if (event.type === "alert") line.print(paint.red(`alert (${event.rule}) ${event.message}`))
      else if (event.type === "note") line.print(event.level === "warn" ? paint.yellow(event.message) : event.message)
      else if (event.type === "ranks") line.print(`${event.size} ranks by ${event.transport}; this is rank ${event.rank}`)
      else if (event.type === "memory") for (const text of memoryLines(event)) line.print(text)
      else if (event.type === "profile") for (const text of profileLines(event)) line.print(text)
      else if (event.type === "checkpoint")
        line.print(paint.dim(`checkpoint ${event.path} (${formatBytes(event.bytes)}${event.best ? ", best" : ""})`))
      else {
        line.clear()
        for (const text of summaryLines(event, start?.chat ?? false)) line.print(text)
      }
    },
    note: (text) => line.print(text),
    close() {
      endProgress()
      line.clear()
    },
  }
}

function startLines(e: StartEvent): string[] {
  const rate = (flops: number) => `${formatCount(flops)}FLOP`
  return [
    `run ${e.run} · ${e.device} · ${e.precision} · ${formatCount(e.peakFlops)}FLOP/s measured`,
    `model ${formatCount(e.parameters)} parameters · ${rate(e.flopsPerToken)}/token · vocabulary ${e.vocabSize} · saved as ${e.saved}`,
    `data ${formatCount(e.trainTokens)} tokens to train on, ${formatCount(e.valTokens)} held out · ${formatCount(e.tokensPerStep)} tokens/step · ${formatBytes(e.memoryBytes)} of memory`,
    e.step === 0 ? `${e.steps} steps` : `continues after step ${e.step} of ${e.steps}`,
  ]
}

function stepText(e: StepRow, steps: number, valLoss: number | undefined): string {
  return [
    `step ${e.step}/${steps}`,
    `loss ${e.loss.toFixed(4)}`,
    ...(valLoss === undefined ? [] : [`val ${valLoss.toFixed(4)}`]),
    `lr ${e.lr.toExponential(2)}`,
    `norm ${e.gradNorm.toFixed(3)}`,
    `${formatCount(e.tokens_per_s)} tok/s`,
    `mfu ${(100 * e.mfu).toFixed(0)} %`,
    ...(e.skipped > 0 ? [`skipped ${e.skipped}`] : []),
    ...(e.step < steps ? [`eta ${formatDuration(e.eta_s * 1000)}`] : []),
  ].join("  ")
}

/** Every part of a run's memory, and whether it fits. */
function memoryLines(e: MemoryEvent): string[] {
  const parts = [
    [`weights (${formatCount(e.parameters)} parameters)`, e.weights],
    ["bf16 copies", e.copies],
    ["gradients", e.gradients],
    ["moments", e.moments],
    [e.gradients > 0 ? "activations and scratch" : "activations, gradients and scratch", e.arena],
    ["cache of samples", e.cache],
    ["together", e.total],
  ] as const
  const rows = parts.filter(([, bytes]) => bytes > 0).map(([name, bytes]) => [name, formatBytes(bytes)])
  const free = e.budget === undefined ? "the device does not tell what is free" : `${formatBytes(e.budget)} are free`
  const verdict = e.fits
    ? "it fits"
    : e.options.length > 0
      ? `it does not fit; it would with ${e.options.join(", or with ")}`
      : "it does not fit"
  return [`memory on ${e.device}`, columns(rows, [1]), `${free}: ${verdict}`]
}

/** The kernels of a step, the longest first. */
function profileLines({ step, ms, launches, barriers, barrier_ms: each = 0, bubbles, kernels, traceFile }: ProfileEvent): string[] {
  const named = kernels.some(({ kernel }) => kernel !== undefined)
  const rows = kernels.map((k) => [
    k.op,
    ...(named ? [k.kernel ?? ""] : []),
    String(k.launches),
    k.ms.toFixed(3),
    `${(100 * k.share).toFixed(1)} %`,
    k.gb_per_s.toFixed(0),
    k.tflop_per_s === 0 ? "" : k.tflop_per_s.toFixed(2),
  ])
  return [
    `profile of step ${step}: ${launches} launches${barriers === 0 ? "" : ` and ${barriers} barriers`}, ${ms.toFixed(2)} ms one after another`,
    ...(bubbles === undefined ? [] : [bubbleText(bubbles)]),
    ...(barriers === 0
      ? []
      : [
          `at a barrier the device waits at most ${(1000 * each).toFixed(1)} µs, as long as a launch of nothing takes: ${((100 * barriers * each) / (bubbles?.step_ms ?? ms)).toFixed(1)} % of the step`,
        ]),
    columns(
      [["op", ...(named ? ["kernel"] : []), "launches", "ms", "share", "GB/s", "TFLOP/s"], ...rows],
      named ? [2, 3, 4, 5, 6] : [1, 2, 3, 4, 5],
    ),
    ...(traceFile === undefined ? [] : [`timeline in ${traceFile} (open it in chrome://tracing)`]),
  ]
}

const bubbleText = ({ step, step_ms, barriers_ms, submits_ms, share }: Bubbles): string =>
  `bubbles of step ${step} as it ran, ${step_ms.toFixed(2)} ms: ${(1000 * barriers_ms).toFixed(0)} µs at barriers and ${(1000 * submits_ms).toFixed(0)} µs between submits, ${(100 * share).toFixed(1)} %`

function evalText(e: EvalRow): string {
  const bits = e.bits_per_byte === undefined ? "" : `  ${e.bits_per_byte.toFixed(4)} bits/byte`
  return `eval step ${e.step}  loss ${e.val_loss.toFixed(4)}  perplexity ${e.perplexity.toFixed(2)}${bits}${e.best ? "  (best)" : ""}`
}

function summaryLines(e: Summary, isChat: boolean): string[] {
  const word = { completed: "done", stopped: "stopped", early_stop: "stopped early" }[e.status]
  const best = e.best_val_loss === null ? "" : `, best held-out loss ${e.best_val_loss.toFixed(4)}`
  return [
    `${word}: ${e.steps} steps in ${formatDuration(e.wall_s * 1000)}, ${formatCount(e.tokens_per_s)} tokens/s, loss ${e.loss?.toFixed(4) ?? "not a number"}${best}`,
    `next: alpha infer --model=${e.run} ${isChat ? "--chat" : "--prompt='…'"}${e.status === "completed" ? "" : `   or   alpha train --resume=${e.run}`}`,
  ]
}
