/** The generate job: continues prompts, as many at once as asked, and tells every token as it comes. */
import { AlphaError, EXIT } from "./base-error.ts"
import { type Answer, type AnswerRules, OpenAnswer } from "./engine-answer.ts"
import { closeHost, type Host, hostGenerator, openHost } from "./engine-host.ts"
import type { Prompt } from "./engine-prompt.ts"
import type { Choice, Generator, Precision, Sampling } from "./gpt.ts"
import type { Device } from "./program.ts"
import type { StopFlag } from "./train.ts"

export interface GenerateJob {
  /** Run directory, checkpoint or model directory. */
  readonly model: string
  readonly precision: Precision
  /** None: the model is only loaded. */
  readonly prompts: readonly Prompt[]
  readonly sampling: Sampling
  /** Longest answer in tokens; undefined: 200, or what blockSize leaves if that is less. */
  readonly maxTokens: number | undefined
  /** Texts that end an answer and are not part of it. */
  readonly stop: readonly string[]
  /** When prompt and answer do not fit blockSize: refuse, or drop the oldest half of the window whenever it is full and compute the rest again. */
  readonly overflow: "error" | "slide"
  /** Prompts that run together. */
  readonly batch: number
  /** The model and its cache stay for the next job, which then computes only what is new of its prompt. */
  readonly keep: boolean
}

/** Texts of a prompt's token events add up to a beginning of its answer's text (undefined where there is none); the rest comes with `done`. */
export type GenerateEvent =
  /** Before the first token: all prompts can be answered. */
  | { readonly type: "ready"; readonly model: string; readonly device: string }
  | { readonly type: "token"; readonly index: number; readonly id: number; readonly text: string | undefined }
  | { readonly type: "done"; readonly index: number; readonly answer: Answer }

/** A number of tokens and the time they took. */
export interface Work {
  readonly tokens: number
  readonly ms: number
}

export interface GenerateReport {
  /** The model directory itself. */
  readonly model: string
  readonly device: string
  readonly precision: Precision
  readonly loadMs: number
  /** Whether the model has a template for conversations. */
  readonly chats: boolean
  /** Prompt tokens that were computed. */
  readonly prefill: Work
  /** Tokens of all rows but each one's first, and the wall time of their steps. */
  readonly decode: Work
}

/** Length of an answer when nothing says it. */
const USUAL_TOKENS = 200

/** Answers come in any order, as they end; the order within one prompt is fixed. */
export async function generate(
  job: GenerateJob,
  device: Device,
  flag: StopFlag,
  emit: (event: GenerateEvent) => void,
): Promise<GenerateReport> {
  const started = performance.now()
  const host = openHost(device, job.model, job.precision)
  const loadMs = performance.now() - started
  try {
    const { directory, model } = host.loaded
    if (job.stop.length > 0 && host.tokenizer === undefined) {
      throw new AlphaError(`stop texts need a tokenizer, and ${directory} has no tokenizer.json`, { code: EXIT.usage })
    }
    const prompts = await Promise.all(job.prompts.map((prompt, i) => named(i, job.prompts.length, () => host.read(prompt))))
    const about = { model: directory, device: device.name, precision: job.precision, loadMs, chats: host.loaded.chatTemplate !== undefined }
    if (prompts.length === 0) return { ...about, prefill: { tokens: 0, ms: 0 }, decode: { tokens: 0, ms: 0 } }
    const limits = await Promise.all(prompts.map((ids, i) => named(i, prompts.length, () => answerLimit(job, host, ids.length))))
    const longest = Math.max(...prompts.map((ids, i) => Math.min(model.blockSize, ids.length + limits[i]!)))
    emit({ type: "ready", model: directory, device: device.name })
    const generator = hostGenerator(device, host, Math.min(job.batch, prompts.length), longest, job.keep)
    const open = (index: number, slot: number): OpenAnswer => {
      const rules: AnswerRules = { ...host, stop: job.stop, limit: limits[index]!, blockSize: model.blockSize }
      return new OpenAnswer(index, prompts[index]!, slot, rules)
    }
    const work = await runAll(prompts.length, open, generator, job.sampling, flag, emit)
    return { ...about, ...work }
  } finally {
    if (!job.keep) closeHost(device)
  }
}

