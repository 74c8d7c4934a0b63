/** A job on the host: its directory, and the files that say what it is, that it lives and how it ended. */
import { appendFileSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { makeDirectory, readJson, withFile, writeAtomic } from "./base-file.ts"
import type { Holder } from "./base-process.ts"
import { type Cause, causesOf } from "./fleet-host-cause.ts"

/** What is asked of the supervisor beside running the command. */
export interface JobPolicy {
  /** Causes of an end after which the job is started again. */
  readonly restart: readonly Cause[]
  /** Most restarts of one start; those after which the run had gone on do not count. */
  readonly restarts: number
  /** Seconds after which the job is stopped as by `stop`; undefined: never. */
  readonly maxDuration: number | undefined
  /** Seconds without a new line of log or journal after which the job has stalled. */
  readonly stallAfter: number
  /** Shell command that is run once nothing has run on the host for `idleAfter` seconds. */
  readonly idleCommand: string | undefined
  readonly idleAfter: number
}

/** The policy that fields of `JOB_POLICY` mean; "none" alone means no restart. */
export function jobPolicy(fields: {
  readonly restart: readonly string[]
  readonly restarts: number
  readonly maxDuration: number | undefined
  readonly stallAfter: number
  readonly idleCommand: string | undefined
  readonly idleAfter: number
}): JobPolicy {
  const { restart, restarts, maxDuration, stallAfter, idleCommand, idleAfter } = fields
  return {
    restarts,
    stallAfter,
    idleCommand,
    idleAfter,
    restart: restart.length === 1 && restart[0] === "none" ? [] : causesOf(restart),
    maxDuration: maxDuration === undefined ? undefined : maxDuration * 3600,
  }
}

/** record.json: what was started, so that it can be started again. */
export interface JobRecord {
  /** Names the job and its log for good. */
  readonly id: string
  readonly name: string
  readonly kind: "train" | "serve"
  /** Words after `alpha`; a resume replays them. */
  readonly argv: readonly string[]
  /** Directory of the run that a training job writes. */
  readonly run: string | undefined
  /** Of the whole configuration that the words, the environment and the defaults came to. */
  readonly configHash: string
  /** Names of the environment variables that the job sees; never their values. */
  readonly environment: readonly string[]
  /** What the job has to itself: "gpu:UUID", "cpu:DIRECTORY". */
  readonly slots: readonly string[]
  /** Place among the machines of one run: "1/2@HOST:PORT of the first"; absent where it is alone. */
  readonly node?: string | undefined
  /** Slots are not asked for. */
  readonly force: boolean
  readonly policy: JobPolicy
  /** The first start, and this one; ms since 1970. */
  readonly createdAt: number
  readonly startedAt: number
  /** This start continues the run. */
  readonly resumed: boolean
  readonly launcher: "systemd" | "session"
  readonly version: string
  readonly commit: string
  /** Undefined until it has begun. */
  readonly supervisor: Holder | undefined
  /** The process of the attempt that runs, or ran last. */
  readonly child: Holder | undefined
  /** Counted from 1 at each start. */
  readonly attempt: number
}

/** The variables by which a job finds the other machines of its run: torchrun's for the arguments of a node. */
export function nodeVariables({ node }: Pick<JobRecord, "node">): Record<string, string> {
  const [, rank, size, host, port] = /^(\d+)\/(\d+)@(.+):(\d+)$/.exec(node ?? "") ?? []
  if (rank === undefined || size === undefined || host === undefined || port === undefined) return {}
  return { PET_NODE_RANK: rank, PET_NNODES: size, PET_MASTER_ADDR: host, PET_MASTER_PORT: port }
}

/** The journals of a run over several machines are those of the first: of the others silence tells nothing. */
export const isFollower = ({ node }: Pick<JobRecord, "node">): boolean => node !== undefined && !node.startsWith("0/")

/** heartbeat.json, written every few seconds by the supervisor. */
export interface Heartbeat {
  readonly time: number
  readonly phase: "running" | "stopping" | "waiting" | "idle"
  /** When a job that waits is started again, or the idle command is due. */
  readonly until?: number | undefined
}

/** One line of exits.jsonl: how an attempt ended. */
export interface Exit {
  readonly time: number
  readonly attempt: number
  readonly pid: number | undefined
  readonly code: number | null
  readonly signal: string | null
  readonly cause: Cause
  /** For people: "exit code 1: data x.txt does not exist". */
  readonly message: string
  /** Lines of the kernel and counters that say why. */
  readonly evidence: readonly string[]
  readonly seconds: number
  /** The supervisor starts it again. */
  readonly restarts: boolean
}

/** Folder of all jobs, in the deploy directory. */
export const JOBS = "jobs"

export const jobDirectory = (root: string, name: string): string => join(root, JOBS, name)
export const logPath = (root: string, name: string): string => join(jobDirectory(root, name), "train.log")

const NAME = /^[\w][\w.-]{0,99}$/

export function checkName(name: string): string {
  if (NAME.test(name)) return name
  throw new AlphaError(`job ${JSON.stringify(name)}: a name has letters, digits, dots, - and _, at most 100`, {
    hint: "--run=NAME",
    code: EXIT.usage,
  })
}

/** The record of a job. Throws where there is no such job. */
export function readRecord(root: string, name: string): JobRecord {
  const path = join(jobDirectory(root, name), "record.json")
  if (!existsSync(path)) {
    const names = jobNames(root)
    throw new AlphaError(`no job ${name} in ${root}`, {
      hint: names.length === 0 ? "alpha fleet train starts one" : `there are ${names.join(", ")}`,
      code: EXIT.data,
    })
  }
  return readJson(path) as JobRecord
}

export const hasRecord = (root: string, name: string): boolean => existsSync(join(jobDirectory(root, name), "record.json"))

export function writeRecord(root: string, record: JobRecord): void {
  const directory = jobDirectory(root, record.name)
  makeDirectory(directory)
  writeAtomic(join(directory, "record.json"), `${JSON.stringify(record, null, 1)}\n`)
}

/** Names of the jobs, in order. */
export function jobNames(root: string): string[] {
  const folder = join(root, JOBS)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => hasRecord(root, name))
    .sort()
}

