/** What the verbs of `alpha fleet` share: the machines that are meant, a line for each, dry runs, the exit code. */
import { colours, displayWidth, formatDuration } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import type { FleetSelectConfig } from "./config.ts"
import {
  exitOf,
  type FleetConfig,
  type FleetHost,
  type Outcome,
  onHosts,
  readFleet,
  remoteCommand,
  type Step,
  selectHosts,
  sshArgv,
  summary,
} from "./fleet.ts"

type Fleet = Pick<Invocation<FleetSelectConfig>, "config" | "json" | "print">

/** fleet.json and the machines that the command line means. */
export function machines({ config }: Fleet, otherwise: "all" | "ask" = "ask"): { fleet: FleetConfig; hosts: FleetHost[] } {
  const fleet = readFleet(config.fleet)
  return { fleet, hosts: selectHosts(fleet, config, otherwise) }
}

/** Prints the exact scripts and ssh commands that `plan` gives; returns exit code 0. */
export function dryRun({ print }: Fleet, hosts: readonly FleetHost[], plan: (host: FleetHost) => readonly Step[]): number {
  const steps = hosts.flatMap((host) =>
    plan(host).map((step) => {
      const { command, preamble } = remoteCommand(step.script)
      const sent = preamble.length > 0 ? ["the script", step.stdin].filter((part) => part !== undefined).join(", then ") : step.stdin
      return { host: host.name, ...step, stdin: sent ?? null, argv: sshArgv(host, command) }
    }),
  )
  print({ dryRun: true, steps }, () =>
    steps
      .map(({ host, what, script, stdin }) => [`${host}: ${what}${stdin === null ? "" : ` (stdin: ${stdin})`}`, indent(script)].join("\n"))
      .join("\n\n"),
  )
  return 0
}

const indent = (text: string) =>
  text
    .split("\n")
    .map((line) => `  ${line}`)
    .join("\n")

/** Does `work` on every machine, prints a line for each as it ends, then the summary; with --json one object. Returns the exit code. */
export async function overHosts<T>(
  invocation: Fleet,
  hosts: readonly FleetHost[],
  work: (host: FleetHost) => Promise<{ message: string; value: T }>,
  beforeLine: () => void = () => {},
): Promise<number> {
  const width = Math.max(...hosts.map(({ name }) => displayWidth(name)))
  const line = (outcome: Outcome<T>) => {
    beforeLine()
    if (!invocation.json) process.stdout.write(`${outcomeLine(outcome, width)}\n`)
  }
  const outcomes = await onHosts(hosts, invocation.config.parallel, work, line)
  const exit = exitOf(outcomes)
  if (invocation.json) invocation.print({ exit, hosts: outcomes.map(({ value, ...rest }) => ({ ...rest, ...value })) }, () => "")
  else if (hosts.length > 1) process.stdout.write(`${summary(outcomes)}\n`)
  return exit
}

function outcomeLine({ host, state, message, hint, ms }: Outcome<unknown>, width: number): string {
  const paint = colours(process.stdout)
  const word = state === "ok" ? paint.green("ok".padEnd(11)) : paint.red(state.padEnd(11))
  return `${word} ${host.padEnd(width)}  ${message} (${formatDuration(ms)})${hint === undefined ? "" : `\n${" ".repeat(14 + width)}hint: ${hint}`}`
}
