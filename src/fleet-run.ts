/** Jobs on a machine: started, resumed, stopped. */
import { audit } from "./fleet-audit.ts"
import { alphaOnHost, enter } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"
import type { JobReport } from "./fleet-host-state.ts"
import { askHost } from "./fleet-job.ts"

/** Words of `alpha host start` for a job; `policy` and `words` are flags as they would be typed. */
export function startWords(kind: "train" | "serve", policy: readonly string[], force: boolean, words: readonly string[]): string[] {
  return ["host", "start", `--kind=${kind}`, ...(force ? ["--force"] : []), ...policy, "--json", "--", ...words]
}

export const resumeWords = (run: string | undefined, force: boolean): string[] => [
  "host",
  "resume",
  ...named(run),
  ...(force ? ["--force"] : []),
  "--json",
]

export const stopWords = (run: string | undefined, now: boolean): string[] => [
  "host",
  "stop",
  ...named(run),
  ...(now ? ["--now"] : []),
  "--json",
]

const named = (run: string | undefined): string[] => (run === undefined ? [] : [`--run=${run}`])

/** The script of a verb that changes what runs on the machine: it is in the audit log, but for the policy, which may name a token. */
export function jobScript(host: FleetHost, verb: string, words: readonly string[]): string {
  const rest = words.includes("--") ? words.slice(words.indexOf("--") + 1) : words.slice(2)
  return `(${enter(host)} && ${audit({ verb, detail: rest.join(" ") })})\n${alphaOnHost(host, words)}`
}

/** Does it, and tells how the job stands then. */
export const askJob = (host: FleetHost, verb: string, words: readonly string[]): Promise<JobReport & { readonly wasRunning?: boolean }> =>
  askHost(host, words, jobScript(host, verb, words))
