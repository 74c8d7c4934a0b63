/** The engine as the main thread sees it: jobs that run in a Worker. */
import { AlphaError } from "./base-error.ts"
import type { Engine, Reply, Request, Telling } from "./engine-protocol.ts"

interface Waiting {
  resolve(result: unknown): void
  reject(error: Error): void
  onEvent: ((event: never) => void) | undefined
  onNote: ((note: string) => void) | undefined
}

/** Starts the Worker. Errors of a job arrive as rejections with message, hint and code. */
export function startEngine(): Engine {
  const worker = new Worker(new URL("./engine-worker.ts", import.meta.url))
  const waiting = new Map<number, Waiting>()
  let nextId = 0
  worker.onmessage = ({ data }: MessageEvent<Reply>) => {
    const job = waiting.get(data.id)
    if (job === undefined) return
    if ("event" in data) job.onEvent?.(data.event as never)
    else if ("note" in data) job.onNote?.(data.note)
    else {
      waiting.delete(data.id)
      if ("result" in data) job.resolve(data.result)
      else job.reject(failure(data.error))
    }
  }
  worker.onerror = (event) => {
    for (const job of waiting.values()) job.reject(new Error(`the engine ended: ${event.message}`))
    waiting.clear()
  }
  return {
    start(job, input, where, { onEvent, onNote }) {
      const id = nextId++
      const stop = new SharedArrayBuffer(4)
      const result = new Promise<never>((resolve, reject) => {
        waiting.set(id, { resolve: resolve as Waiting["resolve"], reject, onEvent: onEvent as Waiting["onEvent"], onNote })
      })
      worker.postMessage({ id, job, input, where, stop } satisfies Request)
      return {
        result,
        tell: (message) => worker.postMessage({ id, message } satisfies Telling),
        stop: () => void Atomics.store(new Int32Array(stop), 0, 1),
      }
    },
    close: () => worker.terminate(),
  }
}

function failure({
  message,
  hint,
  code,
  stack,
}: {
  message: string
  hint: string | undefined
  code: number
  stack: string | undefined
}): Error {
  if (stack === undefined) return new AlphaError(message, { hint, code })
  return Object.assign(new Error(message), { stack })
}

export { type MachineFacts, machineFacts } from "./engine-machine.ts"
export { surroundings } from "./engine-prompt.ts"
export type { DeviceChoice, Engine, Jobs, RunningJob } from "./engine-protocol.ts"
export { type Serving, startServing } from "./engine-serve-client.ts"
export type * from "./engine-serve-protocol.ts"
export { StopFilter } from "./engine-text.ts"
export { findTuned, keepTuned, type Tuned, tunedDevice, tunedFile, tunedProgram } from "./engine-tuned.ts"
