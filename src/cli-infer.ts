/** `alpha infer`: continues prompts and shows the answers as they come. */
import { AlphaError, EXIT } from "./base-error.ts"
import { colours } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { chat } from "./cli-infer-chat.ts"
import { type Input, type Prompt, readPrompts } from "./cli-infer-prompts.ts"
import { type About, type Answer, AnswerWriter, answerJson, promptText, speedLine, wholeText } from "./cli-infer-view.ts"
import { onStop } from "./cli-signal.ts"
import type { InferConfig } from "./config.ts"
import { type Engine, type Jobs, startEngine } from "./engine.ts"
import { modelPath } from "./gpt.ts"

/** Returns EXIT.interrupted when Ctrl-C cut the answers short. */
export async function run({ config, json }: Invocation<InferConfig>): Promise<number | undefined> {
  if (config.model === undefined) {
    throw new AlphaError("infer: no model is given", {
      hint: "add --model=RUN, a checkpoint or a Hugging Face directory",
      code: EXIT.usage,
    })
  }
  // Resolved once: a run that goes on training may move its best checkpoint meanwhile.
  const job = inferJob(config, modelPath(config.model, config.runsDir))
  if (config.chat) {
    if (config.promptFile !== undefined) throw new AlphaError("infer: --chat and --promptFile exclude each other", { code: EXIT.usage })
    const engine = startEngine()
    try {
      return await chat(engine, job, config, json)
    } finally {
      engine.close()
    }
  }
  const prompts = await readPrompts(config, STDIN)
  const engine = startEngine()
  try {
    return await answerAll(engine, { ...job, prompts }, config, json)
  } finally {
    engine.close()
  }
}

const STDIN: Input = { isTTY: process.stdin.isTTY === true, read: () => Bun.stdin.bytes() }

type Job = Jobs["generate"]["input"]

function inferJob(config: InferConfig, model: string): Job {
  const { precision, temperature, topK, topP, minP, repetitionPenalty, seed, maxTokens, stop, overflow, batch } = config
  const sampling = { temperature, topK, topP, minP, repetitionPenalty, seed }
  return { model, precision, prompts: [], sampling, maxTokens, stop, overflow, batch, keep: false }
}

async function answerAll(
  engine: Engine,
  job: Job,
  { device, threads, debugGpu, seed }: InferConfig,
  json: boolean,
): Promise<number | undefined> {
  const { prompts, precision } = job
  const view = json ? jsonView(prompts, { precision, seed }) : prompts.length === 1 ? streamView(prompts[0]!) : listView(prompts)
  const paint = colours()
  const note = (text: string) => void process.stderr.write(`${paint.dim(text)}\n`)
  let interrupted = false
  const running = engine.start(
    "generate",
    job,
    { device, threads, debugGpu },
    {
      onEvent(event) {
        if (event.type === "ready") view.ready(event)
        else if (event.type === "token") view.token(event)
        else view.done(event.index, event.answer)
      },
      ...(json ? {} : { onNote: note }),
    },
  )
  const release = onStop(() => {
    interrupted = true
    running.stop()
  })
  try {
    const report = await running.result
    if (!json) note(speedLine(report))
    return interrupted ? EXIT.interrupted : undefined
  } finally {
    release()
  }
}

type Event<T extends string> = Extract<Jobs["generate"]["event"], { type: T }>
interface View {
  ready(event: Event<"ready">): void
  token(event: Event<"token">): void
  done(index: number, answer: Answer): void
}
const nothing = () => {}

/** One prompt: it, then its answer as it comes. */
function streamView(prompt: Prompt): View {
  const writer = new AnswerWriter(process.stdout)
  return {
    ready: () => void process.stdout.write(colours(process.stdout).bold(promptText(prompt))),
    token: (event) => writer.token(event),
    done: (_, answer) => writer.done(answer),
  }
}

/** Several prompts: each whole, in their order. */
function listView(prompts: readonly Prompt[]): View {
  const put = inOrder((index, answer) => {
    process.stdout.write(`${index === 0 ? "" : "---\n"}${wholeText(prompts[index]!, answer)}`)
  })
  return { ready: nothing, token: nothing, done: put }
}

/** One JSON object per prompt, in their order. */
function jsonView(prompts: readonly Prompt[], settings: Pick<About, "precision" | "seed">): View {
  let about: About
  const put = inOrder((index, answer) => {
    process.stdout.write(`${JSON.stringify(answerJson(index, prompts[index]!, answer, about))}\n`)
  })
  return {
    ready: ({ model, device }) => {
      about = { model, device, ...settings }
    },
    token: nothing,
    done: put,
  }
}

/** Passes answers on in the order of their prompts, each as soon as those before it are there. */
export function inOrder(put: (index: number, answer: Answer) => void): (index: number, answer: Answer) => void {
  const waiting = new Map<number, Answer>()
  let next = 0
  return (index, answer) => {
    waiting.set(index, answer)
    for (let ready = waiting.get(next); ready !== undefined; ready = waiting.get(next)) {
      waiting.delete(next)
      put(next++, ready)
    }
  }
}
