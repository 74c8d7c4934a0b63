/** `alpha fleet bench-cuda`: deploy, measure beside PyTorch, fetch the figures, and let the machine go. */
import { join } from "node:path"
import { isCompiled } from "./base-build.ts"
import { makeDirectory, writeAtomic } from "./base-file.ts"
import type { Invocation } from "./cli-command.ts"
import { filesOf } from "./cli-fleet-deploy.ts"
import { dryRun, machines, overHosts } from "./cli-fleet-hosts.ts"
import type { FleetBenchConfig } from "./config.ts"
import { alphaOnHost, askHost, binaryPath, deployPlan, deployTo, releaseOf, runShutdown, shutdownCommand } from "./fleet.ts"

/** Whatever becomes of the measurement, the machine is let go as it was asked for: one that waits costs. */
export async function benchCuda(invocation: Invocation<FleetBenchConfig>): Promise<number> {
  const { config } = invocation
  const { hosts } = machines(invocation)
  const ends = new Map(hosts.map((host) => [host.name, shutdownCommand(host, config.shutdown)]))
  const words = [...config.bench, "--json"]
  const release = config.deploy ? await releaseOf(binaryPath(undefined, isCompiled)) : undefined
  const cargo = new Map(await Promise.all(hosts.map(async (host) => [host.name, { release, files: await filesOf(host) }] as const)))
  if (config.dryRun) {
    return dryRun(invocation, hosts, (host) => [
      ...(config.deploy ? deployPlan(host, cargo.get(host.name)!, false) : []),
      { what: "measure", script: alphaOnHost(host, words) },
    ])
  }
  return await overHosts(invocation, hosts, async (host) => {
    const end = ends.get(host.name)
    try {
      if (config.deploy) await deployTo(host, "deploy", Promise.resolve(cargo.get(host.name)!))
      const result = await askHost<object>(host, words)
      const path = join(config.to, host.name, `${new Date().toISOString().replace(/[:.]/g, "")}.json`)
      makeDirectory(join(config.to, host.name))
      writeAtomic(path, `${JSON.stringify(result, null, 1)}\n`)
      const after = end === undefined ? "the machine is kept" : `then: ${end}`
      return { message: `${path}; ${after}`, value: { path, result } }
    } finally {
      if (end !== undefined) await runShutdown(host, end)
    }
  })
}
