/** The supervisor: runs a job, watches it, writes down how it ends, and starts it again where its policy says so. */
import { appendFileSync, closeSync, existsSync, openSync } from "node:fs"
import { join, relative } from "node:path"
import { isCompiled } from "./base-build.ts"
import { processNamed, thisProcess } from "./base-process.ts"
import {
  type Exit,
  type Heartbeat,
  isFollower,
  type JobRecord,
  jobDirectory,
  jobNames,
  linkLog,
  logPath,
  nodeVariables,
  readRecord,
  readStop,
  writeExit,
  writeHeartbeat,
  writeRecord,
} from "./fleet-host.ts"
import { causeOf, type Ending, evidenceOf, kernelLines, messageOf, restartDelay } from "./fleet-host-cause.ts"
import { kernelLog, oomKills, uptime } from "./fleet-host-evidence.ts"
import { lastLines, lastWrite, rankEnd, runProgress } from "./fleet-host-progress.ts"
import { takeSlots } from "./fleet-host-slot.ts"
import { isLive, jobReport, signsOfLife } from "./fleet-host-state.ts"

const LOOK_MS = 250
const BEAT_MS = 5000

/** The words that start this very program again; a deploy may have taken its file away meanwhile. */
export function self(): string[] {
  const program = existsSync(process.execPath) ? process.execPath : `/proc/${process.pid}/exe`
  return isCompiled ? [program] : [program, "--no-env-file", process.argv[1] as string]
}

/** What a start runs: the stored words; a run that has begun goes on with them. */
export function commandOf(root: string, record: JobRecord, isFirst: boolean): string[] {
  const { argv, kind, run, resumed } = record
  const goesOn = kind === "train" && (resumed || !isFirst) && run !== undefined && existsSync(join(run, "config.json"))
  return goesOn && !argv.some((word) => /^--resume(=|$)/.test(word)) ? [...argv, `--resume=${relative(root, run)}`] : [...argv]
}

