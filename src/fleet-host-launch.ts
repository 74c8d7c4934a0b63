/** Starting a job: its record, then a supervisor that outlives the connection. */
import { existsSync } from "node:fs"
import { userInfo } from "node:os"
import { join, resolve } from "node:path"
import { buildInfo } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import { makeDirectory, sha256 } from "./base-file.ts"
import { livesHere } from "./base-process.ts"
import {
  checkName,
  hasRecord,
  isFollower,
  type JobPolicy,
  type JobRecord,
  jobDirectory,
  jobNames,
  logPath,
  readExits,
  readRecord,
  removeStop,
  writeRecord,
} from "./fleet-host.ts"
import { lastLines } from "./fleet-host-progress.ts"
import { slotName, takeSlots } from "./fleet-host-slot.ts"
import { BEGIN_MS, isLive, type JobReport, jobReport } from "./fleet-host-state.ts"
import { self } from "./fleet-host-supervise.ts"

/** What a start is told. */
export interface StartRequest {
  readonly name: string
  readonly kind: JobRecord["kind"]
  readonly argv: readonly string[]
  readonly run: string | undefined
  readonly configHash: string
  readonly slots: readonly string[]
  readonly force: boolean
  readonly node?: string | undefined
  readonly policy: JobPolicy
}

/** A start has failed if its process ends within this time, in ms. */
const SETTLE_MS = 1000
/** The same while its run has not begun: on a busy machine it takes longer to find what is wrong. */
const BEGINNING_MS = 10_000

/** Starts a new job. Throws where one of that name runs, or ran. */
export async function startJob(root: string, request: StartRequest): Promise<JobReport> {
  const name = checkName(request.name)
  if (hasRecord(root, name)) {
    const before = readRecord(root, name)
    const { state } = jobReport(root, name)
    const isNew = before.kind === "serve" || isFollower(before) || (before.run !== undefined && !existsSync(before.run))
    if (isLive(state) || !isNew) {
      throw new AlphaError(`${name} is there already (${state})`, {
        hint: isLive(state)
          ? `alpha fleet stop --run=${name}, or choose another --run`
          : `go on with alpha fleet resume --run=${name}, or choose another --run`,
        code: isLive(state) ? EXIT.busy : EXIT.usage,
      })
    }
  }
  const now = Date.now()
  const { version, commit } = buildInfo()
  return await launch(root, {
    ...request,
    id: crypto.randomUUID(),
    run: request.run === undefined ? undefined : resolve(root, request.run),
    environment: environmentNames(),
    createdAt: now,
    startedAt: now,
    resumed: false,
    launcher: launcher(),
    version,
    commit,
    supervisor: undefined,
    child: undefined,
    attempt: 0,
  })
}

/** Starts a job again with the words it was started with; a run that has begun goes on from its last checkpoint. */
export async function resumeJob(root: string, name: string, force: boolean): Promise<JobReport> {
  const record = readRecord(root, name)
  const { state } = jobReport(root, name)
  if (isLive(state)) throw new AlphaError(`${name} is ${state}`, { hint: "alpha fleet stop ends it", code: EXIT.busy })
  const { version, commit } = buildInfo()
  const now = Date.now()
  const again = { environment: environmentNames(), startedAt: now, resumed: true, launcher: launcher(), version, commit, force }
  return await launch(root, { ...record, ...again, supervisor: undefined, child: undefined, attempt: 0 })
}

async function launch(root: string, record: JobRecord): Promise<JobReport> {
  const { name } = record
  // Two starts at a time would write one record.
  const starting = await takeSlots([`start:${jobDirectory(root, name)}`], `another start of ${name}`)
  try {
    checkOthers(root, record)
    makeDirectory(jobDirectory(root, name))
    removeStop(root, name)
    const ends = readExits(root, name).length
    writeRecord(root, record)
    const words = [...self(), "host", "supervise", name]
    if (record.launcher !== "systemd" || !startUnit(words, root, record)) {
      if (record.launcher === "systemd") writeRecord(root, { ...record, launcher: "session" })
      const options = { cwd: root, stdin: "ignore", stdout: "ignore", stderr: "ignore", detached: true } as const
      Bun.spawn(words, options).unref()
    }
    return await begun(root, record, ends)
  } finally {
    starting.release()
  }
}

