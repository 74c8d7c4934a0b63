/** Pins the host key of a machine: asks for it without accepting it, and writes it beside fleet.json. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError } from "./base-error.ts"
import { readText, withFile, writeAtomic } from "./base-file.ts"
import { hostKeyAlias } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"
import { HostError } from "./fleet-parallel.ts"
import { closeConnection, probe } from "./fleet-ssh.ts"

export interface Trust {
  /** "ssh-ed25519". */
  readonly type: string
  /** SHA256:… as ssh-keygen -l prints it. */
  readonly fingerprint: string
  /** false where this very key was pinned before. */
  readonly isNew: boolean
}

export interface TrustOptions {
  /** Pin it only if it is this key. */
  readonly fingerprint?: string | undefined
  /** Another pinned key is given up. */
  readonly replace?: boolean
}

/** Pins the key that the machine shows, those of the machines in between first. Throws HostError where another one is pinned. */
export async function trustHost(host: FleetHost, { fingerprint, replace = false }: TrustOptions = {}): Promise<Trust> {
  if (host.via !== undefined) await trustHost(host.via)
  const { type, key } = await shownKey(host)
  const shown = fingerprintOf(key)
  if (fingerprint !== undefined && fingerprint.replace(/=$/, "") !== shown) {
    throw new HostError("failed", `${host.name} shows the host key ${shown}, not ${fingerprint}: nothing is pinned`, {
      hint: "another machine may have answered",
    })
  }
  const pinned = pinnedKeys(host)
  const own = pinned.find((pair) => pair.key === key)
  if (own !== undefined) return { type, fingerprint: shown, isNew: false }
  const other = pinned.find((pair) => pair.type === type) ?? pinned[0]
  if (other !== undefined && !replace) {
    throw new HostError("failed", `${host.name} shows the host key ${shown}, but ${fingerprintOf(other.key)} is pinned`, {
      hint: `another machine answers, or it was installed anew; if you know why: alpha fleet trust ${host.name} --replace`,
    })
  }
  await closeConnection(host)
  pin(host, `${hostKeyAlias(host)} ${type} ${key}`)
  return { type, fingerprint: shown, isNew: true }
}

/** SHA256:… of a key in base64. */
export function fingerprintOf(key: string): string {
  return `SHA256:${new Bun.CryptoHasher("sha256").update(Buffer.from(key, "base64")).digest("base64").replace(/=+$/, "")}`
}

interface Key {
  readonly type: string
  readonly key: string
}

/** Keys of this machine in the file of pinned keys. */
export function pinnedKeys(host: FleetHost): Key[] {
  return lines(host.knownHosts).flatMap((line) => {
    const [alias, type, key] = line.split(/\s+/)
    return alias === hostKeyAlias(host) && type && key ? [{ type, key }] : []
  })
}

function lines(path: string): string[] {
  return existsSync(path)
    ? readText(path)
        .split("\n")
        .filter((line) => line.trim() !== "")
    : []
}

/** Replaces the lines of this machine. Nothing else runs between reading and writing. */
function pin(host: FleetHost, line: string): void {
  const others = lines(host.knownHosts).filter((other) => other.split(/\s+/)[0] !== hostKeyAlias(host))
  writeAtomic(host.knownHosts, `${[...others, line].join("\n")}\n`)
}

/**
 * The key that the machine shows. ssh asks a program for the known keys and hands it the shown one; the program notes it and knows none,
 * so that ssh ends before anything is sent. Checking is never off.
 */
async function shownKey(host: FleetHost): Promise<Key> {
  const folder = mkdtempSync(join(tmpdir(), "alpha-trust-"))
  try {
    const program = join(folder, "note")
    withFile("write", program, () => writeFileSync(program, `[ "$2" = NONE ] || printf '%s %s\\n' "$1" "$2" >"$0.key"\n`))
    const { unreachable, stderr } = await probe(host, { keyCommand: `/bin/sh "${program}" %t %K` })
    if (!existsSync(`${program}.key`)) {
      if (/Bad configuration option/i.test(stderr)) {
        throw new AlphaError("this machine's ssh is too old", { hint: "OpenSSH 8.5 or newer is needed: ssh -V" })
      }
      throw new HostError("unreachable", unreachable ?? `${host.name} showed no host key`)
    }
    const [type, key] = readFileSync(`${program}.key`, "utf8").trim().split(" ")
    return { type: type!, key: key! }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
