/** `alpha fleet train`, `serve`, `resume` and `stop`. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Invocation } from "./cli-command.ts"
import { dryRun, machines, overHosts } from "./cli-fleet-hosts.ts"
import {
  type Fields,
  type FleetResumeConfig,
  type FleetSelectConfig,
  type FleetServeConfig,
  type FleetStopConfig,
  type FleetTrainConfig,
  JOB_POLICY,
  type Loaded,
  SERVE,
  TRAIN_FIELDS,
} from "./config.ts"
import {
  askJob,
  askStatus,
  type FleetHost,
  flag,
  type JobReport,
  jobScript,
  resumeWords,
  startWords,
  stopWords,
  trainWords,
} from "./fleet.ts"

/** Values that were typed, or stand in the file that --config names; variables of this machine are not the other's. */
export function typed(loaded: Loaded<Fields>, fields: Fields): Record<string, unknown> {
  const given = Object.keys(fields).filter(
    (name) => name !== "config" && name !== "dryRun" && ["flag", "file"].includes(loaded.origins[name]!.layer),
  )
  return Object.fromEntries(given.map((name) => [name, loaded.values[name]]))
}

/** The policy of the job: fleet.json's, and what was typed. */
export function policyFlags(host: FleetHost, loaded: Loaded<Fields>): string[] {
  const given = typed(loaded, JOB_POLICY)
  return Object.entries(JOB_POLICY).flatMap(([name, row]) => {
    const value = name in given ? given[name] : (host as unknown as Record<string, unknown>)[name]
    return JSON.stringify(value) === JSON.stringify((row as { default?: unknown }).default) ? [] : flag(name, value)
  })
}

interface Plan {
  readonly words: readonly string[]
  readonly tell: (report: JobReport & { readonly wasRunning?: boolean }) => string
}

type Selecting = Invocation<FleetSelectConfig>

/** Does on every machine what `plan` says, and tells how the job stands then. */
async function onEach(
  invocation: Selecting,
  what: string,
  plan: (host: FleetHost, gpu: string | undefined) => Plan,
  /** Needs to know which GPU there is. */
  asksGpu: (host: FleetHost) => boolean = () => false,
): Promise<number> {
  const { hosts } = machines(invocation)
  if (invocation.config.dryRun)
    return dryRun(invocation, hosts, (host) => [{ what, script: jobScript(host, what, plan(host, host.gpu).words) }])
  return await overHosts(invocation, hosts, async (host) => {
    const gpu = host.gpu ?? (asksGpu(host) ? (await askStatus(host)).gpus[0]?.name : undefined)
    const { words, tell } = plan(host, gpu)
    const report = await askJob(host, what, words)
    return { message: tell(report), value: { job: report } }
  })
}

export async function train(invocation: Invocation<FleetTrainConfig, Fields>): Promise<number> {
  const { config, loaded } = invocation
  if (config.masterPort !== undefined)
    throw new AlphaError("fleet train: --masterPort is for one run over several machines", { hint: "--nodes", code: EXIT.usage })
  const values = typed(loaded, TRAIN_FIELDS)
  const plan = (host: FleetHost, gpu: string | undefined): Plan => {
    const { words, note } = trainWords(gpu, host.train, values)
    const tell = (report: JobReport) => [stands(report), ...(note === undefined ? [] : [note])].join("; ")
    return { words: startWords("train", policyFlags(host, loaded), config.force, words), tell }
  }
  // With a device of one's own choice there is nothing to find out.
  const asksGpu = ({ train: own }: FleetHost) => !("device" in values || "device" in own || "resume" in values)
  return await onEach(invocation as unknown as Selecting, "train", plan, asksGpu)
}

export async function serve(invocation: Invocation<FleetServeConfig, Fields>): Promise<number> {
  const { config, loaded } = invocation
  const words = Object.entries(typed(loaded, SERVE)).flatMap(([name, value]) => flag(name, value))
  return await onEach(invocation as unknown as Selecting, "serve", (host) => ({
    words: startWords("serve", policyFlags(host, loaded), config.force, words),
    tell: (report) => `${stands(report)}; to reach it from here: ${tunnel(host, config.port ?? 8080)}`,
  }))
}

export async function resume(invocation: Invocation<FleetResumeConfig>): Promise<number> {
  const { run, force } = invocation.config
  return await onEach(invocation, "resume", () => ({ words: resumeWords(run, force), tell: stands }))
}

export async function stop(invocation: Invocation<FleetStopConfig>): Promise<number> {
  const { run, now } = invocation.config
  return await onEach(invocation, "stop", () => ({
    words: stopWords(run, now),
    tell: (report) => `${report.wasRunning === false ? "was not running: " : ""}${stands(report)}`,
  }))
}

/** "first is running at step 20 of 1000, process 4711". */
export function stands({ name, state, reason, progress, pid }: JobReport): string {
  const step =
    progress === null || progress.step === 0 ? "" : ` at step ${progress.step}${progress.steps === null ? "" : ` of ${progress.steps}`}`
  return [`${name} is ${state}${step}`, ...(pid === null ? [] : [`process ${pid}`]), ...(reason === "" ? [] : [reason])].join(", ")
}

/** The ssh command that brings the port of the machine here. */
function tunnel({ host, name, user, port, key, via }: FleetHost, local: number): string {
  const jump =
    via === undefined
      ? ""
      : ` -J ${via.user === undefined ? "" : `${via.user}@`}${via.host ?? via.name}${via.port === undefined ? "" : `:${via.port}`}`
  const where = `${user === undefined ? "" : `${user}@`}${host ?? name}`
  return `ssh -N -L ${local}:127.0.0.1:${local}${port === undefined ? "" : ` -p ${port}`}${key === undefined ? "" : ` -i ${key}`}${jump} ${where}`
}
