/** All answers of one request: n for each prompt, merged into one sequence of pieces, counted and measured. */

import { philox } from "./base-random.ts"
import type { Constraint, RequestSampling } from "./engine.ts"
import { type Finish, type Piece, startAnswer } from "./serve-answer.ts"
import type { Context, RequestFacts } from "./serve-context.ts"
import { ApiError, badField, draining } from "./serve-error.ts"
import { launchAll, type Outcome } from "./serve-many.ts"
import type { Metrics } from "./serve-metrics.ts"
import type { Lease } from "./serve-models.ts"

/** What is asked of the engine. */
export interface ChoicesOrder {
  readonly lease: Lease
  readonly prompts: readonly Int32Array[]
  /** Answers of each prompt; the i-th has the seed's random stream i. */
  readonly n: number
  /** Undefined: what the context leaves. */
  readonly maxTokens: number | undefined
  /** Names of the fields in errors. */
  readonly params: { readonly prompt: string; readonly maxTokens: string; readonly constraint: string }
  readonly sampling: RequestSampling
  readonly stop: readonly string[]
  readonly stopIds: readonly number[]
  readonly topLogprobs: number
  readonly promptLogprobs: boolean
  readonly ignoreEnd: boolean
  readonly constraint: Constraint | undefined
  /** The caller's own name for who asks. */
  readonly user: string | undefined
}

export type ChoicePiece = Piece & { readonly index: number }

export interface Usage {
  readonly promptTokens: number
  readonly answerTokens: number
  readonly cachedTokens: number
}

export interface Choices extends AsyncIterable<ChoicePiece> {
  /** The same pieces, all that have come since the last time together. */
  batches(): AsyncIterable<readonly ChoicePiece[]>
  /** After the last piece. */
  usage(): Usage
  /** SHA-256 of the weights; known before the first piece. */
  readonly fingerprint: string
  cancel(): void
}

/** The context must hold prompt and answer, and the queue all of them; checked before anything waits. */
export function checkLength({ lease, prompts, n, maxTokens, params }: ChoicesOrder, queueTokens: number): number[] {
  const { blockSize, name } = lease.model
  const limits = prompts.map((ids, i) => {
    const where = prompts.length > 1 ? `${params.prompt}[${i}]` : params.prompt
    const full = (param: string, message: string) => new ApiError(400, message, { param, code: "context_length_exceeded" })
    if (ids.length > blockSize) throw full(where, `the prompt has more than the ${blockSize} tokens of ${name}'s context`)
    if (maxTokens === undefined) {
      if (ids.length === blockSize) throw full(where, `the prompt fills the ${blockSize} tokens of ${name}'s context`)
      return blockSize - ids.length
    }
    if (ids.length + maxTokens > blockSize) {
      throw full(
        ids.length >= blockSize ? where : params.maxTokens,
        `${ids.length} prompt tokens and ${maxTokens} answer tokens exceed the ${blockSize} tokens of ${name}'s context`,
      )
    }
    return maxTokens
  })
  const total = prompts.reduce((sum, ids, i) => sum + n * (ids.length + limits[i]!), 0)
  if (total > queueTokens) {
    throw badField(
      prompts.length * n > 1 ? "n" : params.maxTokens,
      `${prompts.length * n} answers may come to ${total} tokens, more than the ${queueTokens} that may wait here`,
    )
  }
  return limits
}

/** Seed of the i-th answer: the seed itself, then independent ones. */
export function seedOf(seed: number, index: number): number {
  const low = seed >>> 0
  if (index === 0 && seed === low) return low
  const out = new Uint32Array(4)
  const high = Math.floor(seed / 2 ** 32) >>> 0
  philox(index, high, 0, 0, low, 0x73657276, out)
  return out[0]!
}

