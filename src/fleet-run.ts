/** Jobs on a machine: started, resumed, stopped. */
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

export const askJob = (host: FleetHost, words: readonly string[]): Promise<JobReport & { readonly wasRunning?: boolean }> =>
  askHost(host, words)
