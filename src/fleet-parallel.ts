/** One piece of work on many machines: bounded, a line each, and a truthful exit code. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { FleetHost } from "./fleet-config.ts"
import type { Answer } from "./fleet-ssh.ts"

/** Exit codes of `alpha fleet`; `run` and `ssh` on one machine return the command's own. */
export const FLEET_EXIT = { ok: 0, usage: 1, failed: 2, unreachable: 4, locked: 5 } as const

export type HostState = "ok" | "failed" | "unreachable" | "locked"

/** Why the work on one machine did not succeed. */
export class HostError extends AlphaError {
  constructor(
    readonly state: Exclude<HostState, "ok">,
    message: string,
    options: { hint?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, { ...options, code: FLEET_EXIT[state] })
  }
}

/** The answer, when the script on the machine ended with 0; else HostError with what the machine said. */
export function checked(answer: Answer, what: string): Answer {
  if (answer.unreachable !== undefined) throw new HostError("unreachable", answer.unreachable)
  if (answer.code === 0) return answer
  throw new HostError("failed", `${what} fails (exit code ${answer.code})${said(answer.stderr)}`)
}

/** ": the last lines", where there are any. */
export function said(stderr: string): string {
  const lines = stderr.trim().split("\n").slice(-4).join("; ")
  return lines === "" ? "" : `: ${lines}`
}

export interface Outcome<T> {
  readonly host: string
  readonly state: HostState
  /** What was done, or why not: one line. */
  readonly message: string
  readonly hint: string | undefined
  readonly ms: number
  readonly value: T | undefined
}

/**
 * Does `work` on every machine, at most `parallel` at a time; the failure of one stops no other. Outcomes are in the order of `hosts`,
 * `onDone` sees each as it comes. Errors that are no AlphaError are faults of the program and are thrown after the others ended.
 */
export async function onHosts<T>(
  hosts: readonly FleetHost[],
  parallel: number,
  work: (host: FleetHost) => Promise<{ message: string; value: T }>,
  onDone: (outcome: Outcome<T>) => void = () => {},
): Promise<Outcome<T>[]> {
  const outcomes: Outcome<T>[] = []
  const faults: unknown[] = []
  const queue = [...hosts.entries()]
  const one = async (host: FleetHost): Promise<Outcome<T>> => {
    const start = performance.now()
    const done = (state: HostState, message: string, hint?: string, value?: T): Outcome<T> => ({
      host: host.name,
      state,
      message,
      hint,
      ms: Math.round(performance.now() - start),
      value,
    })
    try {
      const { message, value } = await work(host)
      return done("ok", message, undefined, value)
    } catch (error) {
      if (!(error instanceof AlphaError)) faults.push(error)
      const state = error instanceof HostError ? error.state : "failed"
      return done(state, error instanceof Error ? error.message : String(error), error instanceof AlphaError ? error.hint : undefined)
    }
  }
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      const outcome = await one(next[1])
      outcomes[next[0]] = outcome
      onDone(outcome)
    }
  }
  await Promise.all(Array.from({ length: Math.min(parallel, hosts.length) }, worker))
  if (faults.length > 0) throw faults[0]
  return outcomes
}

/** 0 when all went well; else the code of what went wrong, 2 where that differs from machine to machine. */
export function exitOf(outcomes: readonly { readonly state: HostState }[]): number {
  const states = new Set(outcomes.map(({ state }) => state).filter((state) => state !== "ok"))
  if (states.size === 0) return FLEET_EXIT.ok
  return states.size === 1 ? FLEET_EXIT[[...states][0]!] : FLEET_EXIT.failed
}

/** "3 of 4 machines: done; 1 unreachable (l4-b)". */
export function summary(outcomes: readonly Outcome<unknown>[]): string {
  const names = (state: HostState) => outcomes.filter((outcome) => outcome.state === state).map(({ host }) => host)
  const bad = (["failed", "unreachable", "locked"] as const).flatMap((state) => {
    const hosts = names(state)
    return hosts.length === 0 ? [] : [`${hosts.length} ${state} (${hosts.join(", ")})`]
  })
  return [`${names("ok").length} of ${outcomes.length} done`, ...bad].join("; ")
}

/** An error that ended a whole fleet command, with the fleet's exit code. */
export function asFleetError(error: AlphaError): AlphaError {
  if (error instanceof HostError) return error
  const codes: Record<number, number> = { [EXIT.usage]: FLEET_EXIT.usage, [EXIT.data]: FLEET_EXIT.usage, [EXIT.busy]: FLEET_EXIT.locked }
  return new AlphaError(error.message, { hint: error.hint, code: codes[error.code] ?? FLEET_EXIT.failed, cause: error })
}
