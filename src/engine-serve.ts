/** The serve job: answers requests of many clients with the models it is told to load, until it is told to stop. */
import { AlphaError, EXIT } from "./base-error.ts"
import { compileConstraint } from "./engine-constraint.ts"
import type { Inbox } from "./engine-inbox.ts"
import { newCounters } from "./engine-serve-counters.ts"
import { StepEvents } from "./engine-serve-events.ts"
import { type Entry, type Instance, Models } from "./engine-serve-models.ts"
import type {
  RequestEvent,
  RequestFailure,
  ServeEvent,
  ServeJob,
  ServeMessage,
  ServeReport,
  ServeRequest,
} from "./engine-serve-protocol.ts"
import { TOP, type Turn } from "./engine-serve-schedule.ts"
import { Sequence } from "./engine-serve-sequence.ts"
import { statistics } from "./engine-serve-statistics.ts"
import type { Sharing } from "./engine-share.ts"
import type { Device } from "./program.ts"
import type { StopFlag } from "./train.ts"

/** How long an idle job sleeps at most before it looks at its stop flag. */
const IDLE_MS = 50

export async function serve(
  job: ServeJob,
  device: Device,
  flag: StopFlag,
  emit: (event: ServeEvent) => void,
  inbox: Inbox<ServeMessage>,
  sharing?: Sharing,
): Promise<ServeReport> {
  const server = new Server(job, device, emit)
  let worked = false
  const leave = sharing?.join(() => worked || !inbox.isEmpty || server.isLoading)
  try {
    while (!flag.stopped) {
      for (const message of inbox.take()) server.handle(message)
      worked = server.turn()
      if (worked)
        await new Promise((resolve) => setImmediate(resolve)) // messages come in between steps
      else await inbox.arrival(IDLE_MS)
    }
    server.end()
    return { requests: server.requests }
  } finally {
    leave?.()
    server.free()
  }
}

/** Settings that are numbers, and the least of each. */
const LEAST = [
  ["temperature", 0],
  ["topP", 0],
  ["minP", 0],
  ["repetitionPenalty", 1e-6],
  ["frequencyPenalty", -100],
  ["presencePenalty", -100],
] as const

/** Where a request is: with its entry, and its weights once it has started. */
interface Place {
  readonly sequence: Sequence
  readonly entry: Entry
}

class Server {
  readonly #job: ServeJob
  readonly #emit: (event: ServeEvent) => void
  readonly #models: Models
  readonly #places = new Map<number, Place>()
  readonly #counters = newCounters()
  readonly #events = new StepEvents()
  #drains: number[] = []
  #draining = false
  /** Tokens computed per millisecond, lately. */
  #pace = 1
  #worked = { at: performance.now(), tokens: 0 }
  requests = 0

  constructor(job: ServeJob, device: Device, emit: (event: ServeEvent) => void) {
    this.#job = job
    this.#emit = emit
    this.#models = new Models(device, job.limits, (key) => emit({ type: "evicted", key }))
  }

  get isLoading(): boolean {
    return this.#models.isLoading
  }

  handle(message: ServeMessage): void {
    if (message.type === "submit") {
      try {
        this.#submit(message.request)
      } catch (error) {
        this.#fail(message.request.id, "internal", new AlphaError((error as Error).message))
      }
    } else if (message.type === "cancel") this.#cancel(message.id)
    else if (message.type === "drain") {
      this.#draining = true
      this.#drains.push(message.call)
    } else this.#answer(message)
    this.#flush()
  }

