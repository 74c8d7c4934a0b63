/** What all routes share: models, engine, keys, limits, counters; and what is known of one request. */
import type { Context as HonoContext } from "hono"
import type { Log } from "./base-log.ts"
import type { JournalRow, RunStore } from "./db.ts"
import type { Serving } from "./engine.ts"
import type { Keys, Scope } from "./serve-auth.ts"
import type { ApiError } from "./serve-error.ts"
import type { RemoteRuns } from "./serve-ingest-store.ts"
import type { KeyUsage } from "./serve-limit.ts"
import type { Metrics } from "./serve-metrics.ts"
import type { Models } from "./serve-models.ts"

export interface Context {
  readonly serving: Serving
  readonly models: Models
  readonly keys: Keys
  readonly usage: KeyUsage
  readonly metrics: Metrics
  readonly log: Log
  /** What the routes of runs read. */
  readonly runs: RunStore & {
    readonly database?: "ready" | "away" | null
    /** Incidents of a run, those that its trainer told and those that the server saw. */
    readonly alerts?: (id: string) => Promise<readonly JournalRow[]>
  }
  /** Where runs lie that can be served when an admin asks. */
  readonly runsDir: string
  /** Runs that trainers ship here. */
  readonly remote: RemoteRuns
  readonly limits: { readonly queueTokens: number; readonly queueMs: number; readonly maxBody: number }
  /** Origins whose pages may call. */
  readonly cors: readonly string[]
  readonly metricsCompat: "none" | "vllm"
  /** Listens on loopback alone. */
  readonly loopback: boolean
  readonly startedAt: number
  /** Cancels of the requests under way. */
  readonly running: Set<(error: ApiError) => void>
  /** Ends of the streams that never end by themselves: they go first when the server does, and their listeners come back. */
  readonly listening: Set<() => void>
  /** Only what runs still ends. */
  draining: boolean
  /** The engine is gone; nothing can be answered. */
  failed: string | undefined
}

/** What is known of a request before its body is read. */
export interface RequestFacts {
  readonly id: string
  /** Who asks: label of the key, or the address. */
  readonly client: string
  readonly arrivedAt: number
  /** Aborted when the client is gone. */
  readonly signal: AbortSignal
}

/** One request in the hands of its route. */
export interface Call extends RequestFacts {
  readonly context: Context
  readonly http: HonoContext
  /** The body as JSON; throws 400. */
  json(): Promise<unknown>
}

/** One row of the route table. */
export interface Route {
  readonly method: "GET" | "POST" | "PATCH"
  /** As Hono writes it: "/v1/models/:id". */
  readonly path: string
  readonly scope: Scope
  readonly about: string
  /** Bytes that a body may have whatever maxBody says. */
  readonly leastBody?: number
  readonly handle: (call: Call) => Response | Promise<Response>
}
