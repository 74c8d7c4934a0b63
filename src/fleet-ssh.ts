/** The system's ssh, the only effect of the fleet on other machines. */
import { chmodSync, existsSync, lstatSync, mkdirSync } from "node:fs"
import { dirname } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { EXIT_255, LATER, laterPreamble, remoteCommand, type SshOptions, sshArgv } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"

export interface Answer {
  /** Exit code of the script; 255 where the machine was not reached. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
  /** Why the machine was not reached, or the connection broke; undefined when the script itself ended. */
  readonly unreachable: string | undefined
}

export interface RemoteOptions {
  /** A text, bytes or a stream to send; nothing by default. */
  readonly stdin?: string | Uint8Array | ReadableStream<Uint8Array>
  /** An open file to send from its position on: ssh reads it itself. The script must be short. */
  readonly stdinFile?: number
  /** The program's own standard input is sent. */
  readonly inheritStdin?: boolean
  /** Receives standard output as it comes; `stdout` of the answer is then empty. */
  readonly onStdout?: (bytes: Uint8Array) => void | Promise<void>
  /** Receives standard error as it comes, without the note about exit code 255; the answer has it too. */
  readonly onStderr?: (text: string) => void
  /** Ends ssh; the script on the machine gets a hangup when it next writes. */
  readonly signal?: AbortSignal | undefined
}

/** Runs `text` by sh on the machine. */
export async function remote(host: FleetHost, text: string, options: RemoteOptions = {}): Promise<Answer> {
  const { command, preamble } = remoteCommand(text)
  const { inheritStdin = false, ...rest } = options
  if (preamble.length > 0 && rest.stdinFile !== undefined) throw new Error("a script that goes with a file must be short")
  if (preamble.length === 0) return await spawn(sshArgv(host, command), rest, host, inheritStdin ? "inherit" : "ignore")
  return await spawn(sshArgv(host, command), { ...rest, stdin: prefixed(preamble, inheritStdin ? Bun.stdin.stream() : rest.stdin) }, host)
}

/** The same for a script that is still being made while the connection is: `text` and `stdin` go over standard input when they are there. */
export async function remoteLater(
  host: FleetHost,
  text: Promise<string>,
  options: Pick<RemoteOptions, "signal"> & { stdin?: Uint8Array } = {},
): Promise<Answer> {
  const { stdin = new Uint8Array(), signal } = options
  const failed = new AbortController()
  text.catch(() => failed.abort())
  const stream = new ReadableStream<Uint8Array>({
    async start(controller) {
      controller.enqueue(prefixed(laterPreamble(await text), stdin) as Uint8Array)
      controller.close()
    },
  })
  const answer = await spawn(
    sshArgv(host, LATER),
    { stdin: stream, signal: signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]) },
    host,
  )
  await text // its own error, where it has one
  return answer
}

/** Closes the connection to the machine, if one is open. */
export async function closeConnection(host: FleetHost): Promise<void> {
  if (!existsSync(host.controlPath)) return
  await spawn(sshArgv(host, undefined, { control: "exit" }), {}, host)
}

/** ssh with this terminal as its own; returns its exit code, and why the machine was not reached. */
export async function interactive(host: FleetHost, text: string | undefined): Promise<Pick<Answer, "code" | "unreachable">> {
  prepare(host)
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true
  const command = text === undefined ? undefined : remoteCommand(text).command
  const child = launch(sshArgv(host, command, { tty: isTerminal }), { stdio: ["inherit", "inherit", "pipe"] })
  const stderr = await pass(child.stderr as ReadableStream<Uint8Array>, (chunk) => process.stderr.write(chunk))
  return verdict(host, await child.exited, stderr)
}

/** Starts ssh with options of its own, for `fleet-trust`. */
export async function probe(host: FleetHost, options: SshOptions): Promise<Answer> {
  return await spawn(sshArgv(host, "exit", options), {}, host)
}

async function spawn(
  argv: readonly string[],
  options: RemoteOptions,
  host: FleetHost,
  none: "inherit" | "ignore" = "ignore",
): Promise<Answer> {
  prepare(host)
  const { stdin, stdinFile, onStdout, onStderr, signal } = options
  const input = stdinFile ?? (typeof stdin === "string" ? new TextEncoder().encode(stdin) : (stdin ?? none))
  const child = launch(argv, { stdio: [input, "pipe", "pipe"], signal })
  const [stdout, stderr, code] = await Promise.all([
    onStdout === undefined
      ? new Response(child.stdout as ReadableStream).text()
      : drain(child.stdout as ReadableStream<Uint8Array>, onStdout),
    pass(child.stderr as ReadableStream<Uint8Array>, onStderr),
    child.exited,
  ])
  return { stdout, ...verdict(host, code, stderr) }
}

