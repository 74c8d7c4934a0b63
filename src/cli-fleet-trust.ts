/** `alpha fleet trust`: pins host keys. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Invocation } from "./cli-command.ts"
import { machines, overHosts } from "./cli-fleet-hosts.ts"
import type { FleetTrustConfig } from "./config.ts"
import { pinnedKeys, trustHost } from "./fleet.ts"

export async function trust(invocation: Invocation<FleetTrustConfig>): Promise<number> {
  const { config, print } = invocation
  const { hosts } = machines(invocation)
  if (config.fingerprint !== undefined && hosts.length > 1) {
    throw new AlphaError(`fleet trust --fingerprint: ${hosts.length} machines are meant`, { hint: "name one", code: EXIT.usage })
  }
  if (config.dryRun) {
    const steps = hosts.map((host) => ({
      host: host.name,
      what: "ask for the host key",
      file: host.knownHosts,
      pinned: pinnedKeys(host).length,
    }))
    print({ dryRun: true, steps }, () =>
      steps.map(({ host, file, pinned }) => `${host}: ask for the host key, pin it in ${file} (${pinned} pinned now)`).join("\n"),
    )
    return 0
  }
  return await overHosts(invocation, hosts, async (host) => {
    const value = await trustHost(host, config)
    const { fingerprint, type, isNew } = value
    return {
      message: `${type} ${fingerprint} ${isNew ? "is pinned now: compare it with your provider's console" : "was pinned before"}`,
      value,
    }
  })
}
