/** The events of one step on their way from the serve job to the main thread. */
import type { RequestEvent, ServeEvent, StepTokens } from "./engine-serve-protocol.ts"

type Step = Extract<ServeEvent, { type: "step" }>
type Token = Extract<RequestEvent, { type: "token" }>

/** Collects events; a request's token comes before its end, and everything else before both. */
export class StepEvents {
  #events: [id: number, event: RequestEvent][] = []
  #tokens: [id: number, event: Token][] = []
  #ends: [id: number, event: RequestEvent][] = []

  push(id: number, event: RequestEvent): void {
    if (event.type === "token") this.#tokens.push([id, event])
    else if (event.type === "finished" || event.type === "failed") this.#ends.push([id, event])
    else this.#events.push([id, event])
  }

  /** What was collected since the last call; undefined when that is nothing. */
  take(): Step | undefined {
    if (this.#events.length + this.#tokens.length + this.#ends.length === 0) return undefined
    const step: Step = { type: "step", events: this.#events, tokens: packed(this.#tokens), ends: this.#ends }
    this.#events = []
    this.#tokens = []
    this.#ends = []
    return step
  }
}

function packed(tokens: readonly (readonly [id: number, event: Token])[]): StepTokens | undefined {
  if (tokens.length === 0) return undefined
  return {
    requests: Float64Array.from(tokens, ([id]) => id),
    ids: Int32Array.from(tokens, ([, { id }]) => id),
    logprobs: Float32Array.from(tokens, ([, { logprob }]) => logprob),
    top: tokens.some(([, { top }]) => top !== undefined) ? tokens.map(([, { top }]) => top) : undefined,
  }
}

/** Calls `hear` with every event of a step, in order. */
export function eachEvent({ events, tokens, ends }: Step, hear: (id: number, event: RequestEvent) => void): void {
  for (const [id, event] of events) hear(id, event)
  tokens?.requests.forEach((request, i) => {
    hear(request, { type: "token", id: tokens.ids[i]!, logprob: tokens.logprobs[i]!, top: tokens.top?.[i] })
  })
  for (const [id, event] of ends) hear(id, event)
}
