/** Prepares and examines machines: facts, directories, login keys, the checks of `doctor`. */
import { AlphaError, EXIT } from "./base-error.ts"
import { audit, auditIfThere } from "./fleet-audit.ts"
import { alphaOnHost, deployPath, enter, enterIfThere, quote, script } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"
import { FACTS, type HostFacts, parseFacts, refusal } from "./fleet-facts.ts"
import { checked, HostError, said } from "./fleet-parallel.ts"
import type { Step } from "./fleet-release.ts"
import { remote } from "./fleet-ssh.ts"

/** Room for the program and one release beside it. */
const LEAST_BYTES = 400 << 20

/** What setup runs: the check, then in a second request the machine's own command. */
export function setupPlan(host: FleetHost): Step[] {
  const { deployDir, setupCommand } = host
  const check = script("umask 077", `mkdir -p -- ${quote([deployPath(deployDir)])}`, enter(host), audit({ verb: "setup" }), FACTS)
  const own =
    setupCommand === undefined
      ? undefined
      : [script(enter(host), audit({ verb: "setup", detail: "setupCommand" })), setupCommand].join("\n")
  return [{ what: "check the machine", script: check }, ...(own === undefined ? [] : [{ what: "run setupCommand", script: own }])]
}

/** Checks that alpha can run there, makes the deploy directory, runs setupCommand. Throws HostError naming what is missing. */
export async function setupHost(host: FleetHost): Promise<HostFacts> {
  const [check, own] = setupPlan(host)
  const facts = parseFacts(checked(await remote(host, check!.script), "setup").stdout)
  const unfit = refusal(facts)
  if (unfit) throw new HostError("failed", unfit.reason, { hint: unfit.hint })
  if (facts.freeBytes < LEAST_BYTES) {
    throw new HostError(
      "failed",
      `disk full: ${facts.freeBytes >> 20} MiB are free in ${host.deployDir}, ${LEAST_BYTES >> 20} MiB are needed`,
      {
        hint: "free some space or choose another deployDir",
      },
    )
  }
  if (host.gpu !== undefined && facts.gpus.length === 0 && facts.driver === undefined) {
    throw new HostError("failed", `fleet.json gives it the GPU ${host.gpu}, but no NVIDIA driver is loaded there`, {
      hint: "install the driver",
    })
  }
  if (own !== undefined) checked(await remote(host, own.script), "setupCommand")
  return facts
}

/** "Linux 6.1, x86_64, glibc 2.36, H100, driver 580.1, 52 GiB free". */
export function factsText({ kernel, machine, libc, gpus, driver, freeBytes, compiler }: HostFacts): string {
  const gpu = gpus.length === 0 ? "no GPU" : gpus.join(", ")
  const room = `${(freeBytes / 2 ** 30).toFixed(1)} GiB free`
  return [kernel, machine, libc, gpu, ...(driver === undefined ? [] : [`driver ${driver}`]), room, compiler ?? "no C compiler"].join(", ")
}

/** What doctor runs: every file against its name, the links, then alpha's own doctor. */
export function doctorPlan(host: FleetHost): Step[] {
  const files = script(
    enter(host),
    FACTS,
    "bad=",
    // What is damaged is set aside, so that nothing runs it and the next deploy sends it again.
    "for f in blobs/*; do",
    'case $f in *.part|*.damaged|"blobs/*") continue ;; esac',
    '[ "blobs/$(sha256sum < "$f" | cut -c 1-64)" = "$f" ] || { bad=1; echo "damaged=$f"; mv -f "$f" "$f.damaged"; }',
    "done",
    '[ -x current ] || { bad=1; echo "damaged=current leads nowhere"; }',
    'echo "release=$(readlink current || :)"',
    'echo "lock=$(readlink deploy.lock || :)"',
    '[ -z "$bad" ]',
  )
  return [
    { what: "check every deployed file", script: files },
    { what: "alpha doctor", script: alphaOnHost(host, ["doctor", "--json"]) },
  ]
}