/** Starts all answers. Rejects where the first thing heard of one is that it failed; the lease is given back at the end. */
export async function startChoices(context: Context, facts: RequestFacts, order: ChoicesOrder): Promise<Choices> {
  const { lease, prompts, n, sampling } = order
  const { model } = lease
  const { metrics } = context
  let limits: number[]
  let ticket: { end(used: number): void }
  try {
    if (context.draining) throw draining()
    limits = checkLength(order, context.limits.queueTokens)
    const asked = prompts.reduce((sum, ids, i) => sum + n * (ids.length + limits[i]!), 0)
    ticket = context.usage.admit(facts.client, asked)
  } catch (error) {
    lease.release()
    throw error
  }
  const total = prompts.length * n
  const queue = new PieceQueue()
  const used = { answer: 0, cached: 0, open: total, fingerprint: model.facts.fingerprint }
  // The run alone: checkpoints that come and go would be labels without end.
  const labels = { model: model.key.split("@")[0]! }
  let over = false
  const finish = () => {
    if (over) return
    over = true
    ticket.end(prompts.reduce((sum, ids) => sum + ids.length, 0) + used.answer)
    lease.release()
    context.running.delete(cancel)
    metrics.whole.observe(labels, (performance.now() - facts.arrivedAt) / 1000)
  }
  let stopAll = () => {}
  const cancel = (error?: ApiError) => {
    if (over) return
    stopAll()
    finish()
    queue.fail(error ?? new ApiError(499, "the client is gone", { code: "cancelled" }))
  }
  context.running.add(cancel)
  for (const prompt of prompts) metrics.promptTokens.add(labels, prompt.length)

  const launch = (index: number, outcome: Outcome) => {
    const p = Math.floor(index / n)
    const clock = new TokenClock(metrics, labels, facts.arrivedAt)
    const engineOrder = {
      ...order,
      model: model.facts.key,
      tokenizer: model.tokenizer,
      prompt: prompts[p]!,
      maxTokens: limits[p]!,
      sampling: { ...sampling, seed: seedOf(sampling.seed, index % n) },
      client: order.user === undefined ? facts.client : `${facts.client}/${order.user}`,
      queueMs: context.limits.queueMs,
    }
    return startAnswer(context.serving, engineOrder, {
      token() {
        used.answer++
        clock.token()
      },
      piece(piece) {
        if (over) return
        if (piece.type === "started") metrics.queued.observe(labels, piece.queueMs / 1000)
        queue.push({ ...piece, index })
        if (piece.type !== "end") return
        clock.end(piece.finish)
        if (index % n === 0) used.cached += piece.cachedTokens
        outcome.done()
        if (--used.open > 0) return
        finish()
        queue.end()
      },
      failed: outcome.failed,
    })
  }
  stopAll = launchAll(total, context.limits.queueMs, launch, (error) => {
    const { param, code } = error.body.error
    metrics.finished.add({ ...labels, reason: String(code) })
    cancel(param === "response_format" ? named(order.params.constraint, error.message) : error)
  })
  facts.signal.addEventListener("abort", () => cancel(), { once: true })
  if (facts.signal.aborted) cancel()
  await queue.first()
  return {
    [Symbol.asyncIterator]: () => eachOf(queue.batches()),
    batches: () => queue.batches(),
    usage: () => ({
      promptTokens: prompts.reduce((sum, ids) => sum + ids.length, 0),
      answerTokens: used.answer,
      cachedTokens: used.cached,
    }),
    fingerprint: used.fingerprint,
    cancel,
  }
}

/** An error of a constraint under the name of the field it came from; the engine may have named it already. */
const named = (param: string, message: string): ApiError =>
  message.startsWith(param) ? new ApiError(400, message, { param, code: "invalid_value" }) : badField(param, message)

/** Measures one answer as its tokens come. */
class TokenClock {
  #first: number | undefined
  #last = 0
  #count = 0

  constructor(
    readonly metrics: Metrics,
    readonly labels: { readonly model: string },
    readonly arrivedAt: number,
  ) {}

  token(): void {
    const now = performance.now()
    this.metrics.answerTokens.add(this.labels)
    if (this.#first === undefined) {
      this.#first = now
      this.metrics.firstToken.observe(this.labels, (now - this.arrivedAt) / 1000)
    } else this.metrics.betweenTokens.observe(this.labels, (now - this.#last) / 1000)
    this.#last = now
    this.#count++
  }

  end(finish: Finish): void {
    this.metrics.finished.add({ ...this.labels, reason: finish })
    if (this.#count > 1) this.metrics.perToken.observe(this.labels, (this.#last - this.#first!) / 1000 / (this.#count - 1))
  }
}

/** How long the first word of the engine is waited for, before a stream begins with pings alone. */
const FIRST_WORD_MS = 5000

async function* eachOf<T>(batches: AsyncIterable<readonly T[]>): AsyncGenerator<T> {
  for await (const batch of batches) yield* batch
}

/**
 * Pieces between who makes and who reads them. Who waits is woken after all messages of the engine that have arrived: where the server is behind, a
 * reader gets the tokens of several steps at once, and one write carries them.
 */
class PieceQueue {
  #pieces: ChoicePiece[] = []
  #ended = false
  #error: ApiError | undefined
  #wake: (() => void) | undefined

  push(piece: ChoicePiece): void {
    this.#pieces.push(piece)
    this.#call()
  }

  end(): void {
    this.#ended = true
    this.#call()
  }

  fail(error: ApiError): void {
    this.#error ??= error
    this.#call()
  }

  #call(): void {
    if (this.#wake === undefined) return
    setImmediate(this.#wake)
    this.#wake = undefined
  }

  /** Resolves with the first piece, or when it takes long; throws what came instead. */
  async first(): Promise<void> {
    const late = performance.now() + FIRST_WORD_MS
    while (this.#pieces.length === 0 && !this.#ended && this.#error === undefined && performance.now() < late) {
      await this.#change(late - performance.now())
    }
    if (this.#error !== undefined) throw this.#error
  }

  async *batches(): AsyncGenerator<readonly ChoicePiece[]> {
    for (;;) {
      const pieces = this.#pieces
      this.#pieces = []
      if (pieces.length > 0) yield pieces
      if (this.#pieces.length > 0) continue
      if (this.#error !== undefined) throw this.#error
      if (this.#ended) return
      await this.#change()
    }
  }

  #change(ms?: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(resolve, ms)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}
