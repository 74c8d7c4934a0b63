/** What the serve job counts over all its models. */
import type { RequestFailure, ServeFinish } from "./engine-serve-protocol.ts"

export interface Counters {
  prefillTokens: number
  prefixQueries: number
  prefixHits: number
  decodeTokens: number
  decodeSteps: number
  prefillMs: number
  decodeMs: number
  preemptions: number
  readonly finished: Record<ServeFinish, number>
  readonly failed: Record<RequestFailure["code"], number>
}

export const newCounters = (): Counters => ({
  prefillTokens: 0,
  prefixQueries: 0,
  prefixHits: 0,
  decodeTokens: 0,
  decodeSteps: 0,
  prefillMs: 0,
  decodeMs: 0,
  preemptions: 0,
  finished: { end: 0, complete: 0, length: 0 },
  failed: { request: 0, queue_full: 0, queue_timeout: 0, model: 0, damaged: 0, cancelled: 0, draining: 0, internal: 0 },
})