/** The supervisor holds its slots only while it lives; a job that outlived its supervisor is seen here. */
function checkOthers(root: string, { name, slots, force }: JobRecord): void {
  if (force) return
  for (const other of jobNames(root)) {
    if (other === name) continue
    const record = readRecord(root, other)
    const shared = slots.find((slot) => record.slots.includes(slot))
    if (shared === undefined || record.child === undefined || !livesHere(record.child)) continue
    throw new AlphaError(`${slotName(shared)} is taken by job ${other} in ${root} (process ${record.child.pid})`, {
      hint: "wait for it, stop it, or start with --force",
      code: EXIT.busy,
    })
  }
}

/** Waits until the job runs; throws with its last words where it ends at once. */
async function begun(root: string, { name }: JobRecord, ends: number): Promise<JobReport> {
  const latest = Date.now() + BEGIN_MS
  let seenAt: number | undefined
  for (;;) {
    const exit = readExits(root, name)[ends]
    const { child, kind, node, run } = readRecord(root, name)
    if (exit?.cause === "busy" && exit.pid === undefined) {
      throw new AlphaError(exit.message, { hint: "wait for it, stop it, or start with --force", code: EXIT.busy })
    }
    if (child !== undefined) seenAt ??= Date.now()
    const lasted = seenAt === undefined ? 0 : Date.now() - seenAt
    if (exit !== undefined && exit.code !== 0 && !exit.restarts) {
      const words = lastLines(logPath(root, name)).filter((line) => !line.startsWith("alpha host: "))
      throw new AlphaError(`${name} ended at once: ${exit.message}`, { hint: words.slice(-6).join("\n"), code: EXIT.failure })
    }
    // A run over several machines begins when all are there, which this one does not wait for.
    const hasBegun = kind !== "train" || node !== undefined || run === undefined || existsSync(join(run, "config.json"))
    if (exit !== undefined || lasted > (hasBegun ? SETTLE_MS : BEGINNING_MS)) return jobReport(root, name)
    if (Date.now() > latest) {
      throw new AlphaError(`${name}: its supervisor did not begin within ${BEGIN_MS / 1000} s`, { hint: `see ${jobDirectory(root, name)}` })
    }
    await Bun.sleep(50)
  }
}

const runtimeDirectory = (environment: Readonly<Record<string, string | undefined>>, uid: number): string =>
  environment.XDG_RUNTIME_DIR ?? `/run/user/${uid}`

/** Hands the words to systemd; false where it refuses them. */
function startUnit(words: readonly string[], root: string, record: JobRecord): boolean {
  const env = { ...process.env, XDG_RUNTIME_DIR: runtimeDirectory(process.env, userInfo().uid) }
  return Bun.spawnSync(systemdRun(words, root, record), { cwd: root, env, stdin: "ignore", stdout: "ignore", stderr: "ignore" }).success
}

/** Names alone: values may be secrets. */
const environmentNames = (): string[] => Object.keys(process.env).sort()

/** systemd's user manager where it answers and outlives the login, else a session of its own. */
export function launcher(
  environment: Readonly<Record<string, string | undefined>> = process.env,
  user = { name: userInfo().username, uid: userInfo().uid },
  lingering = "/var/lib/systemd/linger",
): "systemd" | "session" {
  const bus = `${runtimeDirectory(environment, user.uid)}/bus`
  const isThere =
    existsSync(bus) && existsSync(`${lingering}/${user.name}`) && Bun.which("systemd-run", { PATH: environment.PATH ?? "" }) !== null
  return isThere ? "systemd" : "session"
}

/** The command that has systemd run `words` as a unit of its own, with this environment by name: values stay out of the command line. */
export function systemdRun(
  words: readonly string[],
  root: string,
  { name, environment, id }: Pick<JobRecord, "name" | "environment" | "id">,
): string[] {
  const unit = `alpha-${sha256(root).slice(0, 8)}-${name}-${id.slice(0, 8)}-${Date.now()}`
  const passed = environment.filter((variable) => /^[A-Za-z_]\w*$/.test(variable)).map((variable) => `--setenv=${variable}`)
  const settings = ["KillMode=mixed", "TimeoutStopSec=600", "OOMPolicy=continue"].map((setting) => `--property=${setting}`)
  return [
    "systemd-run",
    "--user",
    "--quiet",
    "--collect",
    `--unit=${unit}`,
    `--working-directory=${root}`,
    ...settings,
    ...passed,
    "--",
    ...words,
  ]
}