/** Runs `work` on prompt `index` of `count`; an error says which one it was. */
async function named<T>(index: number, count: number, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (count === 1 || !(error instanceof AlphaError)) throw error
    throw new AlphaError(`prompt ${index + 1} of ${count}: ${error.message}`, { hint: error.hint, code: error.code, cause: error })
  }
}

/** Most tokens of an answer to a prompt of `length` tokens. Throws AlphaError when the window refuses. */
function answerLimit({ maxTokens, overflow }: GenerateJob, { loaded: { model, directory } }: Host, length: number): number {
  if (overflow === "slide") return maxTokens ?? USUAL_TOKENS
  const room = model.blockSize - length
  const limit = maxTokens ?? Math.min(USUAL_TOKENS, room)
  if (limit > 0 && limit <= room) return limit
  const asked = maxTokens === undefined ? "" : ` and maxTokens ${maxTokens}`
  throw new AlphaError(`${length} tokens of the prompt${asked} do not fit blockSize ${model.blockSize} of ${directory}`, {
    hint: `${room > 0 ? `set --maxTokens=${room} or less, or ` : ""}--overflow=slide drops the oldest half of the window whenever it is full`,
    code: EXIT.usage,
  })
}

/** Runs `count` answers, in order of their prompts; a slot that becomes free takes the next one. */
async function runAll(
  count: number,
  open: (index: number, slot: number) => OpenAnswer,
  generator: Generator,
  sampling: Sampling,
  flag: StopFlag,
  emit: (event: GenerateEvent) => void,
): Promise<Pick<GenerateReport, "prefill" | "decode">> {
  const prefill = { tokens: 0, ms: 0 }
  const decode = { tokens: 0, ms: 0 }
  const slots = Array.from({ length: generator.slots }, (_, slot) => slot)
  let running: OpenAnswer[] = []
  let next = 0

  const turn = ({ slot, draw }: OpenAnswer) => ({ slot, draw, sampling })
  const take = (row: OpenAnswer, choice: Choice) => {
    const text = row.take(choice)
    emit({ type: "token", index: row.index, id: choice.id, text })
  }
  const fill = (row: OpenAnswer) => {
    const from = performance.now()
    const choice = generator.prefill({ ...turn(row), ids: row.window })
    prefill.ms += performance.now() - from
    prefill.tokens += choice.computed
    take(row, choice)
  }
  const step = (rows: readonly OpenAnswer[]) => {
    const from = performance.now()
    const choices = generator.decode(
      rows.map((row) => ({ ...turn(row), id: row.last })),
      next < count ? 1 : Math.max(...rows.map(({ left }) => left)) - 1, // who waits for a slot is not to wait for steps that the others do not need
    )
    decode.ms += performance.now() - from
    decode.tokens += rows.length
    rows.forEach((row, i) => {
      take(row, choices[i]!)
    })
  }

  while (!flag.stopped && (running.length > 0 || next < count)) {
    const isFull = (row: OpenAnswer) => generator.held(row.slot) === row.rules.blockSize
    const steady = running.filter((row) => !isFull(row))
    running.filter(isFull).forEach(fill)
    if (steady.length > 0) step(steady)
    while (slots.length > 0 && next < count) {
      const row = open(next++, slots.shift()!)
      fill(row)
      running.push(row)
    }
    for (const row of running.filter((row) => row.finish !== undefined)) {
      slots.push(row.slot)
      emit({ type: "done", index: row.index, answer: row.result() })
    }
    running = running.filter((row) => row.finish === undefined)
    await new Promise((resolve) => setImmediate(resolve)) // messages come in between steps
  }
  while (next < count) running.push(open(next++, 0))
  for (const row of running) {
    row.interrupt()
    emit({ type: "done", index: row.index, answer: row.result() })
  }
  return { prefill, decode }
}
