/** How a job stands: a function of its record, its last words, and whether its processes live. */
import { bootId, livesHere } from "./base-process.ts"
import { journalPath } from "./db.ts"
import { type Exit, type Heartbeat, isFollower, type JobRecord, logPath, readExits, readHeartbeat, readRecord } from "./fleet-host.ts"
import { lastWrite, type Progress, runProgress } from "./fleet-host-progress.ts"

export const JOB_STATES = ["running", "stalled", "restarting", "crashed", "finished", "stopped", "rebooted"] as const
export type JobState = (typeof JOB_STATES)[number]

/** States in which a job has a process, or will have one without being asked. */
export const isLive = (state: JobState): boolean => state === "running" || state === "stalled" || state === "restarting"

/** What the state is a function of. */
export interface JobFacts {
  readonly record: JobRecord
  readonly beat: Heartbeat | undefined
  /** How the last attempt ended. */
  readonly exit: Exit | undefined
  readonly boot: string
  readonly supervisorLives: boolean
  readonly childLives: boolean
  /** When log or journal last grew; ms since 1970, as `now`. */
  readonly quietSince: number
  readonly msPerStep: number | null
  readonly now: number
}

/** Longest that a supervisor takes to begin. */
export const BEGIN_MS = 30_000

/** The state and why it is that, for people. */
export function jobState(facts: JobFacts): { state: JobState; reason: string } {
  const { record, beat, exit, boot, supervisorLives, childLives, now } = facts
  const seen = record.child ?? record.supervisor
  if (seen === undefined && now - record.startedAt < BEGIN_MS) return { state: "running", reason: "it begins" }
  const isRebooted = seen !== undefined && seen.boot !== boot
  const ended = exit !== undefined && exit.time >= record.startedAt && exit.attempt === record.attempt ? exit : undefined
  if (ended !== undefined) {
    if (!ended.restarts) return { state: endState(ended), reason: ended.message }
    if (supervisorLives)
      return { state: "restarting", reason: `${ended.message}${beat?.until === undefined ? "" : `; again ${inSeconds(beat.until - now)}`}` }
    if (isRebooted) return { state: "rebooted", reason: `the host restarted after ${ended.message}` }
    return { state: "crashed", reason: `its supervisor is gone; before that ${ended.message}` }
  }
  if (isRebooted) return { state: "rebooted", reason: "the host has been restarted since; resume goes on from the last checkpoint" }
  if (seen === undefined) return { state: "crashed", reason: "it never began" }
  if (!childLives && !supervisorLives) return { state: "crashed", reason: "it and its supervisor vanished without a word" }
  const alone = supervisorLives ? "" : "; its supervisor is gone"
  const quiet = now - facts.quietSince
  const patience = Math.max(record.policy.stallAfter * 1000, 10 * (facts.msPerStep ?? 0))
  if (record.kind === "train" && !isFollower(record) && childLives && quiet > patience) {
    return { state: "stalled", reason: `nothing new for ${Math.round(quiet / 1000)} s${alone}` }
  }
  return {
    state: "running",
    reason: beat?.phase === "stopping" && supervisorLives ? `it saves what it has, to stop${alone}` : alone.slice(2),
  }
}

const inSeconds = (ms: number): string => `in ${Math.max(0, Math.round(ms / 1000))} s`

function endState({ cause }: Exit): JobState {
  if (cause === "finished") return "finished"
  return cause === "stopped" || cause === "expired" || cause === "preempted" ? "stopped" : "crashed"
}

/** Everything that `status` tells of a job. */
export interface JobReport {
  readonly name: string
  readonly id: string
  readonly kind: JobRecord["kind"]
  readonly state: JobState
  readonly reason: string
  readonly argv: readonly string[]
  readonly slots: readonly string[]
  readonly configHash: string
  readonly startedAt: number
  readonly attempt: number
  readonly pid: number | null
  readonly progress: Progress | null
  /** When log or journal last grew. */
  readonly quietSince: number
  readonly exit: Exit | null
  readonly launcher: JobRecord["launcher"]
  readonly version: string
}

const report = (record: JobRecord, facts: JobFacts, progress: Progress | undefined): JobReport => ({
  name: record.name,
  id: record.id,
  kind: record.kind,
  ...jobState(facts),
  argv: record.argv,
  slots: record.slots,
  configHash: record.configHash,
  startedAt: record.startedAt,
  attempt: record.attempt,
  pid: facts.childLives ? (record.child?.pid ?? null) : null,
  progress: progress ?? null,
  quietSince: facts.quietSince,
  exit: facts.exit ?? null,
  launcher: record.launcher,
  version: record.version,
})

/** Files whose growth shows that a job goes on. */
export const signsOfLife = (root: string, { name, run }: JobRecord): string[] => [
  logPath(root, name),
  ...(run === undefined ? [] : [journalPath(run, "metrics"), journalPath(run, "events")]),
]

/** How the job called `name` stands now. */
export function jobReport(root: string, name: string, now = Date.now()): JobReport {
  const record = readRecord(root, name)
  const progress = record.run === undefined ? undefined : runProgress(record.run)
  return report(
    record,
    {
      record,
      beat: readHeartbeat(root, name),
      exit: readExits(root, name).at(-1),
      boot: bootId(),
      supervisorLives: record.supervisor !== undefined && livesHere(record.supervisor),
      childLives: record.child !== undefined && livesHere(record.child),
      quietSince: Math.max(lastWrite(signsOfLife(root, record)), record.startedAt),
      msPerStep: progress?.msPerStep ?? null,
      now,
    },
    progress,
  )
}
