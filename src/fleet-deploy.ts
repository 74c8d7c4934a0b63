/** Deploys: what is missing on a machine is sent, proven, and made current in one step. */
import { closeSync, existsSync, openSync, readFileSync, readSync, statSync } from "node:fs"
import { basename, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256, sha256File, withFile } from "./base-file.ts"
import { formatBytes } from "./base-term.ts"
import { verified } from "./fleet-answer.ts"
import type { FleetHost } from "./fleet-config.ts"
import { parseFacts, refusal } from "./fleet-facts.ts"
import { isOrphan, LOCKED, type LockOwner, lockOwner, parseHolder } from "./fleet-lock.ts"
import { HostError } from "./fleet-parallel.ts"
import {
  type Blob,
  type Cargo,
  probeScript,
  type Release,
  rollbackScript,
  type Step,
  switchScript,
  unlockScript,
  uploadScript,
} from "./fleet-release.ts"
import { type Answer, remote, remoteLater } from "./fleet-ssh.ts"
import { sendBlob } from "./fleet-upload.ts"

export interface DeployOptions {
  /** Take the lock from whoever holds it. */
  readonly takeover?: boolean
  /** Bytes that were sent, of all that will be. */
  readonly onProgress?: (done: number, total: number) => void
  readonly signal?: AbortSignal | undefined
}

export interface Deployed {
  readonly state: "unchanged" | "changed"
  readonly sentBytes: number
  /** Bytes that an earlier, broken deploy had left. */
  readonly resumedBytes: number
  readonly release: string | null
  /** What was current before. */
  readonly from: string | null
  readonly version: string | null
  readonly doctor: string | null
  readonly requests: number
}

/** The release of one binary, and of the native sources that shall be compiled on the machine. */
export async function releaseOf(binary: string, native?: string): Promise<Release> {
  const alpha = await blobOf(binary, { isProgram: true })
  const sources = native === undefined ? undefined : await blobOf(native, {})
  return { id: sha256(`${alpha.sha256} ${sources?.sha256 ?? ""}`).slice(0, 16), alpha, native: sources }
}

const blobs = new Map<string, Promise<Blob>>()

/** A local file by its content; `link` is where it shall be found below the deploy directory. Files are read once per command. */
export async function blobOf(path: string, { isProgram = false, link }: { isProgram?: boolean; link?: string }): Promise<Blob> {
  const read = async (): Promise<Blob> => {
    const { size } = withFile("read", path, () => statSync(path))
    return { sha256: await sha256File(path), bytes: size, path, isProgram: false, link: undefined }
  }
  const known = blobs.get(path) ?? read()
  blobs.set(path, known)
  return { ...(await known), isProgram, link }
}

/** The secrets that go with a deploy: the file of `envFile` beside fleet.json, undefined where there is none. */
export function secretsOf({ folder, envFile }: FleetHost): Uint8Array | undefined {
  const path = join(folder, envFile)
  return existsSync(path) ? withFile("read", path, () => new Uint8Array(readFileSync(path))) : undefined
}

/** Brings files to the machine; they are still read while the connection is made. Throws HostError; whatever happens, current is the old release or the new one, whole and proven. */
export async function deployTo(
  host: FleetHost,
  what: "deploy" | "upload",
  coming: Promise<Cargo>,
  options: DeployOptions = {},
): Promise<Deployed> {
  const owner = lockOwner(what)
  const secrets = what === "upload" ? undefined : secretsOf(host)
  const take = async (takeover: string | undefined) => {
    const script = coming.then((cargo) => probeScript(host, cargo, owner, { secretBytes: secrets?.length, takeover }))
    return await remoteLater(host, script, { ...(secrets === undefined ? {} : { stdin: secrets }), signal: options.signal })
  }
  const answer = await withLock(take, options.takeover)
  const cargo = await coming
  const { release, files } = cargo
  const base = { sentBytes: 0, resumedBytes: 0, release: release?.id ?? null, from: null, version: null, doctor: null }
  if (/^state=unchanged$/m.test(answer.stdout)) return { ...base, state: "unchanged", requests: 1 }
  try {
    const work = await send(host, cargo, owner, answer.stdout, options)
    const script = switchScript(host, release, files, owner, {
      verb: owner.what,
      detail: [release && `release ${release.id}`, ...files.map(({ link }) => link)].filter((part) => part !== undefined).join(", "),
    })
    const done = verified(await remote(host, script, { signal: options.signal }), "the switch to the new release")
    return { ...base, ...work, ...told(done.stdout), state: "changed", requests: work.requests + 2 }
  } catch (error) {
    // The machine may be gone; then the lock is found to be an orphan, or expires.
    if (!(error instanceof HostError && error.state === "unreachable")) await remote(host, unlockScript(host, owner)).catch(() => {})
    throw error
  }
}