/** Runs job `name` of deploy directory `root` to its end; the process does nothing else. */
export async function supervise(root: string, name: string): Promise<void> {
  let record = readRecord(root, name)
  const refuse = (message: string) => {
    const nothing = { attempt: record.attempt, pid: undefined, code: null, signal: null, evidence: [], seconds: 0, restarts: false }
    writeExit(root, name, { time: Date.now(), cause: "busy", message, ...nothing })
  }
  const supervisor = thisProcess()
  const who = `job ${name} in ${root} (process ${supervisor.pid})`
  const slots = await takeSlots([`job:${jobDirectory(root, name)}`, ...(record.force ? [] : record.slots)], who).catch((error: Error) => {
    refuse(error.message)
    throw error
  })
  let isTold = false
  // At a shutdown every process gets its own SIGTERM: one more from here would cut the job's last checkpoint short.
  const onTerm = () => {
    isTold = true
    if (record.launcher === "systemd" && record.child !== undefined) kill(record.child.pid, "SIGTERM")
  }
  process.on("SIGTERM", onTerm)
  process.on("SIGINT", onTerm)
  process.on("SIGHUP", () => {})

  const log = openSync(logPath(root, name), "a")
  const say = (text: string) => attempted(() => appendFileSync(log, `alpha host: ${new Date().toISOString()} ${text}\n`))
  const deadline = record.policy.maxDuration === undefined ? undefined : record.startedAt + record.policy.maxDuration * 1000
  let restarts = 0
  let stepBefore = -1
  linkLog(root, name)
  try {
    for (;;) {
      const { exit, next } = await attempt()
      if (!exit.restarts) break
      const until = Date.now() + restartDelay(restarts) * 1000
      say(`${exit.message}; start ${next} follows in ${restartDelay(restarts)} s`)
      await beatUntil(
        "waiting",
        until,
        () => isTold || readStop(root, name) !== undefined || (deadline !== undefined && Date.now() > deadline),
      )
      if (isTold || readStop(root, name) !== undefined) {
        writeExit(root, name, {
          ...exit,
          time: Date.now(),
          cause: "stopped",
          message: `stopped while it waited to be started again; ${exit.message}`,
          restarts: false,
        })
        break
      }
    }
  } finally {
    slots.release()
  }
  await idle()
  closeSync(log)

  /** One run of the command, to its end. */
  async function attempt(): Promise<{ exit: Exit; next: number }> {
    const words = commandOf(root, record, record.attempt === 0)
    const number = record.attempt + 1
    say(`start ${number}: alpha ${words.join(" ")}`)
    const from = uptime()
    const kills = oomKills()
    const began = Date.now()
    const child = Bun.spawn([...self(), ...words], {
      cwd: root,
      env: { ...process.env, ...nodeVariables(record) },
      stdin: "ignore",
      stdout: log,
      stderr: log,
    })
    record = { ...record, supervisor, child: processNamed(child.pid), attempt: number }
    await lasting(() => writeRecord(root, record))
    let asked: Ending["asked"]
    let isOver = false
    void child.exited.then(() => {
      isOver = true
    })
    const ask = (why: Ending["asked"], signal: NodeJS.Signals) => {
      asked = why
      say(
        `${why === "now" ? "killed on request" : why === "stop" ? "asked to stop" : why === "expired" ? "its time is over" : "stalled"}: ${signal}`,
      )
      child.kill(signal)
    }
    await beatUntil(
      "running",
      undefined,
      () => {
        const wish = readStop(root, name)
        if (wish?.now && asked !== "now") ask("now", "SIGKILL")
        else if (wish !== undefined && asked === undefined) ask("stop", "SIGTERM")
        else if (asked === undefined && deadline !== undefined && Date.now() > deadline) ask("expired", "SIGTERM")
        else if (asked === undefined && record.policy.restart.includes("stalled") && hasStalled(began)) ask("stalled", "SIGKILL")
        return isOver
      },
      () => asked !== undefined,
    )
    await child.exited
    const progress = record.run === undefined ? undefined : runProgress(record.run)
    const ended = record.run !== undefined && isFollower(record) ? rankEnd(record.run) : progress?.ended
    const after = oomKills()
    const ending: Ending = {
      code: child.signalCode === null ? child.exitCode : null,
      signal: child.signalCode === null ? null : String(child.signalCode),
      asked: asked ?? (isTold ? "stop" : undefined),
      run: ended === "completed" || ended === "early_stop" ? "finished" : ended === "stopped" ? "stopped" : undefined,
      oomKills: after === undefined || kills === undefined ? undefined : after - kills,
      kernel: kernelLines(await kernelLog(), from, child.pid),
      tail: sinceStart(number),
    }
    const cause = causeOf(ending)
    const step = progress?.step ?? 0
    // A run that goes on after each failure may fail as often as it likes.
    restarts = step > stepBefore ? 1 : restarts + 1
    stepBefore = Math.max(stepBefore, step)
    const exit: Exit = {
      time: Date.now(),
      attempt: number,
      pid: child.pid,
      code: ending.code,
      signal: ending.signal,
      cause,
      message: messageOf(ending, cause),
      evidence: evidenceOf(ending),
      seconds: (Date.now() - began) / 1000,
      restarts:
        ending.asked !== "stop" && ending.asked !== "now" && record.policy.restart.includes(cause) && restarts <= record.policy.restarts,
    }
    // Whoever follows the log leaves when the exit is on record: the log's last line is written before.
    say(`end ${number}: ${cause}, ${exit.message}`)
    await lasting(() => writeExit(root, name, exit))
    return { exit, next: number + 1 }
  }

  /** What the log says of attempt `number`. */
  function sinceStart(number: number): string {
    const lines = lastLines(logPath(root, name))
    const at = lines.findLastIndex((line) => line.startsWith("alpha host: ") && line.includes(` start ${number}: `))
    return `${lines.slice(at + 1).join("\n")}\n`
  }

  function hasStalled(began: number): boolean {
    if (isFollower(record)) return false
    const quiet = Date.now() - Math.max(began, lastWrite(signsOfLife(root, record)))
    return quiet > record.policy.stallAfter * 1000
  }

  /** Waits until `isDone`, or the time, and writes a heartbeat every few seconds. */
  async function beatUntil(
    phase: Heartbeat["phase"],
    until: number | undefined,
    isDone: () => boolean,
    isStopping = () => false,
  ): Promise<void> {
    for (let beatAt = 0; !isDone() && (until === undefined || Date.now() < until); ) {
      if (Date.now() - beatAt >= BEAT_MS) {
        beatAt = Date.now()
        attempted(() => writeHeartbeat(root, name, { time: Date.now(), phase: isStopping() ? "stopping" : phase, until }))
      }
      await Bun.sleep(LOOK_MS)
    }
  }

  /** Runs the idle command once nothing has run here for its time; whoever starts something else meanwhile takes the watch over. */
  async function idle(): Promise<void> {
    const { idleCommand, idleAfter } = record.policy
    if (idleCommand === undefined || isTold) return
    const until = Date.now() + idleAfter * 1000
    const isBusy = () =>
      readRecord(root, name).startedAt !== record.startedAt || jobNames(root).some((other) => isLive(jobReport(root, other).state))
    say(`nothing runs: the idle command follows in ${idleAfter} s`)
    await beatUntil("idle", until, () => isTold || isBusy())
    if (isTold || isBusy()) return
    say(`idle for ${idleAfter} s: ${idleCommand}`)
    const child = Bun.spawn(["sh", "-c", idleCommand], { cwd: root, stdin: "ignore", stdout: log, stderr: log })
    say(`the idle command ended with exit code ${await child.exited}`)
  }
}

/** What may be lost on a full disk: it must not end the supervisor. */
function attempted(work: () => void): void {
  try {
    work()
  } catch (error) {
    if (!isFull(error)) throw error
  }
}

/** What must not be lost: on a full disk it waits for room. */
async function lasting(work: () => void): Promise<void> {
  for (;;) {
    try {
      work()
      return
    } catch (error) {
      if (!isFull(error)) throw error
      await Bun.sleep(1000)
    }
  }
}

function isFull(error: unknown): boolean {
  const { code, cause } = error as { code?: unknown; cause?: { code?: unknown } }
  return [code, cause?.code].some((one) => one === "ENOSPC" || one === "EDQUOT")
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {} // it is gone already
}
