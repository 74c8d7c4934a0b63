/** How answers look: text as it comes, JSON objects, and a last line about speed. */
import { formatCount, formatDuration, type Screen } from "./base-term.ts"
import type { Prompt } from "./cli-infer-prompts.ts"
import type { Jobs } from "./engine.ts"

type Event = Jobs["generate"]["event"]
export type Answer = Extract<Event, { type: "done" }>["answer"]
type Report = Jobs["generate"]["result"]

/** What is known of every answer before it comes. */
export interface About {
  readonly model: string
  readonly device: string
  readonly precision: string
  readonly seed: number
}

const perSecond = (tokens: number, ms: number): number => (ms > 0 ? Number(((tokens * 1000) / ms).toPrecision(5)) : 0)
const milliseconds = (ms: number): number => Number(ms.toFixed(3))

/** The JSON object of one answer. */
export function answerJson(index: number, prompt: Prompt, answer: Answer, { model, device, precision, seed }: About) {
  const { promptIds, ids, logprobs, text, finish, stop, prefillMs, decodeMs } = answer
  return {
    type: "answer",
    index,
    ...("text" in prompt ? { prompt: prompt.text } : "messages" in prompt ? { messages: prompt.messages } : {}),
    prompt_ids: promptIds,
    text: text ?? null,
    ids,
    logprobs,
    finish_reason: finish,
    stop: stop ?? null,
    timing: {
      prefill_tokens: promptIds.length,
      prefill_ms: milliseconds(prefillMs),
      prefill_tokens_per_s: perSecond(promptIds.length, prefillMs),
      decode_tokens: Math.max(0, ids.length - 1),
      decode_ms: milliseconds(decodeMs),
      decode_tokens_per_s: perSecond(Math.max(0, ids.length - 1), decodeMs),
    },
    model,
    device,
    precision,
    seed,
  }
}

/** "prefill 12 tokens, 840 tokens/s · decode 199 tokens, 31.2 tokens/s · loaded in 420 ms · cpu, f32" */
export function speedLine({ prefill, decode, loadMs, device, precision }: Report): string {
  const rate = ({ tokens, ms }: { tokens: number; ms: number }) => `${tokens} tokens, ${formatCount(perSecond(tokens, ms))} tokens/s`
  return `prefill ${rate(prefill)} · decode ${rate(decode)} · loaded in ${formatDuration(loadMs)} · ${device}, ${precision}`
}

/** The prompt as it stands before its answer; a conversation is not repeated. */
export const promptText = (prompt: Prompt): string =>
  "text" in prompt ? prompt.text : "ids" in prompt ? `ids:${prompt.ids.join(",")},` : ""

/** Writes one answer as its tokens come; ids with commas between them where the model has no tokenizer. */
export class AnswerWriter {
  #written = ""
  #count = 0

  constructor(readonly out: Pick<Screen, "write">) {}

  token({ id, text }: Extract<Event, { type: "token" }>): void {
    this.#write(text ?? `${this.#count === 0 ? "" : ","}${id}`)
    this.#count++
  }

  /** What was held back until the end; the line is ended. */
  done({ text }: Answer): void {
    this.#write(text?.slice(this.#written.length) ?? "")
    if (!this.#written.endsWith("\n")) this.out.write("\n")
  }

  #write(piece: string): void {
    if (piece !== "") this.out.write(piece)
    this.#written += piece
  }
}

/** Prompt and answer of one of several, as one text. */
export function wholeText(prompt: Prompt, { text, ids }: Answer): string {
  const whole = `${promptText(prompt)}${text ?? ids.join(",")}`
  return whole.endsWith("\n") ? whole : `${whole}\n`
}