/** The job that was started last. Throws where there is none. */
export function newestJob(root: string, kind?: JobRecord["kind"]): string {
  const records = jobNames(root).map((name) => readRecord(root, name))
  const newest = records.filter((record) => kind === undefined || record.kind === kind).toSorted((a, b) => b.startedAt - a.startedAt)[0]
  if (newest !== undefined) return newest.name
  throw new AlphaError(`no job in ${root}`, { hint: "alpha fleet train starts one", code: EXIT.data })
}

export const writeHeartbeat = (root: string, name: string, beat: Heartbeat): void =>
  writeAtomic(join(jobDirectory(root, name), "heartbeat.json"), `${JSON.stringify(beat)}\n`)

/** The last heartbeat; undefined before the first. */
export function readHeartbeat(root: string, name: string): Heartbeat | undefined {
  try {
    return JSON.parse(readFileSync(join(jobDirectory(root, name), "heartbeat.json"), "utf8")) as Heartbeat
  } catch {
    return undefined
  }
}

/** Appends how an attempt ended, on the disk before it returns. */
export function writeExit(root: string, name: string, exit: Exit): void {
  appendFileSync(join(jobDirectory(root, name), "exits.jsonl"), `${JSON.stringify(exit)}\n`, { flush: true })
}

/** How the attempts ended, oldest first; a torn last line is left out. */
export function readExits(root: string, name: string): Exit[] {
  const path = join(jobDirectory(root, name), "exits.jsonl")
  if (!existsSync(path)) return []
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1)
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Exit)
}

/** A wish of `alpha host stop`, which the supervisor looks for. */
export interface StopRequest {
  readonly time: number
  /** Kill, without a checkpoint. */
  readonly now: boolean
}

const stopPath = (root: string, name: string): string => join(jobDirectory(root, name), "stop.json")

export const writeStop = (root: string, name: string, request: StopRequest): void =>
  writeAtomic(stopPath(root, name), `${JSON.stringify(request)}\n`)

export function readStop(root: string, name: string): StopRequest | undefined {
  const path = stopPath(root, name)
  return existsSync(path) ? (readJson(path) as StopRequest) : undefined
}

export const removeStop = (root: string, name: string): void => rmSync(stopPath(root, name), { force: true })

/** Makes train.log of the deploy directory the log of this job. */
export function linkLog(root: string, name: string): void {
  const temporary = join(root, `.train.log.${process.pid}`)
  withFile("write", join(root, "train.log"), () => {
    rmSync(temporary, { force: true })
    symlinkSync(join(JOBS, name, "train.log"), temporary)
    renameSync(temporary, join(root, "train.log"))
  })
}
