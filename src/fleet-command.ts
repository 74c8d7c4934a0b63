/** Pure: what is run where, as shell text and ssh argument lists. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { FleetHost } from "./fleet-config.ts"

/**
 * Words for a POSIX shell, each quoted so that it arrives as it is: quote(["a b", "it's"]) = `'a b' 'it'\''s'`. Bytes that are no UTF-8
 * text are written as octal for printf. Throws for NUL, which no argument can hold.
 */
export function quote(words: readonly (string | Uint8Array)[]): string {
  return words.map(quoteWord).join(" ")
}

const PLAIN = /^[A-Za-z0-9_@%+=:,./-]+$/

function quoteWord(word: string | Uint8Array): string {
  if (typeof word !== "string") return quoteBytes(word)
  if (word.includes("\0")) throw new AlphaError("an argument has a NUL byte, which no program can be given", { code: EXIT.usage })
  // "a=b" as a first word would be an assignment, so = is not plain there; quotes never hurt.
  if (PLAIN.test(word) && !word.includes("=")) return word
  return `'${word.replaceAll("'", `'\\''`)}'`
}

function quoteBytes(bytes: Uint8Array): string {
  if (bytes.includes(0)) return quoteWord("\0")
  try {
    return quoteWord(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes))
  } catch (error) {
    if (error instanceof AlphaError) throw error
  }
  // $(…) drops line breaks at its end: only bytes above ASCII go through it.
  const parts: string[] = []
  for (let start = 0, end = 0; start < bytes.length; start = end) {
    const isHigh = bytes[start]! >= 0x80
    while (end < bytes.length && bytes[end]! >= 0x80 === isHigh) end++
    const part = bytes.subarray(start, end)
    const octal = () => Array.from(part, (byte) => `\\${byte.toString(8)}`).join("")
    parts.push(isHigh ? `"$(printf '${octal()}')"` : quoteWord(new TextDecoder().decode(part)))
  }
  return parts.join("")
}

/** One word for the login shell of a machine, whether that is a POSIX shell or fish: fish reads a backslash within single quotes. */
function quoteForLogin(text: string): string {
  return `'${text.replaceAll(/'|\\+/g, (found) => (found === "'" ? `'"'"'` : `'"${found.replaceAll("\\", "\\\\")}"'`))}'`
}

/** A script of our own: stops at the first failure, and its messages are English. Lines may be undefined where they do not apply. */
export function script(...lines: readonly (string | undefined)[]): string {
  return ["set -eu", "LC_ALL=C; export LC_ALL", ...lines.filter((line) => line !== undefined)].join("\n")
}

/** The line that goes to the deploy directory, or to a directory in it. */
export function enter({ deployDir }: FleetHost): string {
  return `cd -- ${quote([deployPath(deployDir)])}`
}

/** The same where it may not be there yet: then the home stays. */
export function enterIfThere({ deployDir }: FleetHost): string {
  const path = quote([deployPath(deployDir)])
  return `[ ! -d ${path} ] || cd -- ${path}`
}

/** As `cd` and `mkdir` take it: neither an option nor looked up in CDPATH. */
export function deployPath(deployDir: string): string {
  return deployDir.startsWith("/") ? deployDir : `./${deployDir}`
}

/**
 * The line that becomes `alpha ARGUMENTS` of the current release, in the deploy directory; a library compiled on the machine is used where
 * the release has one. The process is the shell's own (exec), so signals and exit codes are alpha's.
 */
export function alphaOnHost(host: FleetHost, argv: readonly (string | Uint8Array)[]): string {
  return [
    enter(host),
    '[ -L current ] || { echo "nothing is deployed in $PWD" >&2; exit 69; }',
    'release=$(dirname -- "$(readlink current)")',
    'if [ -f "$release/libalpha.so" ]; then ALPHA_NATIVE_LIBRARY=$PWD/$release/libalpha.so; export ALPHA_NATIVE_LIBRARY; fi',
    `exec ./current ${quote(argv)}`,
  ].join("\n")
}

/** What a machine prints last on standard error when the script itself ended with 255, which ssh uses for failures of its own. */
export const EXIT_255 = "alpha: the command ended with 255"

/** Longest command that every ssh server takes (dropbear: 9000 bytes); a longer script goes over standard input. */
const COMMAND_BYTES = 8000

export interface RemoteCommand {
  /** The one argument after the host name. */
  readonly command: string
  /** What standard input must begin with. */
  readonly preamble: Uint8Array
}

/** The command that runs a script which comes over standard input, after a line with its length: the connection is made meanwhile. */
export const LATER = `exec sh -c 'read -r n && eval "$(dd bs=1 count="$n" 2>/dev/null)"'`

