/** What the kernel of this host tells about processes it killed and GPUs that failed. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"

/** Where the kernel's files are; tests have their own. */
export const CGROUPS = "/sys/fs/cgroup"

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return undefined
  }
}

/** Kills for memory that this process's group counts so far; undefined where no counter can be read. */
export const oomKills = (): number | undefined => oomCount(read("/proc/self/cgroup") ?? "")

/** The same from the text of /proc/PID/cgroup. */
export function oomCount(groups: string, cgroups = CGROUPS): number | undefined {
  for (const line of groups.split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (controllers === undefined || path === undefined) continue
    // Version 2 has one group for all; version 1 one for memory. In a container the path may be that of the host: then the root is the group.
    const files =
      controllers === ""
        ? [join(cgroups, path, "memory.events"), join(cgroups, "memory.events")]
        : controllers.split(",").includes("memory")
          ? [join(cgroups, "memory", path, "memory.oom_control"), join(cgroups, "memory/memory.oom_control")]
          : []
    const file = files.find(existsSync)
    const count = file === undefined ? undefined : /^oom_kill (\d+)$/m.exec(read(file) ?? "")?.[1]
    if (count !== undefined) return Number(count)
  }
  return undefined
}

/** Seconds since the host started. */
export const uptime = (): number => Number((read("/proc/uptime") ?? "0").split(" ")[0])

/** The kernel's log; empty where it may not be read. */
export async function kernelLog(): Promise<string> {
  try {
    const child = Bun.spawn(["dmesg"], { stdin: "ignore", stdout: "pipe", stderr: "ignore" })
    const timer = setTimeout(() => child.kill("SIGKILL"), 5000)
    const text = await new Response(child.stdout).text()
    clearTimeout(timer)
    return text
  } catch {
    return "" // no dmesg here
  }
}
