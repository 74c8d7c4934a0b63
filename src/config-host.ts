/** The fields of `alpha host`, which `alpha fleet` runs on its machines. */
import { bool, choice, float, inGroup, int, list, text, type Values } from "./config-field.ts"

const RUN = { run: text("name of the job", { derive: "the newest" }) }

/** When a job is started again, ended, or the machine is let go; fleet.json has the same fields. */
export const JOB_POLICY = inGroup("Job", {
  restart: list("ends after which a job starts again from its last checkpoint (see alpha help fleet)", {
    default: ["gpu-error", "crashed", "killed", "rank-lost"],
  }),
  restarts: int("most restarts in a row that bring no step forward", { default: 3, min: 0 }),
  maxDuration: float("hours after which a job is stopped, with a checkpoint", { optional: true, above: 0, unit: "hours" }),
  stallAfter: float("silence of log and journals after which a job has stalled", { default: 300, above: 0, unit: "s" }),
  idleCommand: text("shell command that the machine runs when no job has run for --idleAfter, such as sudo poweroff", {}),
  idleAfter: float("see --idleCommand", { default: 900, min: 0, unit: "s" }),
})

export const HOST_START = {
  ...inGroup("Job", {
    kind: choice("what is run", ["train", "serve"], { default: "train" }),
    ...RUN,
    force: bool("also where another job has the device", { default: false }),
    node: text("place among the machines of one run, as 1/2@HOST:PORT of the first", {
      form: { pattern: /^\d+\/\d+@[^@\s]+:\d+$/, words: "RANK/COUNT@HOST:PORT" },
    }),
  }),
  ...JOB_POLICY,
}
export type HostStartConfig = Values<typeof HOST_START>

export const HOST_RESUME = inGroup("Job", {
  ...RUN,
  force: bool("also where another job has the device", { default: false }),
})
export type HostResumeConfig = Values<typeof HOST_RESUME>

export const HOST_STOP = inGroup("Job", {
  ...RUN,
  now: bool("kill it, without a checkpoint", { default: false }),
})
export type HostStopConfig = Values<typeof HOST_STOP>

export const HOST_STATUS = inGroup("Job", { run: text("name of the job", { derive: "all of them" }) })
export type HostStatusConfig = Values<typeof HOST_STATUS>

export const HOST_SUPERVISE = inGroup("Job", RUN)
export type HostSuperviseConfig = Values<typeof HOST_SUPERVISE>

export const HOST_LOGS = inGroup("Log", {
  ...RUN,
  from: int("first byte", { derive: "where the last --lines lines begin", min: 0 }),
  lines: int("lines from the end", { default: 50, min: 0 }),
  log: text("id of the log that was read before; another one is refused", {}),
  follow: bool("go on until the job ends", { default: false }),
})
export type HostLogsConfig = Values<typeof HOST_LOGS>

export const HOST_FILES = inGroup("Files", {
  ...RUN,
  part: choice("all of the run, or one checkpoint of it", ["all", "last", "best"], { default: "all" }),
})
export type HostFilesConfig = Values<typeof HOST_FILES>

export const HOST_READ = inGroup("Files", {
  ...RUN,
  from: int("number of the first byte that is sent", { default: 0, min: 0 }),
})
export type HostReadConfig = Values<typeof HOST_READ>
