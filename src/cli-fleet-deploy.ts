/** `alpha fleet deploy` and `upload`: files to the machines. */
import { statSync } from "node:fs"
import { basename, isAbsolute, join, posix, resolve } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile } from "./base-file.ts"
import { formatBytes, LiveLine } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { dryRun, machines, overHosts } from "./cli-fleet-hosts.ts"
import type { FleetDeployConfig, FleetUploadConfig } from "./config.ts"
import {
  type Blob,
  binaryPath,
  blobOf,
  type Cargo,
  deployPlan,
  deployTo,
  type FleetHost,
  nativeScript,
  releaseOf,
  rollBack,
  rollbackPlan,
  type Step,
} from "./fleet.ts"

export async function deploy(invocation: Invocation<FleetDeployConfig>): Promise<number> {
  const { config } = invocation
  const { hosts } = machines(invocation)
  const { takeover } = config
  if (config.rollback) {
    if (config.dryRun) return dryRun(invocation, hosts, (host) => rollbackPlan(host, takeover))
    return await overHosts(invocation, hosts, async (host) => {
      const value = await rollBack(host, { takeover })
      return { message: `back to release ${value.to}: ${value.version}`, value }
    })
  }
  const release = releaseOf(binaryPath(config.binary, isCompiled), config.rebuildNative ? nativeScript() : undefined)
  const cargo = async (host: FleetHost): Promise<Cargo> => ({ release: await release, files: await filesOf(host) })
  if (config.dryRun) {
    const plans = new Map<string, Step[]>()
    for (const host of hosts) plans.set(host.name, deployPlan(host, await cargo(host), takeover))
    return dryRun(invocation, hosts, (host) => plans.get(host.name)!)
  }
  return await sending(invocation, hosts, async (host, onProgress) => {
    const value = await deployTo(host, "deploy", cargo(host), { takeover, onProgress })
    const { state, sentBytes, resumedBytes, version, doctor } = value
    const resumed = resumedBytes > 0 ? `, ${formatBytes(resumedBytes)} were there from before` : ""
    const message =
      state === "unchanged"
        ? `unchanged, release ${value.release}`
        : `${version ?? "files"}: ${formatBytes(sentBytes)} sent${resumed}; doctor: ${doctor}`
    return { message, value }
  })
}

export async function upload(invocation: Invocation<FleetUploadConfig>): Promise<number> {
  const { config } = invocation
  const { hosts } = machines(invocation)
  if (config.file.length === 0) throw new AlphaError("fleet upload: no file is given", { hint: "add --file=PATH", code: EXIT.usage })
  const files = (
    await Promise.all(config.file.map((path) => linked(resolve(path), checkedPath(posix.join(config.to, basename(path))))))
  ).flat()
  const cargo: Cargo = { release: undefined, files }
  if (config.dryRun) return dryRun(invocation, hosts, (host) => deployPlan(host, cargo, false))
  return await sending(invocation, hosts, async (host, onProgress) => {
    const value = await deployTo(host, "upload", Promise.resolve(cargo), { onProgress })
    const { state, sentBytes } = value
    return { message: `${files.length} files ${state === "unchanged" ? "are there" : `in place, ${formatBytes(sentBytes)} sent`}`, value }
  })
}

/** The files that fleet.json gives the machine; a path with directories keeps them. */
export async function filesOf({ folder, files }: FleetHost): Promise<Blob[]> {
  const blobs = await Promise.all(files.map((file) => linked(resolve(folder, file), checkedPath(isAbsolute(file) ? basename(file) : file))))
  return blobs.flat()
}

/** A file, or all files of a directory, each with its place below the deploy directory. */
async function linked(path: string, link: string): Promise<Blob[]> {
  if (!withFile("read", path, () => statSync(path)).isDirectory()) return [await blobOf(path, { link })]
  const names = [...new Bun.Glob("**/*").scanSync({ cwd: path, dot: true, onlyFiles: true })].sort()
  return await Promise.all(names.map((name) => blobOf(join(path, name), { link: posix.join(link, name) })))
}

/** A path that stays below the deploy directory and out of what deploy itself keeps there. */
function checkedPath(path: string): string {
  const link = posix.normalize(path)
  const own = ["blobs", "releases", "current", "previous", ".env.local", "deploy.lock", "audit.jsonl", "jobs", "train.log"]
  if (link.startsWith("../") || link.startsWith("/") || link === "." || own.includes(link.split("/")[0]!)) {
    throw new AlphaError(`${path}: not a place for files in the deploy directory`, {
      hint: "choose a directory such as data",
      code: EXIT.usage,
    })
  }
  return link
}

/** Works on the machines; on a terminal a live line tells what is sent in all. */
async function sending<T>(
  invocation: Invocation<FleetUploadConfig> | Invocation<FleetDeployConfig>,
  hosts: readonly FleetHost[],
  work: (host: FleetHost, onProgress: (done: number, total: number) => void) => Promise<{ message: string; value: T }>,
): Promise<number> {
  const sums = new Map<string, { done: number; total: number }>()
  const sum = (key: "done" | "total") => formatBytes([...sums.values()].reduce((all, host) => all + host[key], 0))
  const live = new LiveLine()
  const show = (name: string, done: number, total: number) => {
    sums.set(name, { done, total })
    if (!invocation.json) live.show(`sending ${sum("done")} of ${sum("total")}`)
  }
  return await overHosts(
    invocation,
    hosts,
    (host) => work(host, (done, total) => show(host.name, done, total)),
    () => live.clear(),
  )
}
