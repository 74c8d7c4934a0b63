/** Stopping a command that has something to save: the first signal, or an output nobody reads, asks; the second signal ends it at once. */
import { readFileSync } from "node:fs"
import { EXIT } from "./base-error.ts"

interface Stoppable {
  stop(): void
  asked: boolean
}
let running: Stoppable | undefined

/**
 * Calls `stop` at the first SIGINT, SIGTERM or SIGHUP; at the second `atOnce`, then the process ends. Returns what takes the handlers off again.
 * A SIGHUP that whoever started the process ignores (nohup) stays ignored. A run and a rank of one stop at SIGUSR1 too, which batch systems send
 * ahead of a time limit; of a rank only a second SIGINT ends at once: launchers repeat the others.
 */
export function onStop(stop: () => void, atOnce: () => void = () => {}, kind: "command" | "run" | "rank" = "command"): () => void {
  const signals: NodeJS.Signals[] = [
    "SIGINT",
    "SIGTERM",
    ...(ignoresHangup() ? [] : (["SIGHUP"] as const)),
    ...(kind === "command" ? [] : (["SIGUSR1"] as const)),
  ]
  let interrupts = 0
  const command: Stoppable = { stop, asked: false }
  running = command
  const onSignal = (signal: NodeJS.Signals) => {
    if (signal === "SIGINT") interrupts++
    if (!command.asked) return void requestStop()
    if (kind === "rank" && interrupts < 2) return
    atOnce()
    process.exit(EXIT.interrupted)
  }
  for (const signal of signals) process.on(signal, onSignal)
  return () => {
    running = undefined
    for (const signal of signals) process.off(signal, onSignal)
  }
}

/** Asks the running command to stop as a first signal does; false when there is none that saves its work. */
export function requestStop(): boolean {
  if (running === undefined) return false
  const { asked } = running
  running.asked = true
  if (!asked) running.stop()
  return true
}

/** Whether SIGHUP was set to be ignored before this process began: bit 0 of SigIgn, where the system tells. */
function ignoresHangup(): boolean {
  try {
    const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]
    return mask !== undefined && (BigInt(`0x${mask}`) & 1n) === 1n
  } catch {
    return false
  }
}
