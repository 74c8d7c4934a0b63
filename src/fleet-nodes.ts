/** One run over several machines: which place each has, and whether each has what the run needs. */
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256 } from "./base-file.ts"
import { enter, quote, script } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"
import type { HostReport } from "./fleet-host-report.ts"
import { checked, HostError } from "./fleet-parallel.ts"
import { remote } from "./fleet-ssh.ts"
import { askStatus } from "./fleet-status.ts"
import { LOCAL_FIELDS } from "./train.ts"

/** Ports of the ranks' stores: below those that systems give to connections by themselves. */
const PORTS = { from: 20_000, count: 10_000 }

/** The port at which the first machine of a run serves its ranks, by the run's name: the same for all of them and at every start. */
export const nodePort = (run: string): number => PORTS.from + (Number.parseInt(sha256(run).slice(0, 8), 16) % PORTS.count)

/** The place of each machine as `alpha host start --node` takes it: "1/2@10.0.0.1:20001". The first has rank 0. */
export function nodePlaces(hosts: readonly FleetHost[], port: number): string[] {
  const [first] = hosts
  const address = first?.address ?? first?.host ?? first?.name
  return hosts.map((_, i) => `${i}/${hosts.length}@${address}:${port}`)
}

export interface Needs {
  /** Files of the training data as the machine sees them. */
  readonly files: readonly string[]
  /** GPUs on every machine; 0: none. */
  readonly gpus: number
}

/** Ends with the data's exit code and names the first file that is not there. */
export function readyScript(host: FleetHost, { files }: Needs): string {
  const looks = files.map(
    (file) => `[ -e ${quote([file])} ] || { printf '%s\\n' ${quote([`data ${file} is not in `])}"$PWD" >&2; exit ${EXIT.data}; }`,
  )
  return script(enter(host), ...looks)
}

/** Makes sure that the machine has a program, the data and the GPUs. Throws HostError naming what it lacks. */
export async function askReady(host: FleetHost, needs: Needs): Promise<HostReport> {
  const report = await askStatus(host)
  if (report.gpus.length < needs.gpus)
    throw new HostError("failed", `it has ${report.gpus.length} GPUs, ${needs.gpus} are wanted`, { hint: "--gpus=N, or --device=cpu" })
  const answer = await remote(host, readyScript(host, needs))
  if (answer.code === EXIT.data)
    throw new HostError("failed", answer.stderr.trim(), { hint: `alpha fleet upload ${host.name} --file=… puts it there` })
  checked(answer, "looking for the data")
  return report
}

/** Throws HostError where the machine has another program than the first one, or, where the run wants GPUs, another kind of them. */
export function sameAs(
  first: { name: string; report: HostReport },
  { version, commit, gpus: [gpu] }: HostReport,
  wantsGpus: boolean,
): void {
  const [theirs] = first.report.gpus
  if (version !== first.report.version || commit !== first.report.commit)
    throw new HostError("failed", `it has alpha ${version} ${commit}, ${first.name} has ${first.report.version} ${first.report.commit}`, {
      hint: "alpha fleet deploy gives all machines the same",
    })
  if (wantsGpus && gpu?.name !== theirs?.name)
    throw new HostError("failed", `its GPU is ${gpu?.name ?? "none"}, that of ${first.name} ${theirs?.name ?? "none"}`, {
      hint: "ranks need like processors: choose machines of one kind",
    })
}

/** Throws AlphaError naming the first machine whose part of fleet.json gives the run another setting than the first one's does, and both values. */
export function sameSettings(hosts: readonly FleetHost[], typed: Readonly<Record<string, unknown>>): void {
  const settingsOf = ({ train }: FleetHost): Record<string, unknown> => ({ ...train, ...typed })
  const [first] = hosts as readonly [FleetHost]
  const ours = settingsOf(first)
  for (const host of hosts) {
    const theirs = settingsOf(host)
    const differs = Object.keys({ ...ours, ...theirs }).find(
      (name) => !LOCAL_FIELDS.has(name) && JSON.stringify(theirs[name]) !== JSON.stringify(ours[name]),
    )
    if (differs === undefined) continue
    const text = (value: unknown) => (value === undefined ? `no ${differs}` : `${differs} ${value}`)
    throw new AlphaError(
      `fleet train --nodes: ${host.name} has ${text(theirs[differs])} in fleet.json, ${first.name} has ${text(ours[differs])}`,
      {
        hint: `all ranks of a run need the same: give --${differs}=…, or mend "train" of one of them`,
        code: EXIT.usage,
      },
    )
  }
}
