/** `alpha host`: what `alpha fleet` has its machines do, in the deploy directory. */
import { resolve } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256 } from "./base-file.ts"
import type { Invocation } from "./cli-command.ts"
import { type Flags, parseFlags } from "./cli-flags.ts"
import { onStop } from "./cli-signal.ts"
import { base, defaultName } from "./cli-train.ts"
import {
  type Environment,
  type Fields,
  finishServe,
  finishTrain,
  type HostFilesConfig,
  type HostLogsConfig,
  type HostReadConfig,
  type HostResumeConfig,
  type HostStartConfig,
  type HostStatusConfig,
  type HostStopConfig,
  type HostSuperviseConfig,
  type Loaded,
  loadConfig,
  recordConfig,
  runDirectory,
  SERVE,
  TRAIN_FIELDS,
} from "./config.ts"
import { deviceIdentity } from "./device.ts"
import {
  hostReport,
  isLive,
  jobPolicy,
  manifest,
  newestJob,
  onlyRunning,
  type Piece,
  readJobRecord,
  resumeJob,
  type StartRequest,
  sendLog,
  sendPieces,
  startJob,
  stopJob,
  supervise as superviseJob,
} from "./fleet.ts"

const root = () => process.cwd()

type Words = Pick<StartRequest, "name" | "argv" | "run" | "configHash" | "slots">

export async function start({ config, rest, environment, print }: Invocation<HostStartConfig>): Promise<undefined> {
  const words = config.kind === "train" ? await trainWords(rest, environment) : serveWords(rest, environment)
  const name = config.run ?? words.name
  const report = await startJob(root(), {
    ...words,
    name,
    kind: config.kind,
    force: config.force,
    node: config.node,
    policy: jobPolicy(config),
  })
  print(report, () => `${report.name}: ${report.state}, process ${report.pid}`)
}

/** Checked as `alpha train` itself would check them, so that a mistake is told at once; a run without a name gets one. */
async function trainWords(rest: readonly string[], environment: Environment): Promise<Words> {
  const flags = plain(parseFlags(rest, TRAIN_FIELDS, ["data"]), "train")
  const sources = { flags: flags.entries, environment }
  const first = loadConfig(TRAIN_FIELDS, sources)
  const { resume, init } = first.values
  const basis = resume !== undefined || init !== undefined ? await base(first.values) : undefined
  const loaded = basis === undefined ? first : loadConfig(TRAIN_FIELDS, { ...sources, base: basis })
  const { values } = finishTrain(loaded)
  if (values.data === "-") throw refuse("data - would be the standard input, which a job does not have", "name a file on the machine")
  if (values.dryRun) throw refuse("dryRun trains nothing", "alpha fleet run -- ./current train --dryRun …")
  const run = values.run ?? values.resume ?? defaultName(values)
  const place = runDirectory(values.runsDir, run)
  const named = values.run === undefined && values.resume === undefined ? [`--run=${place.name}`] : []
  const argv = ["train", ...rest, ...named]
  return { name: place.name, argv, run: resolve(place.directory), configHash: hashOf(loaded), slots: slotsOf(values.device, values.gpus) }
}

function serveWords(rest: readonly string[], environment: Environment): Words {
  const flags = plain(parseFlags(rest, SERVE, ["model"]), "serve")
  const loaded = loadConfig(SERVE, { flags: flags.entries, environment })
  finishServe(loaded)
  const { values } = loaded
  return {
    name: `serve-${values.port ?? environment.get("PORT")?.value ?? 8080}`,
    argv: ["serve", ...rest],
    run: undefined,
    configHash: hashOf(loaded),
    slots: slotsOf(values.device),
  }
}

function plain(flags: Flags, command: string): Flags {
  if (flags.help === undefined && !flags.printConfig) return flags
  throw refuse(`help and --printConfig start no ${command}`, `alpha ${command} --help`)
}

const refuse = (message: string, hint: string) => new AlphaError(`host start: ${message}`, { hint, code: EXIT.usage })

/** Of the values alone, however they were given. */
function hashOf<F extends Fields>(loaded: Loaded<F>): string {
  const values = Object.entries(recordConfig(loaded)).map(([name, { value }]) => [name, value])
  return sha256(JSON.stringify(Object.fromEntries(values.sort())))
}

/** A GPU is one for all on the machine; the processor can be shared by directories. */
function slotsOf(device: string, gpus = 1): string[] {
  if (gpus > 1 && ["auto", "gpu"].includes(device)) return Array.from({ length: gpus }, (_, i) => slotsOf(`gpu:${i}`)).flat()
  const identity = deviceIdentity(device)
  return [identity === "cpu" ? `cpu:${root()}` : `gpu:${identity.replace(/^gpu:/, "")}`]
}

export async function resume({ config, print }: Invocation<HostResumeConfig>): Promise<undefined> {
  const report = await resumeJob(root(), config.run ?? newestJob(root(), "train"), config.force)
  print(report, () => `${report.name}: ${report.state}, process ${report.pid}`)
}

export async function stop({ config, print }: Invocation<HostStopConfig>): Promise<undefined> {
  const { jobs } = await hostReport(root())
  const running = jobs.filter(({ state }) => isLive(state)).map(({ name }) => name)
  const report = await stopJob(root(), config.run ?? onlyRunning(running, root()), config.now)
  print(report, () => `${report.name}: ${report.state}, ${report.reason}`)
}

export async function status({ config, print }: Invocation<HostStatusConfig>): Promise<undefined> {
  const report = await hostReport(root())
  const jobs = report.jobs.filter(({ name }) => config.run === undefined || name === config.run)
  print({ ...report, jobs }, () => jobs.map(({ name, state, reason }) => `${name}: ${state} ${reason}`).join("\n"))
}

export async function supervise({ config }: Invocation<HostSuperviseConfig>): Promise<undefined> {
  await superviseJob(root(), config.run ?? newestJob(root()))
}

export async function logs({ config }: Invocation<HostLogsConfig>): Promise<undefined> {
  const { run, from, lines, log, follow } = config
  // Ends with the connection; there is nothing to save.
  const release = onStop(() => process.exit(EXIT.ok))
  await sendLog(root(), { name: run ?? newestJob(root()), from, lines, id: log, follow }, write)
  release()
}

export async function files({ config, print }: Invocation<HostFilesConfig>): Promise<undefined> {
  const name = config.run ?? newestJob(root(), "train")
  const directory = runOf(name)
  print({ name, ...manifest(directory, config.part) }, () => directory)
}

/** The pieces that are wanted stand on standard input: a JSON list. */
export async function read({ config }: Invocation<HostReadConfig>): Promise<undefined> {
  const { run, from } = config
  if (run === undefined) throw new AlphaError("host read: no run", { hint: "--run=NAME", code: EXIT.usage })
  await sendPieces(runOf(run), (await Bun.stdin.json()) as Piece[], from, write)
}

/** The directory of a job's run, or of a run that no job here made. */
function runOf(name: string): string {
  const { run } = readJobRecord(root(), name)
  if (run !== undefined) return run
  throw new AlphaError(`${name} is no training run`, { code: EXIT.data })
}

const write = (bytes: Uint8Array): Promise<void> =>
  new Promise((done, fail) => void process.stdout.write(bytes, (error) => (error ? fail(error) : done())))
