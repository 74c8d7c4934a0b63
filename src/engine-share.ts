/** Jobs that share the device with requests: requests come first, a job goes on when none runs, or after it has waited its share. */

/** A job that waited has at least this part of the time, so that a server that is never idle cannot keep it from ending. */
const JOB_SHARE = 0.2
/** Longest wait for requests between two pieces of a job, in ms. */
const LONGEST_MS = 10_000

const immediate = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve))

export class Sharing {
  readonly #servers = new Set<() => boolean>()
  #resumed = 0

  constructor(private readonly clock: () => number = () => performance.now()) {}

  /** A server that answers beside jobs; `isBusy`: it has requests to work on. Returns its end. */
  join(isBusy: () => boolean): () => void {
    if (this.#servers.size === 0) this.#resumed = this.clock()
    this.#servers.add(isBusy)
    return () => this.#servers.delete(isBusy)
  }

  /** Awaited by a job between two pieces of its work: lets messages in, then requests. Undefined where nobody serves. */
  pause = (): Promise<boolean> | undefined => (this.#servers.size === 0 ? undefined : this.#wait())

  /** Whether there were requests. */
  async #wait(): Promise<boolean> {
    const began = this.clock()
    const until = began + Math.min(LONGEST_MS, ((began - this.#resumed) * (1 - JOB_SHARE)) / JOB_SHARE)
    await Bun.sleep(0)
    await immediate()
    let waited = false
    while ([...this.#servers].some((isBusy) => isBusy())) {
      waited = true
      if (this.clock() >= until) break
      await immediate()
    }
    this.#resumed = this.clock()
    return waited
  }
}