/** Everything that a deploy to a machine without any of it would run there. */
export function deployPlan(host: FleetHost, { release, files }: Cargo, takeover = false): Step[] {
  const owner = lockOwner(release === undefined ? "upload" : "deploy")
  const secrets = release === undefined ? undefined : secretsOf(host)
  const blobs = [...(release ? [release.alpha, ...(release.native ? [release.native] : [])] : []), ...files]
  const options = { secretBytes: secrets?.length, takeover: takeover ? "any" : undefined }
  return [
    {
      what: "ask what is missing",
      script: probeScript(host, { release, files }, owner, options),
      ...(secrets === undefined ? {} : { stdin: `${host.envFile}, ${secrets.length} bytes, never shown` }),
    },
    ...blobs.map((blob) => ({
      what: `send ${basename(blob.path)}, where it is missing`,
      script: uploadScript(host, blob, owner, 0, blob.bytes),
      stdin: `${blob.path}, ${formatBytes(blob.bytes)}`,
    })),
    { what: "prove it and make it current", script: switchScript(host, release, files, owner, { verb: owner.what }) },
  ]
}

export function rollbackPlan(host: FleetHost, takeover = false): Step[] {
  return [{ what: "make the release before current", script: rollbackScript(host, lockOwner("rollback"), takeover ? "any" : undefined) }]
}

/** Makes the release before the current one current again. */
export async function rollBack(
  host: FleetHost,
  options: DeployOptions = {},
): Promise<Pick<Deployed, "from" | "version" | "doctor"> & { to: string }> {
  const owner = lockOwner("rollback")
  const answer = await withLock((takeover) => remote(host, rollbackScript(host, owner, takeover)), options.takeover)
  const to = /^to=releases\/(\w+)/m.exec(answer.stdout)?.[1] ?? "?"
  return { ...told(answer.stdout), to }
}

/** Asks again where the lock is held by a process of this computer that is gone. */
async function withLock(take: (takeover: string | undefined) => Promise<Answer>, takeover = false): Promise<Answer> {
  const answer = await take(takeover ? "any" : undefined)
  const holder = answer.code === LOCKED ? parseHolder(answer.stdout) : undefined
  if (holder === undefined || !isOrphan(holder)) return verified(answer, "the deploy")
  return verified(await take(holder.id), "the deploy")
}

const told = (stdout: string) => {
  const value = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(stdout)?.[1] ?? null
  return { from: /^releases\/(\w+)/.exec(value("from") ?? "")?.[1] ?? null, version: value("version"), doctor: value("doctor") }
}

async function send(host: FleetHost, { release, files }: Cargo, owner: LockOwner, stdout: string, options: DeployOptions) {
  const facts = parseFacts(stdout)
  const unfit = release && (refusal(facts) ?? otherMachine(release.alpha.path, facts.machine))
  if (unfit) throw new HostError("failed", unfit.reason, { hint: unfit.hint })
  const all = new Map(
    [...files, ...(release ? [release.alpha, ...(release.native ? [release.native] : [])] : [])].map((blob) => [blob.sha256, blob]),
  )
  const needs = [...stdout.matchAll(/^need=(\w+) (\d+)$/gm)].flatMap(([, sum, have]) => {
    const blob = all.get(sum!)
    return blob === undefined ? [] : [{ blob, have: Number(have) }]
  })
  const missing = needs.reduce((sum, { blob, have }) => sum + blob.bytes - Math.min(have, blob.bytes), 0)
  if (missing > facts.freeBytes) {
    throw new HostError("failed", `disk full: ${formatBytes(missing)} are to be sent, ${formatBytes(facts.freeBytes)} are free`, {
      hint: `free some space in ${host.deployDir} or choose another deployDir`,
    })
  }
  const total = needs.reduce((sum, { blob }) => sum + blob.bytes, 0)
  let before = 0
  const work = { sentBytes: 0, resumedBytes: 0, requests: 0 }
  for (const { blob, have } of needs) {
    const onProgress = (done: number) => options.onProgress?.(before + done, total)
    const sent = await sendBlob(host, blob, owner, have, { onProgress, signal: options.signal })
    before += blob.bytes
    for (const key of ["sentBytes", "resumedBytes", "requests"] as const) work[key] += sent[key]
  }
  return work
}

const MACHINES: Readonly<Record<number, string>> = { 62: "x86_64", 183: "aarch64" }

/** Why the binary cannot run on such a processor. A file that is no ELF program may be a script, which runs anywhere. */
function otherMachine(path: string, machine: string): { reason: string; hint: string } | undefined {
  const head = withFile("read", path, () => {
    const file = openSync(path, "r")
    const bytes = new Uint8Array(20)
    readSync(file, bytes)
    closeSync(file)
    return bytes
  })
  if (Buffer.from(head.subarray(0, 4)).toString("latin1") !== "\x7fELF") return undefined
  const own = MACHINES[head[18]! | (head[19]! << 8)] ?? "another machine"
  if (own === machine) return undefined
  const target = machine === "aarch64" ? "linux-arm64" : "linux-x64"
  return {
    reason: `it is ${machine}, but ${basename(path)} is for ${own}`,
    hint: `npm run build -- --target=${target}, then --binary=alpha-${target}`,
  }
}

/** The binary that deploy sends: the one that is named, this program itself, or what `npm run build` makes. */
export function binaryPath(named: string | undefined, isCompiled: boolean): string {
  const path = named ?? (isCompiled ? process.execPath : join(import.meta.dir, "../alpha"))
  if (existsSync(path)) return path
  throw new AlphaError(`${path} does not exist`, { hint: named === undefined ? "npm run build makes it" : undefined, code: EXIT.usage })
}
