/** Stopping from outside: the flag, and how slow work that keeps nothing ends. */
import { AlphaError, EXIT } from "./base-error.ts"

/** Set from outside, by another thread, to end a job at its next safe point. */
export interface StopFlag {
  readonly stopped: boolean
}

/** Lets others have the device; whether they needed it. Undefined where there are none. */
export type Pause = () => Promise<boolean> | undefined

/** Work was asked to stop before there was anything to keep. No failure: the exit code is 0. */
export class Stopped extends AlphaError {
  /** `byAll`: every rank of the run ends at this very point. */
  constructor(
    why = "stopped before the first step",
    readonly byAll = false,
  ) {
    super(why, { code: EXIT.ok })
  }
}

/** Throws Stopped once the flag is set; slow work calls it where it tells its progress. */
export function stopIfAsked(flag: StopFlag): void {
  if (flag.stopped) throw new Stopped()
}
