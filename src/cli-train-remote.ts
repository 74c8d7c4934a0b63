/** What `alpha train` tells the outside: its journal to ALPHA_REMOTE_URL, its alerts to ALPHA_ALERT_WEBHOOK. */
import { existsSync } from "node:fs"
import { basename } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Environment } from "./config.ts"
import { addressIn, openWebhook, type Shipper, startShipper, type TrainEvent } from "./train.ts"

export interface Remote {
  /** Whether alerts go to a webhook from here. */
  readonly hasWebhook: boolean
  /** Sees every event of the run. */
  show(event: TrainEvent): void
  /** Ships what is left; says where rows stay behind. */
  end(error?: Error): Promise<void>
}

/** Longest wait at the end of a run for a server that is slow, and for one that fails or is gone. */
const PATIENCE = { ms: 30_000, failingMs: 5000 }
/** The same for a run that was stopped before its first step and has left nothing to ship. */
const IMPATIENCE = { ms: 1000, failingMs: 1000 }
/** Without a step for so long a run counts as stalled. */
const STALL_MS = 600_000

/** Where runs are shipped to; undefined where no server is named. Throws without a secret. */
export function remoteServer(environment: Environment): { readonly url: string; readonly secret: string } | undefined {
  const url = addressIn(environment, "ALPHA_REMOTE_URL")
  const secret = environment.get("ALPHA_REMOTE_SECRET")?.value ?? ""
  if (url === undefined) return undefined
  if (secret !== "") return { url, secret }
  throw new AlphaError("ALPHA_REMOTE_URL is set, ALPHA_REMOTE_SECRET is not", {
    hint: "it is the UPLOAD_SECRET of that server",
    code: EXIT.usage,
  })
}

export function openRemote(
  environment: Environment,
  { directory, withOptimizer }: { directory: string; withOptimizer: boolean },
  onNote: (note: string) => void,
): Remote {
  const server = remoteServer(environment)
  const webhook = openWebhook(environment, onNote)
  const alert = (rule: string, what: string): void => webhook?.post(basename(directory), rule, what)
  /** A run whose device hangs tells nothing any more; its main thread still can. */
  let [toldAt, isStill] = [Number.POSITIVE_INFINITY, false]
  const watch = setInterval(() => {
    if (isStill || Date.now() - toldAt < STALL_MS) return
    isStill = true
    alert("stall", `nothing new for ${STALL_MS / 60_000} minutes`)
  }, STALL_MS / 20).unref()
  let shipper: Shipper | undefined
  let stopped = false
  return {
    hasWebhook: webhook !== undefined,
    show(event) {
      if (event.type !== "progress") [toldAt, isStill] = [Date.now(), false]
      // By now the journals are cut back to where the run goes on.
      if (event.type === "start" && server !== undefined) shipper = startShipper({ ...server, directory, withOptimizer, onNote })
      if (event.type === "alert") alert(event.rule, event.message)
      if (event.type === "checkpoint") shipper?.checkpoint(event)
      if (event.type === "summary") stopped = event.status === "stopped"
    },
    async end(error) {
      clearInterval(watch)
      if (error !== undefined) alert("crash", error.message)
      await webhook?.flush()
      if (shipper === undefined) return
      const state = error !== undefined ? "crashed" : stopped ? "stopped" : "finished"
      const isGone = !existsSync(directory)
      const { done, rows } = await shipper.end(isGone ? "stopped" : state, isGone ? IMPATIENCE : PATIENCE, error?.message)
      if (!done && !isGone)
        onNote(`remote: ${rows} rows are not there yet; they go when the run goes on, or with: alpha runs ship ${directory}`)
    },
  }
}
