/** What ends a benchmark on a rented machine: its results here, and the machine as it was asked for. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { FleetHost } from "./fleet-config.ts"
import { HostError, said } from "./fleet-parallel.ts"

export const SHUTDOWNS = ["keep", "stop", "delete"] as const
export type Shutdown = (typeof SHUTDOWNS)[number]

/** The configured command that does it; undefined for keep. Throws where none is configured: before anything is paid for. */
export function shutdownCommand(host: FleetHost, shutdown: Shutdown): string | undefined {
  if (shutdown === "keep") return undefined
  const command = shutdown === "stop" ? host.stopCommand : host.deleteCommand
  if (command !== undefined) return command
  throw new AlphaError(`${host.name} has no ${shutdown}Command in fleet.json`, {
    hint: `give it one, such as "gcloud compute instances ${shutdown} $INSTANCE --zone=$ZONE --quiet", or --shutdown=keep`,
    code: EXIT.usage,
  })
}

/** Runs the provider's command on this machine; the instance's facts are in its environment. */
export async function runShutdown(host: FleetHost, command: string): Promise<void> {
  const facts = { INSTANCE: host.name, HOST: host.host ?? host.name, ZONE: host.zone ?? "", MACHINE: host.machine ?? "" }
  const child = Bun.spawn(["sh", "-c", command], {
    cwd: host.folder,
    env: { ...process.env, ...facts },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited, new Response(child.stdout).text()])
  if (code !== 0)
    throw new HostError("failed", `${command} fails (exit code ${code})${said(stderr)}`, { hint: `${host.name} may still run, and cost` })
}
