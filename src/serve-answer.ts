/** One answer: tokens from the engine → certain text with its tokens, cut at stop texts; ends with the true reason. */
import {
  type Alternatives,
  type Constraint,
  type RequestEvent,
  type RequestFailure,
  type RequestSampling,
  type Serving,
  StopFilter,
} from "./engine.ts"
import { ApiError } from "./serve-error.ts"
import { limited } from "./serve-limit.ts"
import { StreamDecoder, type Tokenizer } from "./token.ts"

/** stop: an end-of-text token, a stop text, or the end of what the constraint allows · length: cut by max_tokens or the context. */
export type Finish = "stop" | "length"

/** A token of the answer. `start`: where its text begins, in UTF-16 units of the answer's text. */
export interface Token {
  readonly id: number
  readonly logprob: number
  readonly top: Alternatives | undefined
  readonly start: number
}

export interface PromptScores {
  readonly logprobs: Float32Array
  readonly top: readonly Alternatives[] | undefined
}

/** In this order: started, prompt*, text*, then end. */
export type Piece =
  | { readonly type: "started"; readonly fingerprint: string; readonly queueMs: number }
  | ({ readonly type: "prompt"; readonly from: number } & PromptScores)
  /** Text that is certain, and the tokens that begin in it. */
  | { readonly type: "text"; readonly text: string; readonly tokens: readonly Token[] }
  | {
      readonly type: "end"
      readonly finish: Finish
      readonly tokens: number
      readonly cachedTokens: number
      readonly stop: string | undefined
    }

export interface AnswerOrder {
  /** Key of a model. */
  readonly model: string
  readonly tokenizer: Tokenizer | undefined
  readonly prompt: Int32Array
  readonly maxTokens: number
  readonly sampling: RequestSampling
  /** Texts that end the answer, and are not part of it. */
  readonly stop: readonly string[]
  readonly stopIds: readonly number[]
  readonly topLogprobs: number
  readonly promptLogprobs: boolean
  readonly ignoreEnd: boolean
  readonly constraint: Constraint | undefined
  readonly client: string
  readonly queueMs: number
}

export interface AnswerListener {
  piece(piece: Piece): void
  /** Each token as it comes, for the clocks. */
  token(): void
  failed(error: ApiError): void
}

let nextId = 1

/** Request ids of the engine, used once. */
export const engineId = (): number => nextId++

/** Starts an answer; after end or failed nothing more is told. Returns what cancels it. */
export function startAnswer(serving: Serving, order: AnswerOrder, listener: AnswerListener): () => void {
  const id = engineId()
  const text = new GrowingText(order.tokenizer, order.stop)
  let open = true
  let cachedTokens = 0

  const tell = (flushed: { text: string; tokens: readonly Token[] }) => {
    if (flushed.text !== "" || flushed.tokens.length > 0) listener.piece({ type: "text", ...flushed })
  }
  const end = (finish: Finish) => {
    open = false
    listener.piece({ type: "end", finish, tokens: text.count, cachedTokens, stop: text.stop })
  }
  const onEvent = (event: RequestEvent): void => {
    if (!open) return
    if (event.type === "started") {
      cachedTokens = event.cachedTokens
      listener.piece({ type: "started", fingerprint: event.fingerprint, queueMs: event.queueMs })
    } else if (event.type === "promptLogprobs") {
      listener.piece({ type: "prompt", from: event.from, logprobs: event.logprobs, top: event.top })
    } else if (event.type === "token") {
      listener.token()
      tell(text.push(event))
      if (text.stop === undefined) return
      // The engine does not know the text: it is told to go no further.
      serving.cancel(id)
      end("stop")
    } else if (event.type === "finished") {
      cachedTokens = event.cachedTokens
      tell(text.finish())
      end(text.stop !== undefined || event.reason !== "length" ? "stop" : "length")
    } else if (event.type === "failed") {
      open = false
      listener.failed(failure(event))
    }
  }
  serving.submit(
    {
      id,
      model: order.model,
      kind: "generate",
      prompt: order.prompt,
      maxTokens: order.maxTokens,
      sampling: order.sampling,
      topLogprobs: order.topLogprobs,
      promptLogprobs: order.promptLogprobs,
      stopIds: order.stopIds,
      ignoreEnd: order.ignoreEnd,
      constraint: order.constraint,
      client: order.client,
      queueMs: order.queueMs,
    },
    onEvent,
  )
  return () => {
    if (!open) return
    open = false
    serving.cancel(id)
  }
}

/** Text of tokens; what may still become a stop text is held back with the tokens that begin in it. */
export class GrowingText {
  readonly #decoder: StreamDecoder | undefined
  readonly #filter: StopFilter
  #held: Token[] = []
  /** Length of all decoded text, and of what was let go. */
  #decoded = 0
  #certain = 0
  count = 0

  constructor(tokenizer: Tokenizer | undefined, stops: readonly string[]) {
    this.#decoder = tokenizer === undefined ? undefined : new StreamDecoder(tokenizer)
    this.#filter = new StopFilter(stops)
  }

  get stop(): string | undefined {
    return this.#filter.found
  }

  push({ id, logprob, top }: Omit<Token, "start">): { text: string; tokens: Token[] } {
    this.count++
    this.#held.push({ id, logprob, top, start: this.#decoded })
    const piece = this.#decoder?.push(id) ?? ""
    this.#decoded += piece.length
    return this.#release(this.#filter.push(piece))
  }

  /** The rest; an unfinished character becomes U+FFFD. */
  finish(): { text: string; tokens: Token[] } {
    const piece = this.#decoder?.finish() ?? ""
    const certain = this.#filter.push(piece)
    const released = this.#release(this.stop === undefined ? certain + this.#filter.finish() : certain)
    if (this.stop !== undefined) return released
    const tokens = [...released.tokens, ...this.#held]
    this.#held = []
    return { text: released.text, tokens }
  }

  /** Tokens go with the text they begin in; those that begin after a stop never go. */
  #release(text: string): { text: string; tokens: Token[] } {
    this.#certain += text.length
    const isFree = (token: Token) => token.start < this.#certain || (this.#decoded === this.#certain && this.stop === undefined)
    const at = this.#held.findIndex((token) => !isFree(token))
    const tokens = at < 0 ? this.#held : this.#held.slice(0, at)
    this.#held = at < 0 ? [] : this.#held.slice(at)
    return { text, tokens }
  }
}

/** Fields of the engine's request by the names that clients know. */
const PARAMS: Readonly<Record<string, string>> = {
  constraint: "response_format",
  prompt: "prompt",
  maxTokens: "max_tokens",
  sampling: "logit_bias",
}

/** What the client hears of a failure in the engine. */
export function failure({ code, message, param, retryAfterMs }: RequestFailure): ApiError {
  switch (code) {
    case "request":
      return new ApiError(400, message, { code: "invalid_value", ...(param === undefined ? {} : { param: PARAMS[param] ?? param }) })
    case "queue_full":
    case "queue_timeout":
      return limited(message, Math.max(1, Math.ceil(retryAfterMs ?? 1000)))
    case "draining":
      return new ApiError(503, message, { code: "draining", headers: { "retry-after-ms": "1000" } })
    case "model":
      return new ApiError(503, message, { code: "model_unavailable", headers: { "retry-after-ms": "500" } })
    case "cancelled":
      return new ApiError(499, "the client is gone", { code: "cancelled" })
    case "damaged":
    case "internal":
      return new ApiError(500, message, { code: code === "damaged" ? "model_damaged" : "internal_error" })
  }
}
