/** `alpha fleet setup`, `doctor` and `sync-keys`. */
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { readText } from "./base-file.ts"
import type { Invocation } from "./cli-command.ts"
import { dryRun, machines, overHosts } from "./cli-fleet-hosts.ts"
import type { FleetSelectConfig, FleetSyncKeysConfig } from "./config.ts"
import { doctorHost, doctorPlan, type FleetHost, factsText, publicKeys, setupHost, setupPlan, syncKeys, syncKeysPlan } from "./fleet.ts"

export async function setup(invocation: Invocation<FleetSelectConfig>): Promise<number> {
  const { hosts } = machines(invocation)
  if (invocation.config.dryRun) return dryRun(invocation, hosts, setupPlan)
  return await overHosts(invocation, hosts, async (host) => {
    const facts = await setupHost(host)
    return { message: `${factsText(facts)}${host.setupCommand === undefined ? "" : "; setupCommand done"}`, value: { facts } }
  })
}

export async function doctor(invocation: Invocation<FleetSelectConfig>): Promise<number> {
  const { hosts } = machines(invocation, "all")
  if (invocation.config.dryRun) return dryRun(invocation, hosts, doctorPlan)
  return await overHosts(invocation, hosts, async (host) => {
    const value = await doctorHost(host)
    const devices = value.doctor.devices?.map(({ device }) => device).join(", ") ?? "?"
    return { message: `release ${value.release}, right on ${devices}; ${factsText(value.facts)}`, value }
  })
}

/** Without --publicKey the key of each machine's own login is meant: FILE.pub beside the private key of fleet.json. */
export async function syncKeysTo(invocation: Invocation<FleetSyncKeysConfig>): Promise<number> {
  const { config } = invocation
  const { hosts } = machines(invocation)
  const keysOf = (host: FleetHost): string[] => {
    const paths =
      config.publicKey.length > 0 ? config.publicKey.map((path) => resolve(path)) : host.key === undefined ? [] : [`${host.key}.pub`]
    if (paths.length === 0) {
      throw new AlphaError(`fleet sync-keys: no key is given, and fleet.json has none for ${host.name}`, {
        hint: "add --publicKey=FILE.pub",
        code: EXIT.usage,
      })
    }
    const missing = paths.find((path) => !existsSync(path))
    if (missing !== undefined)
      throw new AlphaError(`${missing} does not exist`, { hint: "ssh-keygen -y -f KEY > KEY.pub makes it", code: EXIT.usage })
    return paths.flatMap((path) => publicKeys(readText(path), path))
  }
  const keys = new Map(hosts.map((host) => [host.name, keysOf(host)]))
  if (config.dryRun) return dryRun(invocation, hosts, (host) => syncKeysPlan(host, keys.get(host.name)!))
  return await overHosts(invocation, hosts, async (host) => {
    const added = await syncKeys(host, keys.get(host.name)!)
    return { message: added === 0 ? "all keys were there" : `${added} new keys allowed`, value: { added } }
  })
}
