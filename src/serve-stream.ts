/** Server-sent events: one write per event, comments while nothing happens, never a clean end without a last word. */
import { ApiError } from "./serve-error.ts"

/** Below every idle limit in the field: Bun's and many proxies' are 10 s and more. */
const PING_MS = 5000

export interface EventOptions {
  /** Called once when the reader is gone before the end. */
  readonly onGone: () => void
  /** The last write of a stream that ended well; undefined: none. */
  readonly done?: string
  /** An event that tells an error in the form of the endpoint; default {"error": …}. */
  readonly onError?: (error: ApiError) => string
  readonly pingMs?: number
  /** Bytes that wait for a slow reader before `source` is asked for no more; default: all that comes. */
  readonly most?: number
  /** Ends the stream before what `source` still has. */
  readonly cut?: AbortSignal
  readonly headers?: Readonly<Record<string, string>>
}

export const dataEvent = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`

/** Writes events that differ in one choice only: everything around it is formed once. */
export function chunkWriter(head: object, rest: object = {}): (choice: object) => string {
  const [before, after] = JSON.stringify({ ...head, choices: [null], ...rest }).split('"choices":[null]') as [string, string]
  return (choice) => `data: ${before}"choices":[${JSON.stringify(choice)}]${after}\n\n`
}
export const namedEvent = (name: string, value: unknown): string => `event: ${name}\n${dataEvent(value)}`
export const DONE = "data: [DONE]\n\n"

/** Answers with the events that `source` yields, each already a text that ends in an empty line. */
export function eventStream(source: AsyncIterable<string>, options: EventOptions): Response {
  const {
    onGone,
    done,
    onError = (error) => dataEvent(error.body),
    pingMs = PING_MS,
    most = Number.POSITIVE_INFINITY,
    cut,
    headers = {},
  } = options
  const encoder = new TextEncoder()
  const iterator = source[Symbol.asyncIterator]()
  let ping: ReturnType<typeof setInterval> | undefined
  let open = true
  let wake = () => {}
  const close = () => {
    open = false
    clearInterval(ping)
    wake()
  }
  const strategy = new ByteLengthQueuingStrategy({ highWaterMark: Number.isFinite(most) ? most : 1 })
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const isFull = () => Number.isFinite(most) && (controller.desiredSize ?? 0) <= 0
        cut?.addEventListener("abort", () => {
          if (!open) return
          close()
          controller.close()
        })
        const write = (text: string) => {
          if (open) controller.enqueue(encoder.encode(text))
        }
        ping = setInterval(() => {
          if (!isFull()) write(": ping\n\n")
        }, pingMs)
        const pump = async () => {
          try {
            for (let next = await iterator.next(); open && next.done !== true; next = await iterator.next()) {
              write(next.value)
              while (open && isFull()) await new Promise<void>((resolve) => (wake = resolve))
            }
            if (done !== undefined) write(done)
          } catch (error) {
            write(onError(error instanceof ApiError ? error : internal(error)))
          }
          if (!open) return
          close()
          controller.close()
        }
        void pump()
      },
      pull: () => wake(),
      cancel() {
        if (!open) return
        close()
        onGone()
        void iterator.return?.()
      },
    },
    strategy,
  )
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      // nginx and its like would hold events back.
      "x-accel-buffering": "no",
      ...headers,
    },
  })
}

/** A fault of ours: its message may name files, so the client gets none of it. */
export const internal = (error: unknown): ApiError =>
  Object.assign(new ApiError(500, "internal error; the server's log says more under this request's id", { code: "internal_error" }), {
    cause: error,
  })
