/** The fields of the `alpha fleet` commands that are about jobs. */
import { bool, choice, float, inGroup, int, list, text, type Values } from "./config-field.ts"
import { FLEET_SELECT } from "./config-fleet.ts"
import { JOB_POLICY } from "./config-host.ts"
import { SERVE } from "./config-serve.ts"
import { TRAIN_FIELDS } from "./config-train.ts"
import { TUI } from "./config-tui.ts"

const RUN = { run: text("name of the job", { derive: "the newest" }) }
const FORCE = { force: bool("also where another job has the GPU", { default: false }) }

export const FLEET_WATCH = {
  ...FLEET_SELECT,
  ...inGroup("Screen", {
    refresh: float("time between looks at a machine", { default: 2, min: 0.5, max: 3600, unit: "seconds" }),
    once: TUI.once,
    width: TUI.width,
    height: TUI.height,
    ascii: TUI.ascii,
  }),
}
export type FleetWatchConfig = Values<typeof FLEET_WATCH>

export const FLEET_STATUS = { ...inGroup("Jobs", { run: text("name of the job", { derive: "all of them" }) }), ...FLEET_SELECT }
export type FleetStatusConfig = Values<typeof FLEET_STATUS>

const NODES = {
  nodes: bool("one run over all these machines, a rank on each or --gpus of them (alpha help fleet)", { default: false }),
  masterPort: int("with --nodes: port at which the first machine brings the ranks together", {
    derive: "by the run's name",
    min: 1024,
    max: 65535,
  }),
}

/** The flags of `alpha train`, those of the job, and the machines; `dryRun` is the fleet's. */
export const FLEET_TRAIN = { ...inGroup("Jobs", { ...FORCE, ...NODES }), ...JOB_POLICY, ...TRAIN_FIELDS, ...FLEET_SELECT }
export type FleetTrainConfig = Values<typeof FLEET_TRAIN>

export const FLEET_SERVE = { ...inGroup("Jobs", FORCE), ...JOB_POLICY, ...SERVE, ...FLEET_SELECT }
export type FleetServeConfig = Values<typeof FLEET_SERVE>

export const FLEET_RESUME = { ...inGroup("Jobs", { ...RUN, ...FORCE }), ...FLEET_SELECT }
export type FleetResumeConfig = Values<typeof FLEET_RESUME>

export const FLEET_STOP = {
  ...inGroup("Jobs", {
    run: text("name of the job", { derive: "the only one that runs" }),
    now: bool("kill it, without a checkpoint", { default: false }),
  }),
  ...FLEET_SELECT,
}
export type FleetStopConfig = Values<typeof FLEET_STOP>

export const FLEET_LOGS = {
  ...inGroup("Log", {
    ...RUN,
    follow: bool("go on until the job ends, over broken connections too", { default: false, aliases: ["f"] }),
    lines: int("lines from the end to begin with", { default: 50, min: 0, aliases: ["n"] }),
    whole: bool("begin with the first line", { default: false }),
  }),
  ...FLEET_SELECT,
}
export type FleetLogsConfig = Values<typeof FLEET_LOGS>

export const FLEET_DOWNLOAD = {
  ...inGroup("Download", {
    ...RUN,
    part: choice("all of the run, or one checkpoint of it with the journals", ["all", "last", "best"], { default: "all" }),
    to: text("folder in which the run appears; of several machines below their names", { default: "runs" }),
  }),
  ...FLEET_SELECT,
}
export type FleetDownloadConfig = Values<typeof FLEET_DOWNLOAD>

export const FLEET_BENCH = {
  ...inGroup("Benchmark", {
    shutdown: choice("what becomes of the machine, by its stopCommand or deleteCommand", ["keep", "stop", "delete"], { default: "keep" }),
    bench: list("words of alpha that measure, instead of bench peer torch", { default: ["bench", "peer", "torch"] }),
    to: text("folder for the results", { default: "perf/fleet-cuda" }),
    deploy: bool("deploy first", { default: true }),
  }),
  ...FLEET_SELECT,
}
export type FleetBenchConfig = Values<typeof FLEET_BENCH>
