/** Fresh processes: a command line is run to its end, and its JSON lines are read. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError } from "./base-error.ts"

/** The words that start this program again. */
export const selfCommand = (): string[] =>
  isCompiled ? [process.execPath] : [process.execPath, "--no-env-file", join(import.meta.dir, "cli.ts")]

export interface Ran {
  /** JSON objects of standard output, one a line. */
  readonly lines: readonly Readonly<Record<string, unknown>>[]
  readonly stdout: string
  readonly stderr: string
  readonly code: number
  /** Milliseconds from start to end, and of processors' time. */
  readonly ms: number
  readonly cpuMs: number
}

export interface RunOptions {
  readonly cwd?: string | undefined
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
  /** Milliseconds after which the process is ended. */
  readonly limitMs?: number | undefined
}

/** What a signal takes along: children, temporary directories. */
const releases = new Set<() => void>()
const SIGNALS = ["SIGINT", "SIGTERM"] as const

/** The newest first, as children write to directories; then the signal ends this process as ever. */
function onSignal(signal: NodeJS.Signals): void {
  for (const name of SIGNALS) process.off(name, onSignal)
  for (const release of [...releases].reverse()) release()
  process.kill(process.pid, signal)
}

/** Calls `work`; a signal meanwhile calls `release`. */
async function releasing<T>(release: () => void, work: () => Promise<T>): Promise<T> {
  if (releases.size === 0) for (const name of SIGNALS) process.on(name, onSignal)
  releases.add(release)
  try {
    return await work()
  } finally {
    releases.delete(release)
    if (releases.size === 0) for (const name of SIGNALS) process.off(name, onSignal)
  }
}

/** Runs a command to its end, whatever its exit code. Throws AlphaError where it cannot be started. */
export async function runCommand(command: readonly string[], { cwd, env, limitMs }: RunOptions = {}): Promise<Ran> {
  const from = performance.now()
  // Where the compiled program stands in for Bun, it does so again for itself; other children are themselves.
  const isSelf = !isCompiled && command[0] === process.execPath
  const surroundings = { ...process.env, BUN_BE_BUN: isSelf ? process.env.BUN_BE_BUN : undefined, ...env }
  let child: Bun.Subprocess<"ignore", "pipe", "pipe">
  try {
    child = Bun.spawn([...command], {
      cwd: cwd ?? process.cwd(),
      env: surroundings,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      ...(limitMs === undefined ? {} : { timeout: limitMs }),
    })
  } catch (error) {
    throw new AlphaError(`bench: ${command[0]} cannot be started: ${(error as Error).message}`)
  }
  const [stdout, stderr, code] = await releasing(
    () => child.kill("SIGKILL"),
    () => Promise.all([child.stdout.text(), child.stderr.text(), child.exited]),
  )
  const cpuMs = Number(child.resourceUsage()?.cpuTime.total ?? Number.NaN) / 1000
  return { lines: jsonLines(stdout), stdout, stderr, code, ms: performance.now() - from, cpuMs }
}

function jsonLines(text: string): Record<string, unknown>[] {
  return text.split("\n").flatMap((line) => {
    try {
      return line.startsWith("{") ? [JSON.parse(line) as Record<string, unknown>] : []
    } catch {
      return []
    }
  })
}

/** The same, but an exit code other than 0 is an AlphaError with what was printed. */
export async function runWell(command: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const ran = await runCommand(command, options)
  if (ran.code === 0) return ran
  const said = tail(`${ran.stderr}\n${ran.lines.length > 0 ? "" : ran.stdout}`)
  throw new AlphaError(`bench: ${command.join(" ")} exits ${ran.code}\n${said}`)
}

/** A process that answers every line with one. */
export interface Answering {
  /** Sends a line, and waits for the JSON object that answers it. Throws AlphaError with what was printed where the process ends instead. */
  ask(): Promise<Readonly<Record<string, unknown>>>
  close(): Promise<void>
}

export function startAnswering(command: readonly string[]): Answering {
  const child = Bun.spawn([...command], { env: { ...process.env, BUN_BE_BUN: undefined }, stdin: "pipe", stdout: "pipe", stderr: "pipe" })
  const stderr = child.stderr.text()
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader()
  let text = ""
  return {
    async ask() {
      child.stdin.write("\n")
      await child.stdin.flush()
      for (;;) {
        const { value, done } = await reader.read()
        text += value ?? ""
        const end = text.lastIndexOf("\n") + 1
        const answer = jsonLines(text.slice(0, end)).at(-1)
        text = text.slice(end)
        if (answer !== undefined) return answer
        if (done) throw new AlphaError(`bench: ${command.join(" ")} exits ${await child.exited}\n${tail(await stderr)}`)
      }
    },
    async close() {
      child.stdin.end()
      await child.exited
    },
  }
}

const tail = (text: string): string => text.trim().split("\n").slice(-12).join("\n")

/** Calls `work` with a directory that is gone afterwards, also where a signal ends this process. */
export async function inTemporary<T>(work: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "alpha-bench-"))
  const remove = () => rmSync(directory, { recursive: true, force: true, maxRetries: 3 })
  return await releasing(remove, () => work(directory)).finally(remove)
}
