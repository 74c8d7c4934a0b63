/** `alpha fleet run`, `ssh` and `schema`. */
import { existsSync, readFileSync } from "node:fs"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Invocation } from "./cli-command.ts"
import { dryRun, machines, overHosts } from "./cli-fleet-hosts.ts"
import type { FleetRunConfig, FleetSelectConfig } from "./config.ts"
import {
  auditIfThere,
  enterIfThere,
  FLEET_EXIT,
  type FleetHost,
  fleetSchema,
  HostError,
  interactive,
  quote,
  remote,
  said,
} from "./fleet.ts"

/** On one machine the command's own output and exit code; on several its lines with the machine's name before them. */
export async function runCommand(invocation: Invocation<FleetRunConfig>): Promise<number> {
  const { config, rest, json } = invocation
  const { hosts } = machines(invocation)
  if (rest.length === 0)
    throw new AlphaError("fleet run: no command is given", { hint: "alpha fleet run box -- nvidia-smi", code: EXIT.usage })
  const limit = config.timeout === undefined ? "" : `timeout ${config.timeout} `
  const words = exactWords(rest)
  // The audit log tells the program, not its arguments: they may hold secrets.
  const scriptOf = (host: FleetHost) =>
    `${enterIfThere(host)}\n${auditIfThere({ verb: "run", detail: rest[0]! })}\nexec ${limit}${quote(words)}`
  if (config.dryRun) return dryRun(invocation, hosts, (host) => [{ what: "run", script: scriptOf(host) }])
  const [only] = hosts
  if (hosts.length === 1 && !json) {
    const { code, unreachable } = await remote(only!, scriptOf(only!), {
      inheritStdin: process.stdin.isTTY !== true,
      onStdout: (bytes) => void process.stdout.write(bytes),
      onStderr: (text) => void process.stderr.write(text),
    })
    if (unreachable !== undefined) throw new HostError("unreachable", unreachable)
    return code
  }
  return await overHosts(invocation, hosts, async (host) => {
    const show = (text: string) => void (json || process.stdout.write(text.replaceAll(/^(?=.)/gm, `${host.name} | `)))
    const { code, stdout, stderr, unreachable } = await remote(host, scriptOf(host))
    if (unreachable !== undefined) throw new HostError("unreachable", unreachable)
    show(stdout)
    if (code !== 0 && !json) throw new HostError("failed", `exit code ${code}${said(stderr)}`)
    if (stderr !== "") show(stderr)
    return { message: `exit code ${code}`, value: { code, stdout, stderr } }
  })
}

/** The last words of this process as bytes: those that are no UTF-8 text were changed when they became strings. */
function exactWords(rest: readonly string[]): readonly (string | Uint8Array)[] {
  if (!existsSync("/proc/self/cmdline")) return rest
  const bytes = readFileSync("/proc/self/cmdline")
  const all: Uint8Array[] = []
  for (let start = 0, end = bytes.indexOf(0); end >= 0; start = end + 1, end = bytes.indexOf(0, start)) all.push(bytes.subarray(start, end))
  const last = all.slice(-rest.length)
  const isSame =
    last.length === rest.length && last.every((word, i) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(word) === rest[i])
  return isSame ? last : rest
}

/** A shell on one machine, in its deploy directory. */
export async function ssh(invocation: Invocation<FleetSelectConfig>): Promise<number> {
  const { hosts } = machines(invocation)
  const [host] = hosts
  if (hosts.length !== 1) throw new AlphaError(`fleet ssh: ${hosts.length} machines are meant`, { hint: "name one", code: EXIT.usage })
  const script = `${enterIfThere(host!)}\n${auditIfThere({ verb: "ssh" })}\nexec "\${SHELL:-sh}" -l`
  if (invocation.config.dryRun) return dryRun(invocation, hosts, () => [{ what: "open a shell", script }])
  const { code, unreachable } = await interactive(host!, script)
  if (unreachable === undefined) return code
  process.stderr.write(`alpha: ${unreachable}\n`)
  return FLEET_EXIT.unreachable
}

/** The schema is JSON with and without --json. */
export async function schema({ print }: Invocation<object>): Promise<undefined> {
  print(fleetSchema(), () => JSON.stringify(fleetSchema(), null, 2))
}