function launch(argv: readonly string[], options: { stdio: [unknown, unknown, unknown]; signal?: AbortSignal | undefined }) {
  try {
    return Bun.spawn(argv as string[], options as Parameters<typeof Bun.spawn>[1] & object)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
    throw new AlphaError("no ssh program on this machine", { hint: "apt-get install openssh-client", code: EXIT.failure, cause })
  }
}

async function drain(stream: ReadableStream<Uint8Array>, take: (bytes: Uint8Array) => void | Promise<void>): Promise<string> {
  for await (const bytes of stream) await take(bytes)
  return ""
}

/** Collects standard error and shows it, except for the note about exit code 255. */
async function pass(stream: ReadableStream<Uint8Array>, show: ((text: string) => void) | undefined): Promise<string> {
  const decoder = new TextDecoder()
  let all = ""
  let held = ""
  const note = `${EXIT_255}\n`
  for await (const bytes of stream) {
    const chunk = decoder.decode(bytes, { stream: true })
    all += chunk
    if (show === undefined) continue
    held = (held + chunk).replace(note, "")
    // What may be the beginning of the note waits for the rest of it.
    const start = Array.from({ length: Math.min(note.length - 1, held.length) }, (_, i) => held.length - 1 - i).findLast((at) =>
      note.startsWith(held.slice(at)),
    )
    if (start !== 0) show(held.slice(0, start))
    held = start === undefined ? "" : held.slice(start)
  }
  if (held !== "") show?.(held)
  return all
}

/** What ssh's exit code and messages mean. */
function verdict(host: FleetHost, code: number, stderr: string): Omit<Answer, "stdout"> {
  const note = `${EXIT_255}\n`
  if (code !== 255) return { code, stderr, unreachable: undefined }
  if (stderr.includes(note)) return { code, stderr: stderr.replace(note, ""), unreachable: undefined }
  return { code, stderr, unreachable: reason(host, stderr) }
}

/** In words, with the next step, why ssh gave up. */
function reason(host: FleetHost, stderr: string): string {
  const place = `${host.host ?? host.name}${host.port === undefined ? "" : `:${host.port}`}`
  const last = stderr.trim().split("\n").at(-1)?.replace(/\r$/, "") ?? ""
  if (/REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed/i.test(stderr)) {
    return `the host key of ${place} is not the pinned one: another machine answers, or it was installed anew. If you know why: alpha fleet trust ${host.name} --replace`
  }
  if (/host key is known for|Host key verification failed/i.test(stderr))
    return `no host key is pinned for ${host.name}: alpha fleet trust ${host.name}`
  if (/Permission denied/.test(stderr)) return `${place} refuses the login (${last}): check user and key`
  if (/Could not resolve hostname/i.test(stderr)) return `${place}: the name is not known (${last})`
  return `${place} cannot be reached${last === "" ? "" : ` (${last})`}`
}

/** The folder of the sockets must be the user's alone: who can write there could offer a connection of his own. */
function prepare({ controlPath }: FleetHost): void {
  const folder = dirname(controlPath)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const { uid, mode } = lstatSync(folder)
  if (uid !== process.getuid?.())
    throw new AlphaError(`${folder} belongs to another user`, { hint: "set XDG_RUNTIME_DIR or TMPDIR to a directory of yours" })
  if ((mode & 0o077) !== 0) chmodSync(folder, 0o700)
}

/** `head`, then what else goes to standard input. */
function prefixed(head: Uint8Array, rest: RemoteOptions["stdin"]): Uint8Array | ReadableStream<Uint8Array> {
  if (!(rest instanceof ReadableStream))
    return new Uint8Array(Buffer.concat([head, typeof rest === "string" ? Buffer.from(rest) : (rest ?? new Uint8Array())]))
  return new ReadableStream({
    async start(controller) {
      controller.enqueue(head)
      for await (const bytes of rest) controller.enqueue(bytes)
      controller.close()
    },
  })
}
