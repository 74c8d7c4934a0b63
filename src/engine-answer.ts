/** One prompt on its way to an answer: what it has chosen, its text, when and why it ends. */
import { AlphaError, EXIT } from "./base-error.ts"
import { AnswerText } from "./engine-text.ts"
import type { Choice } from "./gpt.ts"
import type { Tokenizer } from "./token.ts"

/** end: an end-of-text token · stop: a stop text · length: the most tokens allowed · interrupted: the job was stopped. */
export type FinishReason = "end" | "stop" | "length" | "interrupted"

export interface Answer {
  readonly promptIds: readonly number[]
  /** Chosen tokens, an end-of-text token and those of a stop text included. */
  readonly ids: readonly number[]
  /** ln of each one's probability under the model itself. */
  readonly logprobs: readonly number[]
  /** Without stop text; undefined where the model has no tokenizer. */
  readonly text: string | undefined
  readonly finish: FinishReason
  /** The stop text that was found. */
  readonly stop: string | undefined
  /** Time to the first token, and from it to the last. */
  readonly prefillMs: number
  readonly decodeMs: number
}

export interface AnswerRules {
  readonly tokenizer: Tokenizer | undefined
  /** End-of-text tokens. */
  readonly ends: ReadonlySet<number>
  readonly stop: readonly string[]
  /** Most tokens. */
  readonly limit: number
  readonly blockSize: number
}

export class OpenAnswer {
  readonly #text: AnswerText
  readonly #ids: number[] = []
  readonly #logprobs: number[] = []
  readonly #startedAt = performance.now()
  #firstAt = 0
  #lastAt = 0
  finish: FinishReason | undefined

  constructor(
    readonly index: number,
    readonly prompt: readonly number[],
    readonly slot: number,
    readonly rules: AnswerRules,
  ) {
    this.#text = new AnswerText(rules.tokenizer, rules.stop)
  }

  /** Number of the next random draw. */
  get draw(): number {
    return this.#ids.length
  }

  /** Tokens that it may still get. */
  get left(): number {
    return this.rules.limit - this.#ids.length
  }

  /** The token that the model has not seen yet. */
  get last(): number {
    return this.#ids.at(-1)!
  }

  /** The tokens to compute next where the cache does not hold them: everything, or the newest half of the window once that is too long. */
  get window(): readonly number[] {
    const all = [...this.prompt, ...this.#ids]
    const { blockSize } = this.rules
    return all.length <= blockSize ? all : all.slice(-Math.max(1, Math.floor(blockSize / 2)))
  }

  /** Takes the next token; returns the text that became certain with it (undefined without tokenizer) and sets `finish` when it was the last. */
  take({ id, logprob }: Choice): string | undefined {
    if (Number.isNaN(logprob)) {
      throw new AlphaError(`the logits are not numbers after ${this.prompt.length + this.#ids.length} tokens`, {
        hint: "the model is damaged or diverged in training: use another checkpoint",
        code: EXIT.data,
      })
    }
    this.#lastAt = performance.now()
    if (this.#ids.length === 0) this.#firstAt = this.#lastAt
    this.#ids.push(id)
    this.#logprobs.push(logprob)
    const isEnd = this.rules.ends.has(id)
    const text = isEnd ? "" : this.#text.push(id)
    if (isEnd) this.finish = "end"
    else if (this.#text.stop !== undefined) this.finish = "stop"
    else if (this.#ids.length >= this.rules.limit) this.finish = "length"
    const certain = this.finish === undefined ? text : text + this.#rest()
    return this.rules.tokenizer === undefined ? undefined : certain
  }

  /** A stop text that only the end of an unfinished character completes still counts. */
  #rest(): string {
    const rest = this.#text.finish()
    if (this.#text.stop !== undefined) this.finish = "stop"
    return rest
  }

  /** The job ends here. */
  interrupt(): void {
    this.finish = "interrupted"
    this.#rest()
  }

  result(): Answer {
    return {
      promptIds: this.prompt,
      ids: this.#ids,
      logprobs: this.#logprobs,
      text: this.rules.tokenizer === undefined ? undefined : this.#text.text,
      finish: this.finish!,
      stop: this.#text.stop,
      prefillMs: this.#ids.length === 0 ? 0 : this.#firstAt - this.#startedAt,
      decodeMs: this.#lastAt - this.#firstAt,
    }
  }
}
