/** `alpha eval`: loss, perplexity and bits per byte of a model on a file. */
import { availableParallelism } from "node:os"
import { AlphaError, EXIT } from "./base-error.ts"
import { formatBytes, formatCount, Progress } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import type { EvalConfig } from "./config.ts"
import { type Jobs, startEngine } from "./engine.ts"

type EvalEvent = Jobs["eval"]["event"]
type EvalReport = Jobs["eval"]["result"]

export async function run({ config, json, print }: Invocation<EvalConfig>): Promise<undefined> {
  const { data, context, stride, batch, precision, runsDir, device, threads, debugGpu } = config
  const model = config.model ?? missing("model", "--model=RUN, a checkpoint or a Hugging Face directory")
  const job = {
    model,
    data: data ?? missing("data", "--data=held-out.txt"),
    context,
    stride,
    batch,
    precision,
    runsDir,
    workers: threads ?? availableParallelism(),
  }
  const view = json ? undefined : progressView()
  const engine = startEngine()
  try {
    const onNote = (note: string) => void (json || process.stderr.write(`${note}\n`))
    const report = await engine.start("eval", job, { device, threads, debugGpu }, { onEvent: (event) => view?.show(event), onNote }).result
    view?.close()
    print(report, () => text(report))
  } finally {
    view?.close()
    engine.close()
  }
}

function missing(name: string, hint: string): never {
  throw new AlphaError(`eval: no ${name} given`, { hint: `add ${hint}`, code: EXIT.usage })
}

/** One progress bar per part of the work, on standard error. */
function progressView() {
  let label: string | undefined
  let progress: Progress | undefined
  const close = () => {
    progress?.finish()
    progress = undefined
  }
  return {
    show(event: EvalEvent) {
      if (event.label !== label) {
        close()
        label = event.label
        const format = label === "evaluate" ? (windows: number) => `${formatCount(windows)} windows` : formatBytes
        progress = new Progress({ label, total: event.total, format })
      }
      progress?.update(event.done)
    },
    close,
  }
}

function text({
  model,
  data,
  loss,
  perplexity,
  bits_per_byte,
  targets,
  context,
  stride,
  tokens_per_s,
  device,
  precision,
}: EvalReport): string {
  const windows = stride === context ? `windows of ${context}` : `windows of ${context}, ${stride} apart`
  return [
    `loss ${loss.toFixed(4)}  perplexity ${perplexity.toPrecision(6)}${bits_per_byte === null ? "" : `  bits per byte ${bits_per_byte.toFixed(4)}`}`,
    `${model} on ${data}: ${targets} tokens predicted in ${windows}, ${formatCount(tokens_per_s)} tokens/s on ${device} in ${precision}`,
  ].join("\n")
}
