/** Bytes of a file on a machine, read over connections that may break at any place. */
import { AlphaError } from "./base-error.ts"
import { alphaOnHost } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"
import { FrameReader } from "./fleet-frame.ts"
import { answerError } from "./fleet-job.ts"
import { HostError } from "./fleet-parallel.ts"
import { closeConnection, remote } from "./fleet-ssh.ts"

export interface StreamOptions {
  /** Words after `alpha` that send the file from byte `at` on, and what they read; before anything has come both are undefined. */
  readonly request: (at: number | undefined, id: string | undefined) => { readonly words: readonly string[]; readonly stdin?: string }
  /** First byte that is wanted, where that is known. */
  readonly from?: number | undefined
  readonly take: (bytes: Uint8Array) => void | Promise<void>
  /** Breaks in a row, without a byte between them, after which it gives up. */
  readonly patience: number
  /** Told when the connection breaks and is made again. */
  readonly note: (text: string) => void
  /** A connection that brings nothing for so long is dead: the machine sends a beat every 5 s. */
  readonly silenceMs?: number | undefined
  readonly signal?: AbortSignal | undefined
}

const SILENCE_MS = 20_000

/** Milliseconds before try `n` (from 0) to connect again, when nothing came since the last. */
const delayOf = (n: number): number => (n === 0 ? 0 : Math.min(30_000, 250 * 2 ** (n - 1)))

/**
 * Takes every byte once and in order, however often the connection breaks; returns the state that the machine ends with. Throws HostError
 * when the machine cannot be reached, AlphaError when it refuses.
 */
export async function stream(
  host: FleetHost,
  { request, from, take, patience, note, silenceMs = SILENCE_MS, signal }: StreamOptions,
): Promise<string | undefined> {
  let at = from
  let id: string | undefined
  let failures = 0
  /** The machine has answered before: what fails then may pass. */
  let isKnown = false
  for (;;) {
    let end: string | undefined
    let isNew = false
    const parts: Uint8Array[] = []
    const reader = new FrameReader((frame) => {
      isKnown = true
      if (frame.kind === "file") id = frame.id
      else if (frame.kind === "end") end = frame.state
      else if (frame.kind === "data") {
        at ??= frame.offset
        if (frame.offset !== at) throw new AlphaError(`${host.name} sent byte ${frame.offset} where ${at} follows`)
        at += frame.bytes.length
        parts.push(frame.bytes)
        isNew = true
      }
    })
    const { words, stdin = "" } = request(at, id)
    const silence = new AbortController()
    // What the connections of a machine share is dead too; an ssh that is ended while it waits for that would wait on.
    const hangUp = () => void closeConnection(host).finally(() => silence.abort())
    let timer = setTimeout(hangUp, host.connectTimeout * 1000 + silenceMs)
    const answer = await remote(host, alphaOnHost(host, words), {
      stdin,
      onStdout: async (bytes) => {
        clearTimeout(timer)
        reader.push(bytes)
        for (const part of parts.splice(0)) await take(part)
        timer = setTimeout(hangUp, silenceMs)
      },
      signal: AbortSignal.any([silence.signal, ...(signal === undefined ? [] : [signal])]),
    })
    clearTimeout(timer)
    if (end !== undefined) return end
    if (signal?.aborted) return undefined
    const error = answerError(answer)
    const isLasting =
      !isKnown || !(error instanceof HostError) || error.state !== "unreachable" || /host key|refuses the login/.test(error.message)
    if (error !== undefined && isLasting) throw error
    failures = isNew ? 0 : failures + 1
    if (failures > patience) throw error ?? new HostError("unreachable", `${host.name}: the connection broke ${failures} times in a row`)
    const delay = delayOf(failures)
    note(`connection lost${at === undefined ? "" : ` after byte ${at}`}; it is made again${delay === 0 ? "" : ` in ${delay / 1000} s`}`)
    await pause(delay, signal)
    if (signal?.aborted) return undefined
  }
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal?.addEventListener("abort", () => {
      clearTimeout(timer)
      resolve()
    })
  })
}
