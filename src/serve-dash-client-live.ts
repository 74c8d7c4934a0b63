/** Rows as they are logged: one stream of server-sent events, resumed by the browser, reopened when the server was gone. */
import { call, complain, Refusal, status } from "./serve-dash-client-dom.ts"

export interface LiveRow {
  readonly run: string
  readonly kind: "step" | "eval" | "sample" | "event" | "state"
  readonly row: Readonly<Record<string, unknown>>
}

const KINDS = ["step", "eval", "sample", "event", "state"] as const
const AGAIN_MS = 3000

/** Listens to a run, or to all; `onGap` after the stream was away, since rows may be missing then. */
export function listen(run: string | undefined, onRow: (live: LiveRow) => void, onGap: () => void): void {
  const path = `/api/training/live${run === undefined ? "" : `?run=${encodeURIComponent(run)}`}`
  let wasAway = false
  const open = () => {
    const source = new EventSource(path)
    source.onopen = () => {
      status("ready", "live")
      complain(undefined)
      if (wasAway) onGap()
      wasAway = false
    }
    source.onerror = () => {
      wasAway = true
      status("failed", "connection lost")
      // The event says no reason; a plain request does.
      call("/api/runs?limit=1").catch((error: unknown) => {
        complain(error)
        if (error instanceof Refusal && error.status !== 0) status("failed", "refused")
      })
      if (source.readyState !== EventSource.CLOSED) return
      source.close()
      setTimeout(open, AGAIN_MS)
    }
    // The server does not know any more what came since the last row seen here.
    source.addEventListener("reset", onGap)
    for (const kind of KINDS) {
      source.addEventListener(kind, (event: MessageEvent<string>) => {
        const told = JSON.parse(event.data) as { run?: string; row?: Record<string, unknown> } & Record<string, unknown>
        const id = typeof told.run === "string" ? told.run : event.lastEventId.split(":")[0]
        onRow({ run: id ?? "", kind, row: told.row ?? told })
      })
    }
  }
  open()
}

/** Does `work` again and again, `ms` after it was done; not while nobody looks. */
export async function keep(work: () => Promise<void>, ms: number): Promise<never> {
  for (;;) {
    await new Promise((wake) => setTimeout(wake, ms))
    if (!document.hidden) await work()
  }
}

/** Runs `work` now and, while it fails because the server is gone, again and again. */
export async function insist(work: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      await work()
      complain(undefined)
      return
    } catch (error) {
      if ((error as Error).name === "AbortError") return
      complain(error)
      status("failed", error instanceof Refusal && error.status !== 0 ? "refused" : "unreachable")
      if (error instanceof Refusal && error.status !== 0 && error.status < 500) return
      if (!(error instanceof Refusal)) throw error
      await new Promise((wake) => setTimeout(wake, AGAIN_MS))
    }
  }
}
