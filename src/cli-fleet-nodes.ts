/** `alpha fleet train --nodes`: the ranks of one run, started on several machines or on none. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Invocation } from "./cli-command.ts"
import { dryRun, machines, overHosts } from "./cli-fleet-hosts.ts"
import { policyFlags, stands, typed } from "./cli-fleet-jobs.ts"
import { type Fields, type FleetSelectConfig, type FleetTrainConfig, TRAIN_FIELDS } from "./config.ts"
import {
  askJob,
  askReady,
  type FleetHost,
  HostError,
  type HostReport,
  jobScript,
  type Needs,
  nodePlaces,
  nodePort,
  readyScript,
  sameAs,
  sameSettings,
  startWords,
  stopWords,
  trainWords,
} from "./fleet.ts"

/** Every rank is there or none: what one machine lacks is told before anything starts, and a start that fails takes the others back. */
export async function trainNodes(invocation: Invocation<FleetTrainConfig, Fields>): Promise<number> {
  const { config, loaded } = invocation
  const selecting = invocation as unknown as Invocation<FleetSelectConfig>
  const { hosts } = machines(selecting)
  const refuse = (message: string, hint: string) => new AlphaError(`fleet train --nodes: ${message}`, { hint, code: EXIT.usage })
  if (hosts.length < 2) throw refuse(`${hosts.length} machine`, "name two or more, or --all")
  const { run } = config
  if (run === undefined) throw refuse("the run has no name, by which its machines know it", "--run=NAME")
  if (config.dist === "none") throw refuse("with --dist=none each machine would train alone", "leave one of them out")
  const first = hosts[0] as FleetHost
  const values = typed(loaded, TRAIN_FIELDS)
  if (!("resume" in values)) sameSettings(hosts, values)
  const places = nodePlaces(hosts, config.masterPort ?? nodePort(run))
  const wordsOf = (host: FleetHost, gpu: string | undefined): string[] => {
    const node = `--node=${places[hosts.indexOf(host)]}`
    const words = [...trainWords(gpu, host.train, values).words, ...("resume" in values ? [] : ["--resume=or-start"])]
    return startWords("train", [node, ...policyFlags(host, loaded)], config.force, words)
  }
  const needsOf = ({ train }: FleetHost): Needs => {
    const all: Record<string, unknown> = { ...train, ...values }
    // What a glob means is known on the machine alone.
    const files = [all.data, all.valData].filter((name) => typeof name === "string" && name !== "random" && !/^\w+:|[*?[{]/.test(name))
    return { files: files as string[], gpus: all.device === "cpu" ? 0 : Number(all.gpus ?? 1) }
  }
  if (config.dryRun)
    return dryRun(selecting, hosts, (host) => [
      { what: "ready?", script: readyScript(host, needsOf(host)) },
      { what: "train", script: jobScript(host, "train", wordsOf(host, first.gpu)) },
    ])
  const ready = new Map<FleetHost, Promise<HostReport>>()
  const started = new Map<FleetHost, Promise<unknown>>()
  /** Waits for all machines; throws naming the first whose promise fails, where this one's does not. */
  const agreed = async (promises: ReadonlyMap<FleetHost, Promise<unknown>>, what: string): Promise<void> => {
    const results = await Promise.allSettled(promises.values())
    const failed = results.findIndex(({ status }) => status === "rejected")
    if (failed >= 0) throw new HostError("failed", `${what}: ${hosts[failed]?.name} is not ready`)
  }
  for (const host of hosts) {
    const report = askReady(host, needsOf(host))
    const same = report.then(async (mine) => {
      if (host !== first)
        sameAs({ name: first.name, report: await (ready.get(first) as Promise<HostReport>) }, mine, needsOf(host).gpus > 0)
      return mine
    })
    ready.set(host, same)
    same.catch(() => {})
    const start = (async () => {
      await same
      await agreed(ready, "nothing was started")
      // The defaults of a kind of GPU are the first machine's, whatever the others are called in fleet.json.
      const { gpus } = await (ready.get(first) as Promise<HostReport>)
      return await askJob(host, "train", wordsOf(host, first.gpu ?? gpus[0]?.name))
    })()
    started.set(host, start)
    start.catch(() => {})
  }
  // All at a time: each waits for the others.
  const together = { ...selecting, config: { ...selecting.config, parallel: hosts.length } }
  return await overHosts(together, hosts, async (host) => {
    const job = (await started.get(host)) as Awaited<ReturnType<typeof askJob>>
    try {
      await agreed(started, `${run} was stopped again`)
    } catch (error) {
      await askJob(host, "stop", stopWords(run, true))
      throw error
    }
    return { message: `rank ${places[hosts.indexOf(host)]?.replace(/@.*/, "").replace("/", " of ")}: ${stands(job)}`, value: { job } }
  })
}