export interface HostDoctor {
  readonly facts: HostFacts
  readonly release: string
  /** What `alpha doctor --json` says there. */
  readonly doctor: { readonly ok: boolean; readonly devices?: readonly { readonly device: string; readonly description?: string }[] }
}

/** Throws HostError where a file is damaged, the machine is unfit, or an operation comes out wrong. */
export async function doctorHost(host: FleetHost): Promise<HostDoctor> {
  const [files, own] = doctorPlan(host)
  const there = await remote(host, files!.script)
  const damaged = [...there.stdout.matchAll(/^damaged=(.*)$/gm)].map(([, name]) => name)
  if (damaged.length > 0) throw new HostError("failed", `damaged: ${damaged.join(", ")}`, { hint: `alpha fleet deploy ${host.name}` })
  const facts = parseFacts(checked(there, "the check of the files").stdout)
  const unfit = refusal(facts)
  if (unfit) throw new HostError("failed", unfit.reason, { hint: unfit.hint })
  const answer = await remote(host, own!.script)
  if (answer.unreachable !== undefined) throw new HostError("unreachable", answer.unreachable)
  const doctor = parsed(answer.stdout)
  if (doctor?.ok !== true) throw new HostError("failed", `alpha doctor fails there (exit code ${answer.code})${said(answer.stderr)}`)
  return { facts, release: /^release=releases\/(\w+)/m.exec(there.stdout)?.[1] ?? "?", doctor }
}

function parsed(text: string): HostDoctor["doctor"] | undefined {
  try {
    return JSON.parse(text) as HostDoctor["doctor"]
  } catch {
    return undefined
  }
}

/** Lines that add public keys to the login's authorized_keys, each once; the keys come over standard input. */
export function syncKeysPlan(host: FleetHost, keys: readonly string[]): Step[] {
  const lines = script(
    "umask 077",
    'mkdir -p "$HOME/.ssh"',
    'cd "$HOME/.ssh"',
    "touch authorized_keys",
    "added=0",
    'cp authorized_keys ".keys.$$"',
    // A file whose last line has no end would swallow the first new key.
    '[ -z "$(tail -c 1 ".keys.$$")" ] || echo >> ".keys.$$"',
    'while IFS= read -r key; do found=; while IFS= read -r line; do [ "$line" != "$key" ] || found=1; done < ".keys.$$"; [ -n "$found" ] || { printf "%s\\n" "$key" >> ".keys.$$"; added=$((added + 1)); }; done',
    'sync ".keys.$$" 2>/dev/null || sync',
    'mv -f ".keys.$$" authorized_keys',
    'echo "added=$added"',
    "cd",
    enterIfThere(host),
    auditIfThere({ verb: "sync-keys" }),
  )
  return [{ what: `allow ${keys.length} public keys`, script: lines, stdin: keys.map((key) => key.split(" ").slice(-1)[0]).join(", ") }]
}

/** Allows the public keys to log in; returns how many were new. */
export async function syncKeys(host: FleetHost, keys: readonly string[]): Promise<number> {
  const [step] = syncKeysPlan(host, keys)
  const answer = checked(await remote(host, step!.script, { stdin: keys.map((key) => `${key}\n`).join("") }), "writing authorized_keys")
  return Number(/^added=(\d+)$/m.exec(answer.stdout)?.[1] ?? 0)
}

/** The public keys of files as `ssh-keygen` writes them; a private key is refused before anything is sent. */
export function publicKeys(text: string, path: string): string[] {
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"))
  const wrong = lines.find((line) => !/^(ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]+=*( .*)?$/.test(line))
  if (lines.length > 0 && wrong === undefined) return lines
  const what = text.includes("PRIVATE KEY") ? "a private key, which never leaves this machine" : "no public key file"
  throw new AlphaError(`${path}: ${what}`, { hint: "give the .pub file beside it", code: EXIT.usage })
}
