/** The word of a run that is trained elsewhere: its heartbeat and how it ended, in state.json beside its journals. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { writeAtomic } from "./base-file.ts"
import { RUN_STATES, type RunState } from "./db-types.ts"

export interface Beat {
  /** What the trainer says of itself: it runs, or how it ended. */
  readonly state: Exclude<RunState, "stalled">
  /** When it was heard last, by this machine's clock; ms since 1970. */
  readonly time: number
  readonly host: string
  readonly pid: number
  /** Why it ended. */
  readonly message?: string
}

/** Four heartbeats. */
const SILENT_MS = 60_000

export const writeBeat = (directory: string, beat: Beat): void => writeAtomic(join(directory, "state.json"), `${JSON.stringify(beat)}\n`)

/** The last beat; undefined where there is none that can be read. */
export function readBeat(directory: string): Beat | undefined {
  try {
    const beat = JSON.parse(readFileSync(join(directory, "state.json"), "utf8")) as Beat
    return RUN_STATES.includes(beat.state) && typeof beat.time === "number" ? beat : undefined
  } catch {
    return undefined
  }
}

/** Whether the trainer lives; undefined after a silence, which may be the network's. */
export const beats = ({ time }: Beat, now: number): true | undefined => (now - time <= SILENT_MS ? true : undefined)
