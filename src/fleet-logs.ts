/** The log of a job on a machine, byte for byte. */
import type { FleetHost } from "./fleet-config.ts"
import { stream } from "./fleet-stream.ts"

export interface LogOptions {
  readonly run: string | undefined
  /** Lines from the end to begin with. */
  readonly lines: number
  /** First byte instead. */
  readonly from?: number | undefined
  /** Goes on until the job ends. */
  readonly follow: boolean
  readonly take: (bytes: Uint8Array) => void | Promise<void>
  readonly note: (text: string) => void
  /** A connection that brings nothing for so long is dead. */
  readonly silenceMs?: number | undefined
  readonly signal?: AbortSignal | undefined
}

/** Words that send the log from byte `at` on. */
export function logWords(
  { run, lines, follow }: Pick<LogOptions, "run" | "lines" | "follow">,
  at: number | undefined,
  id: string | undefined,
): string[] {
  const place = at === undefined ? `--lines=${lines}` : `--from=${at}`
  return [
    "host",
    "logs",
    ...(run === undefined ? [] : [`--run=${run}`]),
    place,
    ...(id === undefined ? [] : [`--log=${id}`]),
    ...(follow ? ["--follow"] : []),
  ]
}

/** Takes the log's bytes; with `follow` for as long as the job lives. Returns its state, or undefined when it was given up. */
export const readLog = (host: FleetHost, options: LogOptions): Promise<string | undefined> =>
  stream(host, {
    request: (at, id) => ({ words: logWords(options, at, id) }),
    from: options.from,
    take: options.take,
    // A laptop may sleep for a night: whoever follows waits.
    patience: options.follow ? Number.POSITIVE_INFINITY : 5,
    note: options.note,
    silenceMs: options.silenceMs,
    signal: options.signal,
  })
