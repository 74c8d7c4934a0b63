/** Alerts of a run: rules over its rows, and one event per incident. */
import { statfsSync } from "node:fs"
import { type AlertEvent, median, type TrainEvent } from "./train-metrics.ts"

/** Logged steps that say what is usual. */
const WINDOW = 50
const LEAST = 10
/** A loss so far above the median, in nats and in medians of the distances from it, is a spike. */
const SPIKE_NATS = 0.5
const SPIKE_SPREADS = 8
/** Tokens/s below this share of the median is slow, for this many logged steps in a row and this long: short steps are disturbed by anything. */
const SLOW_SHARE = 0.5
const SLOW_ROWS = 5
const SLOW_MS = 10_000
/** Less than this is too little for the checkpoints to come. */
const DISK_BYTES = 2 ** 30
const DISK_LOOK_MS = 30_000

/** Whether so many bytes are too few. */
export const isFull = (free: number): boolean => free < DISK_BYTES

/** What a disk has left, bytes; undefined where that is not told. */
export function freeBytes(directory: string): number | undefined {
  try {
    const { bavail, bsize } = statfsSync(directory)
    return bavail * bsize
  } catch {
    return undefined
  }
}

export class Alerts {
  readonly #losses: number[] = []
  readonly #speeds: number[] = []
  readonly #open = new Set<AlertEvent["rule"]>()
  #slowRows = 0
  #slowSince = 0
  #lookedAt = Number.NEGATIVE_INFINITY

  constructor(
    private readonly free: () => number | undefined,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** The incidents that begin with this event. */
  of(event: TrainEvent): AlertEvent[] {
    if (event.type !== "step") return []
    const { step, loss, tokens_per_s: speed } = event
    const told: AlertEvent[] = []
    const judge = (rule: AlertEvent["rule"], isBad: boolean, message: () => string) => {
      if (isBad && !this.#open.has(rule)) told.push({ type: "alert", step, rule, message: `step ${step}: ${message()}` })
      if (isBad) this.#open.add(rule)
      else this.#open.delete(rule)
    }
    judge("nan", !Number.isFinite(loss), () => `the loss is ${loss}`)
    if (Number.isFinite(loss)) {
      const usual = median(this.#losses)
      const spread = median(this.#losses.map((one) => Math.abs(one - usual)))
      const isSpike = this.#losses.length >= LEAST && loss > usual + Math.max(SPIKE_NATS, SPIKE_SPREADS * spread)
      judge("spike", isSpike, () => `loss ${loss.toFixed(3)}, where ${usual.toFixed(3)} is usual`)
      keep(this.#losses, loss)
    }
    const now = this.now()
    const usual = median(this.#speeds)
    if (this.#slowRows === 0) this.#slowSince = now
    this.#slowRows = this.#speeds.length >= LEAST && speed < SLOW_SHARE * usual ? this.#slowRows + 1 : 0
    const isSlow = this.#slowRows >= SLOW_ROWS && now - this.#slowSince >= SLOW_MS
    judge("slow", isSlow, () => `${Math.round(speed)} tokens/s, where ${Math.round(usual)} are usual`)
    if (this.#slowRows === 0) keep(this.#speeds, speed)
    if (now - this.#lookedAt >= DISK_LOOK_MS) {
      this.#lookedAt = now
      const free = this.free()
      judge("disk", free !== undefined && isFull(free), () => `${Math.round((free ?? 0) / 2 ** 20)} MiB are left on the disk of the run`)
    }
    return told
  }
}

function keep(values: number[], value: number): void {
  values.push(value)
  if (values.length > WINDOW) values.shift()
}
