/** `alpha infer --chat`: a conversation, line by line. */
import { createInterface } from "node:readline"
import { AlphaError, EXIT } from "./base-error.ts"
import { colours } from "./base-term.ts"
import { type Answer, AnswerWriter, answerJson, speedLine } from "./cli-infer-view.ts"
import type { InferConfig } from "./config.ts"
import type { Engine, Jobs, RunningJob } from "./engine.ts"

type Job = Jobs["generate"]["input"]
type Message = Extract<Job["prompts"][number], { messages: unknown }>["messages"][number]

/**
 * Answers one line after another until /quit or the end of input; /reset forgets the conversation. Ctrl-C ends the answer, and the program
 * when there is none. On a terminal an answer that fails is said and forgotten; elsewhere it is thrown.
 */
export async function chat(engine: Engine, job: Job, config: InferConfig, json: boolean): Promise<number | undefined> {
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true
  const paint = colours()
  const say = (text: string) => void process.stderr.write(`${paint.dim(text)}\n`)
  const where = { device: config.device, threads: config.threads, debugGpu: config.debugGpu }
  const start = (messages: readonly Message[], writer: AnswerWriter | undefined, done: (answer: Answer) => void) =>
    engine.start("generate", { ...job, keep: true, prompts: messages.length === 0 ? [] : [{ messages }] }, where, {
      onEvent(event) {
        if (event.type === "token") writer?.token(event)
        else if (event.type === "done") done(event.answer)
      },
      ...(json ? {} : { onNote: say }),
    })

  const loaded = await start([], undefined, () => {}).result
  if (!loaded.chats) {
    throw new AlphaError(`${loaded.model} has no chat template`, {
      hint: "it was not made for conversations; continue a text: alpha infer --prompt=TEXT",
      code: EXIT.data,
    })
  }
  const total = { ...loaded, prefill: { tokens: 0, ms: 0 }, decode: { tokens: 0, ms: 0 } }
  const messages: Message[] = []
  let running: RunningJob<"generate"> | undefined
  let stopping = false

  /** Asks and shows the answer; the question is taken back when it cannot be answered. */
  const turn = async (content: string): Promise<void> => {
    messages.push({ role: "user", content })
    const writer = json ? undefined : new AnswerWriter(process.stdout)
    let answer: Answer | undefined
    running = start(messages, writer, (given) => {
      answer = given
    })
    try {
      const { prefill, decode } = await running.result
      for (const [sum, part] of [[total.prefill, prefill] as const, [total.decode, decode] as const]) {
        sum.tokens += part.tokens
        sum.ms += part.ms
      }
      if (answer === undefined) return
      writer?.done(answer)
      const about = { model: loaded.model, device: loaded.device, precision: config.precision, seed: config.seed }
      if (json) process.stdout.write(`${JSON.stringify(answerJson(0, { messages }, answer, about))}\n`)
      messages.push({ role: "assistant", content: answer.text ?? "" })
    } catch (error) {
      messages.pop()
      if (!isTerminal || !(error instanceof AlphaError)) throw error
      say(`${error.message}${error.hint === undefined ? "" : ` — ${error.hint}`}; /reset begins anew`)
    } finally {
      running = undefined
      stopping = false
    }
  }

  const lines = createInterface({ input: process.stdin, ...(isTerminal ? { output: process.stdout, prompt: "> " } : {}) })
  const input = lines[Symbol.asyncIterator]() // from now on no line is lost
  const onSignal = () => {
    if (running === undefined) return void lines.close()
    if (stopping) process.exit(EXIT.interrupted)
    stopping = true
    running.stop()
  }
  if (isTerminal) lines.on("SIGINT", onSignal)
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal)
  if (isTerminal) say("/reset begins anew, /quit ends")
  try {
    if (config.prompt !== undefined) await turn(config.prompt)
    if (isTerminal) lines.prompt()
    for await (const line of input) {
      if (line === "/quit") break
      if (line === "/reset") messages.length = 0
      else if (/^\/\w+$/.test(line)) say("/reset begins anew, /quit ends")
      else if (line.trim() !== "") await turn(line)
      if (isTerminal) lines.prompt()
    }
  } finally {
    lines.close()
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal)
  }
  if (!json) say(speedLine(total))
  return undefined
}
