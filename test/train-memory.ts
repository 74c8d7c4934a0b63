/** The memory of a training process as the system sees it, step by step; for the tests and the soak. */
import { readFileSync } from "node:fs"

export interface MemoryRun {
  /** Resident bytes when the row of each step arrived; index = step. */
  readonly resident: readonly number[]
  readonly parameters: number
  /** Highest resident bytes, by the process's own summary. */
  readonly peak: number
  readonly msPerStep: number
}

/** Runs `alpha train --json` with these flags to its end, looking at its resident memory at every logged step. */
export async function trainMemory(command: readonly string[], flags: readonly string[]): Promise<MemoryRun> {
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
    else if (row.type === "summary") [peak, msPerStep] = [row.peak_rss_bytes as number, row.ms_per_step as number]
  }
  if ((await run.exited) !== 0) throw new Error(`alpha train ${flags.join(" ")}: ${await errors}`)
  return { resident, parameters, peak, msPerStep }
}

/** Median of the resident bytes around `step` (every logged one from 9 before to 10 after), which one garbage collection does not move. */
export function residentAt({ resident }: MemoryRun, step: number): number {
  const some = resident.slice(Math.max(0, step - 9), step + 11).filter((bytes) => bytes > 0)
  return some.toSorted((a, b) => a - b)[some.length >> 1] as number
}

/** VmRSS of a process: what /proc/PID/status calls it, in bytes. Linux only. */
function residentBytes(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
  return Number(kib) * 1024
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
