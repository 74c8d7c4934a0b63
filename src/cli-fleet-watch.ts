/** `alpha fleet status`, and `alpha fleet` alone: machines, GPUs and jobs, once or live. */
import { colours, columns } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { dryRun, machines } from "./cli-fleet-hosts.ts"
import { onStop } from "./cli-signal.ts"
import { isUtf8 } from "./cli-tui.ts"
import type { FleetStatusConfig, FleetWatchConfig } from "./config.ts"
import {
  alphaOnHost,
  askStatus,
  exitOf,
  type FleetHost,
  gpuCells,
  type HostReport,
  hostLine,
  inOrder,
  JOB_HEAD,
  jobCells,
  type Outcome,
  onHosts,
  statusWords,
} from "./fleet.ts"
import { createStyle, drawFleet, type FleetRow, watchFleet } from "./tui.ts"

export async function status(invocation: Invocation<FleetStatusConfig>): Promise<number> {
  const { config, print } = invocation
  const { hosts } = machines(invocation, "all")
  if (config.dryRun) return dryRun(invocation, hosts, (host) => [{ what: "status", script: alphaOnHost(host, statusWords(config.run)) }])
  const outcomes = await onHosts(hosts, config.parallel, async (host) => ({ message: "", value: await askStatus(host, config.run) }))
  const exit = exitOf(outcomes)
  print({ exit, hosts: outcomes.map(({ value, ...outcome }) => ({ ...outcome, report: value ?? null })) }, () => statusText(outcomes))
  return exit
}

/** Machines with their GPUs and jobs; a reason below what is not simply running or finished. */
export function statusText(outcomes: readonly Outcome<HostReport>[]): string {
  const paint = colours(process.stdout)
  const tint = { ok: paint.green, failed: paint.red, unreachable: paint.red, locked: paint.yellow }
  return outcomes
    .map(({ host, state, message, hint, value }) => {
      if (value === undefined) return `${tint[state](host)}  ${state}: ${message}${hint === undefined ? "" : `\n  hint: ${hint}`}`
      const gpus = value.gpus.map((gpu) => ["", ...gpuCells(gpu)])
      const jobs = inOrder(value.jobs)
      const table = [["", ...JOB_HEAD], ...jobs.map((job) => ["", ...jobCells(job, value.time)])]
      const reasons = jobs
        .filter(({ reason, state }) => reason !== "" && state !== "finished")
        .map(({ name, reason }) => `  ${name}: ${reason}`)
      return [
        `${tint.ok(host)}  ${hostLine(value)}`,
        ...(gpus.length === 0 ? [] : [columns(gpus, [3])]),
        ...(jobs.length === 0 ? ["  no jobs"] : [columns(table, [3, 4, 5, 6])]),
        ...reasons,
      ].join("\n")
    })
    .join("\n\n")
}

/** The live view; where there is no terminal the same as `status`. */
export async function watch(invocation: Invocation<FleetWatchConfig>): Promise<number> {
  const { config, json, print } = invocation
  const { stdin, stdout } = process
  const isTerminal = stdin.isTTY === true && stdout.isTTY === true && process.env.TERM !== "dumb"
  if (json || config.dryRun || (!isTerminal && !config.once))
    return await status({ ...invocation, config: { ...config, run: undefined } } as Invocation<FleetStatusConfig>)
  const { hosts } = machines(invocation, "all")
  const colour = stdout.isTTY === true && (process.env.NO_COLOR ?? "") === ""
  const style = createStyle({ colour, unicode: !(config.ascii ?? !isUtf8()) })
  const rows = hosts.map((host) => ({ name: host.name, ask: () => ask(host) }))
  if (config.once) {
    const lines = await drawFleet(rows, style, config.width ?? stdout.columns ?? 80, config.height ?? stdout.rows ?? 24)
    print({ lines }, () => lines.join("\n"))
    return 0
  }
  const stopped = Promise.withResolvers<void>()
  const release = onStop(() => stopped.resolve())
  try {
    await watchFleet(rows, style, config.refresh * 1000, stopped.promise)
  } finally {
    release()
  }
  return 0
}

/** What one machine answers now. */
async function ask(host: FleetHost): Promise<FleetRow> {
  const [outcome] = await onHosts([host], 1, async () => ({ message: "", value: await askStatus(host) }))
  const { state, message, value } = outcome!
  return { name: host.name, state, message, report: value }
}
