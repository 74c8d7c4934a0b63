/** The serving engine as the main thread sees it: models, requests and their events. */
import { AlphaError } from "./base-error.ts"
import type { DeviceChoice, Engine } from "./engine-protocol.ts"
import { eachEvent } from "./engine-serve-events.ts"
import type {
  ModelFacts,
  ModelSpec,
  RequestEvent,
  RequestFailure,
  ServeEvent,
  ServeLimits,
  ServeMessage,
  ServeReport,
  ServeRequest,
  ServeStatistics,
} from "./engine-serve-protocol.ts"

export interface Serving {
  /** Loads a model, or swaps the one with this key. Rejects with AlphaError. */
  load(spec: ModelSpec): Promise<ModelFacts>
  /** Its running requests finish, its waiting ones fail. */
  unload(key: string): Promise<void>
  /** `listen` hears the events of one step at a time, in order; after finished or failed nothing more. */
  submit(request: ServeRequest, listen: (event: RequestEvent) => void): void
  /** Frees the request's slot within one step; it ends with failed, code cancelled, unless it had ended before. */
  cancel(id: number): void
  statistics(): Promise<ServeStatistics>
  /** Refuses what is submitted from now on; resolves when the last request has ended. */
  drain(): Promise<void>
  /** Ends the job; requests that still run fail with code draining. */
  stop(): Promise<ServeReport>
}

interface Call {
  resolve(value: never): void
  reject(error: Error): void
}

/** Starts the serve job. `onEvicted` hears of models that went for others; `onNote` of the device that auto chose. */
export function startServing(
  engine: Engine,
  limits: ServeLimits,
  where: DeviceChoice,
  { onEvicted, onNote }: { onEvicted?: (key: string) => void; onNote?: (note: string) => void } = {},
): Serving {
  const listeners = new Map<number, (event: RequestEvent) => void>()
  const calls = new Map<number, Call>()
  let nextCall = 0

  const onEvent = (event: ServeEvent): void => {
    if (event.type === "evicted") onEvicted?.(event.key)
    else if (event.type === "step") {
      eachEvent(event, (id, one) => {
        const listen = listeners.get(id)
        if (one.type === "finished" || one.type === "failed") listeners.delete(id)
        listen?.(one)
      })
    } else {
      const call = calls.get(event.call)
      calls.delete(event.call)
      if (event.type === "answer") call?.resolve(event.value as never)
      else call?.reject(new AlphaError(event.message, { hint: event.hint, code: event.code }))
    }
  }
  const job = engine.start("serve", { limits }, where, { onEvent, ...(onNote === undefined ? {} : { onNote }) })
  /** Why the job has ended. */
  let ended: string | undefined
  const failed = (code: RequestFailure["code"], message: string, param?: string): RequestFailure => ({
    type: "failed",
    code,
    message,
    hint: undefined,
    param,
    retryAfterMs: undefined,
  })
  const gone = (message: string): void => {
    ended = message
    for (const [id, listen] of listeners) {
      listeners.delete(id)
      listen(failed("internal", message))
    }
    for (const call of calls.values()) call.reject(new AlphaError(message))
    calls.clear()
  }
  job.result.then(
    () => gone("the engine has stopped"),
    (error: Error) => gone(error.message),
  )
  const ask = <T>(message: (call: number) => ServeMessage): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      if (ended !== undefined) {
        reject(new AlphaError(ended))
        return
      }
      const call = nextCall++
      calls.set(call, { resolve, reject })
      job.tell(message(call))
    })

  return {
    load: (spec) => ask((call) => ({ type: "load", call, spec })),
    unload: (key) => ask((call) => ({ type: "unload", call, key })),
    submit(request, listen) {
      const refuse = (failure: RequestFailure) => queueMicrotask(() => listen(failure))
      if (ended !== undefined) {
        refuse(failed("internal", ended))
        return
      }
      try {
        job.tell({ type: "submit", request })
        listeners.set(request.id, listen)
      } catch (error) {
        // Messages are copied by a function that calls itself for what is nested.
        if (!(error instanceof RangeError)) throw error
        refuse(failed("request", "constraint: nests too deeply", "constraint"))
      }
    },
    cancel: (id) => job.tell({ type: "cancel", id }),
    statistics: () => ask((call) => ({ type: "statistics", call })),
    drain: () => ask((call) => ({ type: "drain", call })),
    stop() {
      job.stop()
      return job.result
    },
  }
}
