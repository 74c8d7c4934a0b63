/** How the machines stand: asked at the same time, told in rows. */
import { formatBytes, formatCount, formatDuration } from "./base-term.ts"
import type { FleetHost } from "./fleet-config.ts"
import type { GpuReport, HostReport } from "./fleet-host-report.ts"
import type { JobReport } from "./fleet-host-state.ts"
import { askHost } from "./fleet-job.ts"

export const statusWords = (run: string | undefined): string[] => [
  "host",
  "status",
  ...(run === undefined ? [] : [`--run=${run}`]),
  "--json",
]

export const askStatus = (host: FleetHost, run?: string): Promise<HostReport> => askHost<HostReport>(host, statusWords(run))

/** One line about the machine itself. */
export function hostLine({ cores, load, memoryBytes, memoryFreeBytes, diskFreeBytes, gpus, jobs, version, commit }: HostReport): string {
  const live = jobs.filter(({ state }) => state === "running").length
  return [
    `${live} running`,
    gpus.length === 0 ? "no GPU" : `${gpus.length} GPU${gpus.length > 1 ? "s" : ""}`,
    `load ${load.toFixed(1)} of ${cores}`,
    `${formatBytes(memoryFreeBytes)} of ${formatBytes(memoryBytes)} free`,
    `disk ${formatBytes(diskFreeBytes)} free`,
    `alpha ${version} ${commit}`,
  ].join(" · ")
}

/** A GPU as cells: name, use, memory, power, heat, job. */
export function gpuCells(gpu: GpuReport): string[] {
  const known = (value: number | null, text: (value: number) => string) => (value === null ? "–" : text(value))
  return [
    `gpu:${gpu.index}`,
    gpu.name,
    known(gpu.utilisation, (share) => `${Math.round(share * 100)} %`),
    known(gpu.memoryUsedBytes, (used) => `${formatBytes(used)} of ${formatBytes(gpu.memoryBytes ?? 0)}`),
    known(gpu.watts, (watts) => `${Math.round(watts)} W`),
    known(gpu.celsius, (celsius) => `${celsius} °C`),
    gpu.job ?? "free",
  ]
}

export const JOB_HEAD = ["job", "state", "step", "loss", "val", "tokens/s", "left", "since"] as const

/** A job as cells under JOB_HEAD. `now` is the machine's own clock. */
export function jobCells({ name, state, progress, startedAt, kind }: JobReport, now: number): string[] {
  const dash = "–"
  const since = formatDuration(Math.max(0, now - startedAt))
  if (progress === null) return [name, state, kind === "serve" ? "serves" : dash, dash, dash, dash, dash, since]
  const { step, steps, loss, valLoss, tokensPerS, msPerStep } = progress
  const left = steps === null || msPerStep === null || state !== "running" ? dash : formatDuration((steps - step) * msPerStep)
  const fixed = (value: number | null) => (value === null ? dash : value.toFixed(4))
  return [
    name,
    state,
    steps === null ? String(step) : `${step}/${steps}`,
    fixed(loss),
    fixed(valLoss),
    tokensPerS === null ? dash : formatCount(tokensPerS),
    left,
    since,
  ]
}

/** Jobs in the order in which they matter: those that live, then the youngest. */
export function inOrder(jobs: readonly JobReport[]): JobReport[] {
  const rank = ({ state }: JobReport) => (state === "running" || state === "stalled" || state === "restarting" ? 0 : 1)
  return jobs.toSorted((a, b) => rank(a) - rank(b) || b.startedAt - a.startedAt)
}
