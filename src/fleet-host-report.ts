/** What a host tells of itself: its jobs, GPUs, memory and disk. */
import { statfsSync } from "node:fs"
import { availableParallelism, freemem, hostname, loadavg, totalmem } from "node:os"
import { buildInfo } from "./base-build.ts"
import { bootId } from "./base-process.ts"
import { gpuNames } from "./device.ts"
import { jobNames } from "./fleet-host.ts"
import { isLive, type JobReport, jobReport } from "./fleet-host-state.ts"

export interface GpuReport {
  /** What --device=gpu:N means. */
  readonly index: number
  readonly uuid: string
  readonly name: string
  /** Null where the driver does not tell. */
  readonly memoryBytes: number | null
  readonly memoryUsedBytes: number | null
  readonly utilisation: number | null
  readonly watts: number | null
  readonly celsius: number | null
  /** The job that has it. */
  readonly job: string | null
}

export interface HostReport {
  readonly host: string
  readonly time: number
  readonly boot: string
  readonly version: string
  readonly commit: string
  readonly cores: number
  readonly load: number
  readonly memoryBytes: number
  readonly memoryFreeBytes: number
  readonly diskFreeBytes: number
  readonly gpus: readonly GpuReport[]
  readonly jobs: readonly JobReport[]
}

/** The host as it is now. */
export async function hostReport(root: string): Promise<HostReport> {
  const jobs = jobNames(root).map((name) => jobReport(root, name))
  const { bavail, bsize } = statfsSync(root)
  const { version, commit } = buildInfo()
  return {
    host: hostname(),
    time: Date.now(),
    boot: bootId(),
    version,
    commit,
    cores: availableParallelism(),
    load: loadavg()[0]!,
    memoryBytes: totalmem(),
    memoryFreeBytes: freemem(),
    diskFreeBytes: bavail * bsize,
    gpus: withJobs(await findGpus(), jobs),
    jobs,
  }
}

type Gpu = Omit<GpuReport, "job">

const withJobs = (gpus: readonly Gpu[], jobs: readonly JobReport[]): GpuReport[] =>
  gpus.map((gpu) => {
    const job = jobs.find(({ slots, state }) => isLive(state) && slots.some((slot) => slot === `gpu:${gpu.uuid}`))
    return { ...gpu, job: job?.name ?? null }
  })

/** The maker's tool knows more and is there wherever its driver is; else what Vulkan says. */
async function findGpus(): Promise<Gpu[]> {
  const told = await nvidia()
  if (told.length > 0) return told
  const blank = { memoryBytes: null, memoryUsedBytes: null, utilisation: null, watts: null, celsius: null }
  return gpuNames().map(({ index, uuid, name }) => ({ index, uuid, name, ...blank }))
}

const COLUMNS = ["index", "uuid", "name", "memory.total", "memory.used", "utilization.gpu", "power.draw", "temperature.gpu"]
/** A driver in trouble may never answer. */
const ANSWER_MS = 5000

async function nvidia(): Promise<Gpu[]> {
  if (Bun.which("nvidia-smi") === null) return []
  const words = ["nvidia-smi", `--query-gpu=${COLUMNS.join(",")}`, "--format=csv,noheader,nounits"]
  const child = Bun.spawn(words, { stdin: "ignore", stdout: "pipe", stderr: "ignore", timeout: ANSWER_MS, killSignal: "SIGKILL" })
  const text = await new Response(child.stdout).text()
  return (await child.exited) === 0 ? parseNvidia(text) : []
}

/** Lines such as "0, GPU-1f…, NVIDIA L4, 23034, 512, 97, 68.20, 61" (MiB, percent, W, °C); a value that is not known reads [N/A]. */
export function parseNvidia(text: string): Gpu[] {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const cells = line.split(",").map((cell) => cell.trim())
      const number = (at: number, scale = 1) => (/^\d/.test(cells[at] ?? "") ? Number(cells[at]) * scale : null)
      return {
        index: Number(cells[0]),
        uuid: (cells[1] ?? "").replace(/^GPU-/, "").replaceAll("-", ""),
        name: cells[2] ?? "",
        memoryBytes: number(3, 2 ** 20),
        memoryUsedBytes: number(4, 2 ** 20),
        utilisation: number(5, 0.01),
        watts: number(6),
        celsius: number(7),
      }
    })
}
