/** Checks of what was built: the glibc it needs, and that it runs alone in an empty directory. */
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { hostTarget, type Target } from "./build-target.ts"
import { AlphaError } from "./src/base-error.ts"

/** Debian 10, RHEL 8, Ubuntu 20.04 and everything since. */
export const GLIBC_FLOOR = "2.28"

/** Newest glibc symbol version in what `readelf -WV` printed, like "2.17"; undefined when it names none. */
export function newestGlibc(versions: string): string | undefined {
  const found = [...versions.matchAll(/\bGLIBC_(\d+(?:\.\d+)+)/g)].map((match) => match[1]!)
  return found.sort(compareVersions).at(-1)
}

/** Negative, zero or positive: compareVersions("2.9", "2.28") < 0. */
export function compareVersions(a: string, b: string): number {
  const [as, bs] = [a.split(".").map(Number), b.split(".").map(Number)]
  for (let i = 0; i < Math.max(as.length, bs.length); i++) {
    const difference = (as[i] ?? 0) - (bs[i] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

/** Newest glibc that `file` needs. Throws when that is newer than the floor, naming the symbols. */
export function checkGlibc(file: string): string {
  const newest = newestGlibc(readelf("-WV", file))
  if (newest === undefined) throw new AlphaError(`${file}: readelf finds no glibc version in it`)
  if (compareVersions(newest, GLIBC_FLOOR) <= 0) return newest
  const symbols = readelf("-W", "--dyn-syms", file).match(/\S+@GLIBC_[\d.]+/g) ?? []
  const late = symbols.filter((symbol) => compareVersions(symbol.split("@GLIBC_")[1]!, GLIBC_FLOOR) > 0)
  throw new AlphaError(`${basename(file)} needs glibc ${newest}, more than ${GLIBC_FLOOR}: ${[...new Set(late)].join(", ")}`, {
    hint: "bind them to an older version in native/glibc.h, or do without",
  })
}

function readelf(...args: string[]): string {
  if (!Bun.which("readelf")) throw new AlphaError("readelf not found", { hint: "apt-get install binutils" })
  const result = Bun.spawnSync(["readelf", ...args], { env: { ...process.env, LC_ALL: "C" } })
  return result.stdout.toString()
}

/** Runs `binary` from an empty directory with nothing in the environment. Returns its output. Throws with what it printed when it fails. */
export async function runAlone(binary: string, args: readonly string[], target: Target, env: Record<string, string> = {}): Promise<string> {
  const emulator = target.name === hostTarget ? [] : [target.emulator, "-L", `/usr/${target.machine}-linux-gnu`]
  const folder = mkdtempSync(join(tmpdir(), "alpha-alone-"))
  try {
    const child = Bun.spawn([...emulator, binary, ...args], { cwd: folder, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" })
    const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited])
    if (code === 0) return out
    throw new AlphaError(`the binary fails: alpha ${args.join(" ")} exits ${child.signalCode ?? code}\n${`${out}${err}`.trim()}`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Whether this machine can run programs of `target`. */
export const canRun = (target: Target): boolean =>
  target.name === hostTarget || (Bun.which(target.emulator) !== null && existsSync(`/usr/${target.machine}-linux-gnu`))