  #answer(message: Extract<ServeMessage, { type: "load" | "unload" | "statistics" }>): void {
    const { call } = message
    const refuse = (error: unknown) => {
      const { message, hint, code } = error instanceof AlphaError ? error : { ...(error as Error), hint: undefined, code: EXIT.failure }
      this.#emit({ type: "refusal", call, message: message ?? String(error), hint, code })
    }
    try {
      if (message.type === "load") {
        this.#models.load(message.spec).then((value) => this.#emit({ type: "answer", call, value }), refuse)
      } else if (message.type === "unload") {
        const { queue } = this.#models.unload(message.key)
        for (const sequence of queue.all()) {
          queue.take(sequence, false)
          this.#fail(sequence.request.id, "model", new AlphaError(`model ${message.key} was unloaded`))
        }
        this.#emit({ type: "answer", call, value: undefined })
      } else this.#emit({ type: "answer", call, value: statistics(this.#models, this.#counters) })
    } catch (error) {
      refuse(error)
    }
  }

  #submit(request: ServeRequest): void {
    this.requests++
    const entry = this.#models.entries.get(request.model)
    const refusal = this.#refusal(request, entry)
    if (entry === undefined || refusal !== undefined) {
      if (refusal !== undefined) this.#fail(request.id, ...refusal)
      return
    }
    const sequence = new Sequence(request, entry.facts)
    const { count, tokens } = this.#waiting
    const { slots, queueRequests, queueTokens } = this.#job.limits
    // Those that a free slot awaits do not wait.
    const beyond = count - (slots - (entry.current?.resident.running.length ?? 0))
    if (beyond >= 0 && (beyond >= queueRequests || tokens + sequence.tokens > queueTokens)) {
      const error = new AlphaError(`${count} requests of ${tokens} tokens are waiting`, { hint: "try again later" })
      this.#fail(request.id, "queue_full", error)
      return
    }
    this.#places.set(request.id, { sequence, entry })
    entry.queue.push(sequence)
    entry.lastUsed = performance.now()
    this.#tell(request.id, { type: "queued", ahead: count })
    if (entry.current === undefined) this.#reload(entry)
  }

  /** The model was evicted since: it comes back for those that wait. */
  #reload(entry: Entry): void {
    if (entry.returning) return
    entry.returning = true
    this.#models
      .load(entry.spec)
      .catch((error: Error) => {
        for (const sequence of entry.queue.all()) {
          entry.queue.take(sequence, false)
          this.#fail(sequence.request.id, "model", new AlphaError(error.message))
        }
        this.#flush()
      })
      .finally(() => {
        entry.returning = false
      })
  }

  /** Requests that wait, and their tokens. */
  get #waiting(): { count: number; tokens: number } {
    const queues = [...this.#models.entries.values()].map(({ queue }) => queue)
    return {
      count: queues.reduce((sum, queue) => sum + queue.count, 0),
      tokens: queues.reduce((sum, queue) => sum + queue.tokens, 0),
    }
  }

  /** Why a request cannot be taken at all. */
  #refusal(request: ServeRequest, entry: Entry | undefined): [code: RequestFailure["code"], error: AlphaError, param?: string] | undefined {
    const { prompt, constraint, sampling } = request
    if (this.#draining) return ["draining", new AlphaError("the server is shutting down")]
    if (entry === undefined) return ["model", new AlphaError(`model ${request.model} is not loaded`), "model"]
    const { vocabSize, blockSize } = entry.facts
    const wrong = (param: string, message: string): [RequestFailure["code"], AlphaError, string] => [
      "request",
      new AlphaError(message),
      param,
    ]
    const bad = prompt.find((id) => id < 0 || id >= vocabSize)
    if (bad !== undefined) return wrong("prompt", `prompt: token id ${bad} is not below vocabSize ${vocabSize}`)
    if (prompt.length === 0) return wrong("prompt", "prompt: no tokens")
    if (prompt.length > blockSize) return wrong("prompt", `prompt: ${prompt.length} tokens, the model has room for ${blockSize}`)
    const { maxTokens, topLogprobs } = request
    if (!(Number.isInteger(maxTokens) && maxTokens >= 0)) return wrong("maxTokens", `maxTokens: ${maxTokens} is not a whole number`)
    if (!(Number.isInteger(topLogprobs) && topLogprobs >= 0 && topLogprobs <= TOP)) {
      return wrong("topLogprobs", `topLogprobs: ${topLogprobs} is not in 0 … ${TOP}`)
    }
    const odd = LEAST.find(([name, least]) => !(Number.isFinite(sampling[name]) && sampling[name] >= least))
    if (odd !== undefined) return wrong(`sampling.${odd[0]}`, `${odd[0]}: ${sampling[odd[0]]} is not a number of at least ${odd[1]}`)
    const outside = sampling.logitBias.find(([id]) => id < 0 || id >= vocabSize)
    if (outside !== undefined) return wrong("sampling.logitBias", `logitBias: token id ${outside[0]} is not below vocabSize ${vocabSize}`)
    try {
      if (constraint !== undefined) compileConstraint(constraint)
    } catch (error) {
      if (error instanceof AlphaError) return ["request", error, "constraint"]
      throw error
    }
    return undefined
  }

  #cancel(id: number): void {
    const place = this.#places.get(id)
    if (place === undefined) return
    const { sequence, entry } = place
    if (sequence.started === 0) entry.queue.take(sequence, false)
    else this.#instanceOf(place)?.schedule.remove(sequence, this.#turnOf(entry, false))
    this.#fail(id, "cancelled", new AlphaError("cancelled"))
  }

  #instanceOf({ sequence, entry }: Place): Instance | undefined {
    const all = entry.current === undefined ? entry.old : [entry.current, ...entry.old]
    return all.find(({ resident: { running, paused } }) => running.includes(sequence) || paused.includes(sequence))
  }

  #turnOf(entry: Entry, isCurrent: boolean): Turn {
    return {
      slots: this.#job.limits.slots,
      isCurrent,
      queue: entry.queue,
      counters: this.#counters,
      tell: ({ request }, event) => this.#tell(request.id, event),
      fail: ({ request }, code, error, param) => this.#fail(request.id, code, error, param),
    }
  }

  /** One step of every model that has work; false where there is none. */
  turn(): boolean {
    this.#expire()
    let worked = false
    for (const { entry, instance, isCurrent } of this.#models.turns()) {
      const turn = this.#turnOf(entry, isCurrent)
      instance.schedule.admit(turn)
      this.#flush()
      for (const step of [instance.schedule.decode(turn), instance.schedule.prefill(turn)]) worked ||= step
      this.#flush()
      if (!instance.resident.idle) entry.lastUsed = performance.now()
    }
    this.#models.sweep()
    this.#measure(worked)
    if (this.#places.size === 0) for (const call of this.#drains.splice(0)) this.#emit({ type: "answer", call, value: undefined })
    return worked
  }

  /** Requests that waited too long. */
  #expire(): void {
    const now = performance.now()
    for (const { queue } of this.#models.entries.values()) {
      for (const sequence of queue.all()) {
        const { queueMs, id } = sequence.request
        if (queueMs === undefined || now - sequence.submitted < queueMs) continue
        queue.take(sequence, false)
        this.#fail(id, "queue_timeout", new AlphaError(`not started within ${queueMs} ms`))
      }
    }
    this.#flush()
  }

  #measure(worked: boolean): void {
    const [at, tokens] = [performance.now(), this.#counters.prefillTokens + this.#counters.decodeTokens]
    if (worked && at > this.#worked.at) this.#pace += ((tokens - this.#worked.tokens) / (at - this.#worked.at) - this.#pace) / 16
    this.#worked = { at, tokens }
  }

  /** When a quarter of what waits should be done. */
  get #retryAfterMs(): number {
    return Math.round(Math.min(30_000, Math.max(100, this.#waiting.tokens / 4 / Math.max(1e-3, this.#pace))))
  }

  #tell(id: number, event: RequestEvent): void {
    this.#events.push(id, event)
    if (event.type === "finished" || event.type === "failed") this.#places.delete(id)
  }

  #fail(id: number, code: RequestFailure["code"], { message, hint }: AlphaError, param?: string): void {
    this.#counters.failed[code]++
    const retryAfterMs = code === "queue_full" || code === "queue_timeout" ? this.#retryAfterMs : undefined
    this.#tell(id, { type: "failed", code, message, hint, param, retryAfterMs })
  }

  #flush(): void {
    const step = this.#events.take()
    if (step !== undefined) this.#emit(step)
  }

  /** Nothing ends without its last event. */
  end(): void {
    for (const id of this.#places.keys()) this.#fail(id, "draining", new AlphaError("the server is shutting down"))
    this.#flush()
    for (const call of this.#drains.splice(0)) this.#emit({ type: "answer", call, value: undefined })
  }

  free(): void {
    this.#models.free()
  }
}