/** What standard input must begin with for LATER. */
export function laterPreamble(text: string): Uint8Array {
  const script = new TextEncoder().encode(wrapped(text))
  return new Uint8Array(Buffer.concat([Buffer.from(`${script.length}\n`), script]))
}

/** A script in a shell of its own that says when the exit code 255 is the script's. */
const wrapped = (text: string) => `(\n${text}\n)\nc=$?\n[ $c = 255 ] && echo '${EXIT_255}' >&2\nexit $c`

/** The command that runs `text` by sh whatever the login shell is, and tells its exit code 255 from a failure of the connection. */
export function remoteCommand(text: string): RemoteCommand {
  const script = wrapped(text)
  const command = `exec sh -c ${quoteForLogin(script)}`
  if (Buffer.byteLength(command) <= COMMAND_BYTES) return { command, preamble: new Uint8Array() }
  const preamble = new TextEncoder().encode(script)
  // dd with 1-byte blocks reads not one byte more than the script, whatever sh and coreutils these are.
  return { command: `exec sh -c 'eval "$(dd bs=1 count=${preamble.length} 2>/dev/null)"'`, preamble }
}

/** The name under which the host key is pinned, wherever the machine's address moves. */
export function hostKeyAlias({ name }: FleetHost): string {
  return name.replaceAll(/[^A-Za-z0-9._-]/g, "_")
}

export interface SshOptions {
  /** A terminal on the machine. */
  readonly tty?: boolean
  /** Speaks to the open connection instead of making one: "check" whether it is there, "exit" it. */
  readonly control?: "check" | "exit"
  /** Program that is handed the key of the machine; it prints nothing, so that the connection ends there. */
  readonly keyCommand?: string
  /** Standard input and output become a connection from the machine to this address: it is the machine in between. */
  readonly forward?: string
}

/** The words of the ssh command. Options stand first and explicitly: ssh takes the first value it meets, so no file can change them. */
export function sshArgv(host: FleetHost, command: string | undefined, options: SshOptions = {}): string[] {
  const { tty, control, keyCommand, forward } = options
  const settings: Record<string, string | number | undefined> = {
    BatchMode: "yes",
    IdentitiesOnly: "yes",
    ConnectTimeout: host.connectTimeout,
    ServerAliveInterval: 10,
    ServerAliveCountMax: 3,
    StrictHostKeyChecking: "yes",
    UserKnownHostsFile: optionPath(keyCommand === undefined ? host.knownHosts : "/dev/null"),
    GlobalKnownHostsFile: "/dev/null",
    KnownHostsCommand: keyCommand ?? "none",
    HostKeyAlias: hostKeyAlias(host),
    CheckHostIP: "no",
    UpdateHostKeys: "no",
    VerifyHostKeyDNS: "no",
    ForwardAgent: "no",
    ForwardX11: "no",
    PermitLocalCommand: "no",
    ...(forward === undefined ? { ClearAllForwardings: "yes" } : {}),
    ControlMaster: keyCommand === undefined ? "auto" : "no",
    ControlPath: keyCommand === undefined ? optionPath(host.controlPath) : "none",
    ControlPersist: 60,
    EscapeChar: "none",
    LogLevel: "ERROR",
    User: host.user,
    Port: host.port,
    IdentityFile: host.key === undefined ? undefined : optionPath(host.key),
    ProxyCommand: host.via && proxyCommand(host.via),
  }
  const words = Object.entries(settings).flatMap(([name, value]) => (value === undefined ? [] : ["-o", `${name}=${value}`]))
  const mode = control !== undefined ? ["-O", control] : forward !== undefined ? ["-W", forward] : tty ? ["-tt"] : ["-T"]
  return ["ssh", ...words, ...mode, "--", host.host ?? host.name, ...(command === undefined ? [] : [command])]
}

/** The machine in between is reached by an ssh of our own, under the same checks; ssh -J would leave them to the user's files. */
function proxyCommand(via: FleetHost): string {
  const words = sshArgv(via, undefined, { forward: "@" }).map((word) => (word === "@" ? "[%h]:%p" : word.replaceAll("%", "%%")))
  return `${words.map((word) => (word === "[%h]:%p" ? `'${word}'` : quote([word]))).join(" ")}`
}

/** A path as ssh's options take it: quoted for spaces, % doubled. `fleet-config` refuses what cannot be written so. */
function optionPath(path: string): string {
  const escaped = path.replaceAll("%", "%%")
  if (/["\\\n]|\$\{/.test(escaped)) throw new AlphaError(`${path}: ssh takes no path with quotes, backslashes or \${`, { code: EXIT.usage })
  return /\s/.test(escaped) ? `"${escaped}"` : escaped
}
