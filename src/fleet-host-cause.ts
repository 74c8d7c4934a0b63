/** Why a job ended, from its exit code, its signal and what the kernel says; and whether it is started again. */
import { AlphaError, EXIT, nearest } from "./base-error.ts"

/** Causes by the word that records and policies use. */
export const CAUSES = {
  finished: "it did all of its steps",
  stopped: "it was asked to stop",
  killed: "a signal of unknown origin killed it",
  expired: "its time was over",
  preempted: "a signal from elsewhere stopped it after a checkpoint",
  stalled: "it said nothing for too long",
  "out-of-memory": "the kernel killed it for memory",
  "gpu-memory": "the GPU's memory was not enough",
  "gpu-error": "the GPU or its driver failed",
  crashed: "it broke",
  "rank-lost": "another rank of its run ended without a word",
  failed: "it gave up with an error",
  usage: "its command line or configuration is wrong",
  data: "a file is missing or damaged",
  device: "the device that it needs is not there",
  busy: "another process holds what it needs",
} as const
export type Cause = keyof typeof CAUSES
export const CAUSE_NAMES = Object.keys(CAUSES) as readonly Cause[]

/** What is known of an attempt when it has ended. */
export interface Ending {
  readonly code: number | null
  /** "SIGKILL" … */
  readonly signal: string | null
  /** What the supervisor itself had asked for before. */
  readonly asked: "stop" | "now" | "expired" | "stalled" | undefined
  /** How the run describes its own end, where it does: "finished", "stopped". */
  readonly run: string | undefined
  /** Times the kernel killed for memory in the job's group meanwhile; undefined where it does not tell. */
  readonly oomKills: number | undefined
  /** The kernel's own lines of that time about memory and GPUs. */
  readonly kernel: { readonly oom: readonly string[]; readonly gpu: readonly string[] }
  /** The end of the job's log. */
  readonly tail: string
}

/** Exit codes of `alpha` that mean a cause. */
const BY_CODE: Readonly<Record<number, Cause>> = { 1: "failed", 2: "usage", 3: "data", 4: "device", 5: "busy" }

const GPU_LOST = /VK_ERROR_DEVICE_LOST|failed during .*\(-4\)/
const RANK_LOST = /^(rank \d+ .* is lost: .*); all ranks end$/m
const GPU_MEMORY = /VK_ERROR_OUT_OF_DEVICE_MEMORY/

export function causeOf(ending: Ending): Cause {
  const { code, signal, asked, run, oomKills, kernel, tail } = ending
  if (asked === "now") return "stopped"
  if (asked === "stalled") return "stalled"
  if (code === 0) {
    if (asked === "expired") return run === "finished" ? "finished" : "expired"
    if (asked === "stop") return run === "finished" ? "finished" : "stopped"
    return run === "stopped" ? "preempted" : "finished"
  }
  if (signal === "SIGKILL" && ((oomKills ?? 0) > 0 || kernel.oom.length > 0)) return "out-of-memory"
  if (kernel.gpu.length > 0 || GPU_LOST.test(tail)) return "gpu-error"
  if (GPU_MEMORY.test(tail)) return "gpu-memory"
  if (signal === "SIGKILL" || signal === "SIGTERM" || signal === "SIGINT" || signal === "SIGHUP" || code === 130) return "killed"
  if (signal !== null) return "crashed"
  if (code === 1 && RANK_LOST.test(tail)) return "rank-lost"
  return BY_CODE[code ?? -1] ?? "failed"
}

/** The end in words: "SIGKILL: the kernel killed it for memory (oom_kill 1)". */
export function messageOf(ending: Ending, cause: Cause): string {
  const how = ending.signal ?? `exit code ${ending.code}`
  if (ending.asked === "now") return `${how}: killed on request, without a checkpoint`
  const own = [...ending.tail.matchAll(/^alpha: (.+)$/gm)].at(-1)?.[1] ?? RANK_LOST.exec(ending.tail)?.[1]
  if (own !== undefined && ending.code !== 0) return `${how}: ${own}`
  return `${how}: ${CAUSES[cause]}`
}

/** Lines of evidence that the record keeps. */
export function evidenceOf({ oomKills, kernel }: Ending): string[] {
  const counted = oomKills !== undefined && oomKills > 0 ? [`memory cgroup: oom_kill +${oomKills}`] : []
  return [...counted, ...kernel.oom, ...kernel.gpu].slice(0, 20)
}

/** Seconds before restart number `n` (from 1): 2, 4, 8 … at most 300. */
export const restartDelay = (n: number): number => Math.min(300, 2 ** n)

/** The kernel's lines since `uptime` (seconds since boot) that speak of memory or GPUs. `pid`: the job's own process. */
export function kernelLines(log: string, uptime: number, pid: number | undefined): { oom: string[]; gpu: string[] } {
  const recent = log.split("\n").filter((line) => {
    const at = /^(?:<\d+>)?\[\s*(\d+\.\d+)\]/.exec(line)?.[1]
    return at !== undefined && Number(at) >= uptime
  })
  // Within a container the kernel names processes by other numbers, so that the program's name counts too.
  const isOurs = (line: string) => (pid !== undefined && line.includes(`process ${pid} `)) || /\((?:alpha|bun)\b/.test(line)
  return {
    oom: recent.filter((line) => /out of memory: killed process/i.test(line) && isOurs(line)),
    gpu: recent.filter((line) => /NVRM: Xid|GPU has fallen off the bus|amdgpu.*(?:GPU reset|ring .* timeout)|GPU HANG/i.test(line)),
  }
}

/** The causes that a list names. Throws for a word that is none. */
export function causesOf(words: readonly string[]): Cause[] {
  return words.map((word) => {
    if (Object.hasOwn(CAUSES, word) && word !== "finished" && word !== "stopped") return word as Cause
    const known = CAUSE_NAMES.filter((name) => name !== "finished" && name !== "stopped")
    throw new AlphaError(`restart ${word}: expected one of ${known.join(", ")}`, { hint: hintOf(word, known), code: EXIT.usage })
  })
}

function hintOf(word: string, known: readonly string[]): string | undefined {
  const close = nearest(word, known)
  return close === undefined ? undefined : `did you mean ${close}?`
}
