/** The memory of a training process as the system sees it, step by step; for the tests and the soak. */
import { existsSync, readFileSync } from "node:fs"

export interface MemoryRun {
  /** Resident bytes when the row of each step arrived; index = step. */
  readonly resident: readonly number[]
  readonly parameters: number
  /** Highest resident bytes, by the process's own summary. */
  readonly peak: number
  readonly msPerStep: number
}

/**
 * Runs `alpha train --json` with these flags, looking at its resident memory at every logged step: to its end, where the last rows may come
 * when the process is gone, or to its death at step `last`, which it cannot miss.
 */
export async function trainMemory(
  command: readonly string[],
  flags: readonly string[],
  last = Number.POSITIVE_INFINITY,
): Promise<MemoryRun> {
  const run = Bun.spawn([...command, "train", "--json", ...flags], { stdout: "pipe", stderr: "pipe" })
  const errors = new Response(run.stderr).text()
  const resident: number[] = []
  let parameters = 0
  let peak = 0
  let msPerStep = 0
  for await (const line of lines(run.stdout)) {
    const row = JSON.parse(line) as Record<string, unknown>
    if (row.type === "start") parameters = row.parameters as number
    else if (row.type === "step") resident[row.step as number] = residentBytes(run.pid)
    if (row.type === "step" && (row.step as number) >= last) run.kill("SIGKILL")
    if (run.killed) break
    else if (row.type === "summary") [peak, msPerStep] = [row.peak_rss_bytes as number, row.ms_per_step as number]
  }
  if ((await run.exited) !== 0 && run.signalCode !== "SIGKILL") throw new Error(`alpha train ${flags.join(" ")}: ${await errors}`)
  return { resident, parameters, peak, msPerStep }
}

/** Median of the resident bytes around `step` (every logged one from 9 before to 10 after), which one garbage collection does not move. */
export function residentAt({ resident }: MemoryRun, step: number): number {
  const some = resident.slice(Math.max(0, step - 9), step + 11).filter((bytes) => bytes > 0)
  return some.toSorted((a, b) => a - b)[some.length >> 1] as number
}

/** VmRSS of a process: what /proc/PID/status calls it, in bytes; 0 where it is gone. Linux only. */
function residentBytes(pid: number): number {
  const path = `/proc/${pid}/status`
  const kib = existsSync(path) ? /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(path, "utf8"))?.[1] : undefined
  return Number(kib ?? 0) * 1024
}

async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  let rest = ""
  for await (const chunk of stream) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n")
    rest = parts.pop() ?? ""
    yield* parts
  }
}
