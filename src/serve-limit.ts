/** What one key may use: requests at a time, tokens in a minute. */
import { ApiError } from "./serve-error.ts"

export interface KeyLimits {
  readonly concurrency: number | undefined
  readonly tokensPerMinute: number | undefined
}

const MINUTE = 60_000

/** Counts by key; keys that rest for a minute are forgotten. */
export class KeyUsage {
  readonly #limits: KeyLimits
  readonly #now: () => number
  readonly #running = new Map<string, number>()
  readonly #spent = new Map<string, { at: number; tokens: number }[]>()

  constructor(limits: KeyLimits, now: () => number = () => performance.now()) {
    this.#limits = limits
    this.#now = now
  }

  /** Admits a request that may use `tokens`, or throws 429. `end` is called once with what it used. */
  admit(key: string, tokens: number): { end(used: number): void } {
    const { concurrency, tokensPerMinute } = this.#limits
    const running = this.#running.get(key) ?? 0
    if (concurrency !== undefined && running >= concurrency) {
      throw limited(`this key has ${running} requests running, and may have ${concurrency}`, 1000)
    }
    const entry = tokensPerMinute === undefined ? undefined : this.#book(key, tokens, tokensPerMinute)
    this.#running.set(key, running + 1)
    let ended = false
    return {
      end: (used) => {
        if (ended) return
        ended = true
        if (entry !== undefined) entry.tokens = used
        const left = this.#running.get(key)! - 1
        if (left === 0) this.#running.delete(key)
        else this.#running.set(key, left)
      },
    }
  }

  /** Books the tokens that are asked for; what was not used is given back at the end. */
  #book(key: string, tokens: number, limit: number): { tokens: number } {
    const now = this.#now()
    const recent = (this.#spent.get(key) ?? []).filter(({ at }) => at > now - MINUTE)
    const sum = recent.reduce((total, one) => total + one.tokens, 0)
    if (tokens > limit)
      throw new ApiError(400, `the request may use ${tokens} tokens, and this key ${limit} a minute`, {
        param: "max_tokens",
        code: "tokens_limit",
      })
    if (sum + tokens > limit) {
      throw limited(`this key has booked ${sum} tokens in a minute, and may use ${limit}`, Math.ceil(recent[0]!.at + MINUTE - now))
    }
    const entry = { at: now, tokens }
    this.#spent.set(key, [...recent, entry])
    return entry
  }
}

/** 429 with the headers that clients wait by. */
export const limited = (message: string, retryAfterMs: number): ApiError =>
  new ApiError(429, message, {
    code: "rate_limit_exceeded",
    headers: { "retry-after-ms": String(retryAfterMs), "retry-after": String(Math.ceil(retryAfterMs / 1000)) },
  })
