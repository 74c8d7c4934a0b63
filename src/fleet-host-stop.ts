/** Stopping a job: its supervisor is asked, and the answer is awaited. */
import { AlphaError, EXIT } from "./base-error.ts"
import { livesHere } from "./base-process.ts"
import { readRecord, writeExit, writeStop } from "./fleet-host.ts"
import { isLive, type JobReport, jobReport } from "./fleet-host-state.ts"

/** Ends job `name` after a checkpoint, or with `now` at once; returns when it has ended. A job that does not run is told of, not an error. */
export async function stopJob(root: string, name: string, now: boolean): Promise<JobReport & { readonly wasRunning: boolean }> {
  const before = jobReport(root, name)
  if (!isLive(before.state)) return { ...before, wasRunning: false }
  writeStop(root, name, { time: Date.now(), now })
  const { supervisor, child, attempt } = readRecord(root, name)
  if (child !== undefined && livesHere(child) && (supervisor === undefined || !livesHere(supervisor))) {
    const signal = now ? "SIGKILL" : "SIGTERM"
    process.kill(child.pid, signal)
    while (livesHere(child)) await Bun.sleep(100)
    const message = `${now ? "killed" : "stopped"} on request, after its supervisor was gone`
    const ending = { attempt, pid: child.pid, code: null, signal, evidence: [], restarts: false }
    writeExit(root, name, { time: Date.now(), cause: "stopped", message, seconds: (Date.now() - before.startedAt) / 1000, ...ending })
  }
  for (;;) {
    const report = jobReport(root, name)
    if (!isLive(report.state)) return { ...report, wasRunning: true }
    await Bun.sleep(100)
  }
}

/** The only job that runs. Throws where none or several do. */
export function onlyRunning(names: readonly string[], root: string): string {
  const [one, ...others] = names
  if (one !== undefined && others.length === 0) return one
  throw new AlphaError(one === undefined ? `nothing runs in ${root}` : `${names.length} jobs run in ${root}: ${names.join(", ")}`, {
    hint: one === undefined ? "alpha fleet status shows what ended" : "name one: --run=NAME",
    code: one === undefined ? EXIT.data : EXIT.usage,
  })
}
