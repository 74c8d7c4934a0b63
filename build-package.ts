/** Finds files of locked npm packages, also those for another machine than this one. */
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import { root } from "./build-target.ts"
import { AlphaError } from "./src/base-error.ts"

interface LockedPackage {
  readonly version: string
  readonly integrity: string
}

/** Path of `file` in package `name` at its locked version: in node_modules, else fetched once by npm and checked against the lock. */
export function packageFile(name: string, file: string): string {
  const installed = join(root, "node_modules", name, file)
  if (existsSync(installed)) return installed
  const locked = lockedPackage(name)
  const folder = join(root, ".bun-out/packages", `${name.replace("/", "-")}-${locked.version}`)
  if (!existsSync(join(folder, file))) fetchPackage(name, locked, folder)
  return join(folder, file)
}

function lockedPackage(name: string): LockedPackage {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as { packages: Record<string, LockedPackage> }
  const locked = lock.packages[`node_modules/${name}`]
  if (!locked) throw new AlphaError(`package ${name} is not in package-lock.json`, { hint: "npm install, then commit the lock" })
  return locked
}

function fetchPackage(name: string, { version, integrity }: LockedPackage, folder: string): void {
  rmSync(folder, { recursive: true, force: true })
  const temporary = `${folder}.${process.pid}`
  mkdirSync(temporary, { recursive: true })
  const asked = `${name}@${version}`
  const pack = Bun.spawnSync(["npm", "pack", asked, "--silent", "--pack-destination", temporary], { cwd: temporary, stderr: "pipe" })
  if (!pack.success)
    throw new AlphaError(`npm pack ${asked} failed: ${pack.stderr.toString().trim()}`, {
      hint: "check the network and the npm registry setting",
    })
  const archive = join(temporary, pack.stdout.toString().trim().split("\n").at(-1)!)
  const sum = `sha512-${createHash("sha512").update(readFileSync(archive)).digest("base64")}`
  if (sum !== integrity)
    throw new AlphaError(`${asked} differs from the lock: ${sum}, locked ${integrity}`, { hint: "do not use it; check the registry" })
  const unpack = Bun.spawnSync(["tar", "-xzf", archive, "--strip-components=1", "-C", temporary], { stderr: "pipe" })
  if (!unpack.success)
    throw new AlphaError(`cannot unpack ${asked}: ${unpack.stderr.toString().trim()}`, { hint: "apt-get install tar gzip" })
  rmSync(archive)
  renameSync(temporary, folder)
}
