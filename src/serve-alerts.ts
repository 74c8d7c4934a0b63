/** Alerts as the server sees them: runs that fall silent or vanish, a full disk, and what trainers without a webhook of their own tell. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import type { Log } from "./base-log.ts"
import { type JournalRow, JournalWriter, type RunState, type RunStore, type RunSummary, type RunUpdate, readJournal } from "./db.ts"
import { Alerts, freeBytes, isFull, type StepRow, type Webhook } from "./train.ts"

/** How often states and the disk are looked at. */
const LOOK_MS = 3000
/** What happened longer ago is no news when the server starts. */
const NEWS_MS = 3_600_000

/** What is known of a run's directory beside its rows. */
export interface LocalRun {
  readonly directory: string
  /** Whether its process lives; undefined where that cannot be seen. */
  readonly alive: boolean | undefined
  /** Its trainer itself told the server how it ended. */
  readonly hasSaid: boolean
}

export interface AlertOptions {
  readonly runs: RunStore
  /** Runs of this machine's directories alone are watched: others have a server of their own. */
  readonly local: (id: string) => LocalRun | undefined
  readonly runsDir: string
  readonly webhook: Webhook | undefined
  readonly log: Log
  readonly announce: (update: RunUpdate) => void
  readonly lookMs?: number
  readonly free?: () => number | undefined
}

/** What one process of a trainer does itself: it has a webhook; it writes alerts alone; undefined: a version that says neither. */
type Own = boolean | undefined

interface Watched {
  state: RunState | undefined
  own: Own
  /** Rules over the rows of a trainer that has none. */
  rules: Alerts | undefined
  /** Its trainer told of the disk. */
  disk: boolean
}

const ALERTS = "alerts.jsonl"

/** Alerts that a server wrote beside a run. */
export const serverAlerts = (directory: string): JournalRow[] =>
  existsSync(join(directory, ALERTS)) ? readJournal(join(directory, ALERTS)) : []

export class AlertWatch {
  readonly #watched = new Map<string, Watched>()
  readonly #locals = new Map<string, boolean>()
  readonly #names = new Map<string, string>()
  readonly #end: () => void
  readonly #timer: ReturnType<typeof setInterval>
  #looking: Promise<void> = Promise.resolve()
  #isDiskFull = false

  constructor(private readonly options: AlertOptions) {
    this.#end = options.runs.subscribe(undefined, undefined, (update) => this.#hear(update))
    this.look()
    this.#timer = setInterval(() => this.look(), options.lookMs ?? LOOK_MS)
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#end()
    await this.#looking
    await this.options.webhook?.flush()
  }

  /** Looks at all states once. */
  look(): void {
    this.#looking = this.#looking
      .then(() => this.#look())
      .catch((error: Error) => this.options.log("warn", "alerts", { error: error.message }))
  }

  #of(run: string): Watched {
    const watched = this.#watched.get(run) ?? { state: undefined, own: undefined, rules: undefined, disk: false }
    this.#watched.set(run, watched)
    return watched
  }

  #hear({ run, kind, row }: RunUpdate): void {
    if (row.by === "server" || !this.#isLocal(run)) return
    const watched = this.#of(run)
    if (kind === "events" && row.type === "start") this.#started(watched, row)
    if (kind === "events" && row.type === "alert") {
      watched.disk ||= row.rule === "disk"
      this.#post(run, watched, String(row.rule), String(row.message))
    }
    if (kind === "events" && row.type === "crash") this.#post(run, watched, "crash", String(row.message))
    if (kind === "metrics" && row.type === "step")
      for (const { rule, step, message } of watched.rules?.of(row as unknown as StepRow) ?? []) this.#tell(run, rule, step, message)
  }

  #started(watched: Watched, row: JournalRow): void {
    watched.own = typeof row.webhook === "boolean" ? row.webhook : undefined
    watched.rules = watched.own === undefined ? new Alerts(() => undefined) : undefined
    watched.disk = false
  }

  /** Tells what a trainer wrote, unless it does so itself. */
  #post(run: string, { own }: Watched, rule: string, message: string): void {
    if (own !== true) this.options.webhook?.post(this.#names.get(run) ?? run, rule, message)
  }

  /** Looked up once between two looks. */
  #isLocal(run: string): boolean {
    const is = this.#locals.get(run) ?? this.options.local(run) !== undefined
    this.#locals.set(run, is)
    return is
  }

  async #look(): Promise<void> {
    this.#locals.clear()
    for (const run of await this.options.runs.runs()) {
      this.#names.set(run.id, run.name)
      if (!this.#isLocal(run.id)) continue
      const watched = this.#of(run.id)
      const before = watched.state
      watched.state = run.state
      if (before === undefined) {
        const events = await this.options.runs.events(run.id)
        const at = events.findLastIndex(({ type }) => type === "start")
        if (at >= 0 && watched.rules === undefined) this.#started(watched, events[at]!)
        watched.disk ||= events.slice(at + 1).some(({ type, rule }) => type === "alert" && rule === "disk")
        if (Date.now() - run.updatedAt > NEWS_MS) continue
      }
      if (run.state === before || !["stalled", "crashed"].includes(run.state)) continue
      if (run.state === "stalled") this.#stalled(run, watched)
      else await this.#crashed(run, watched)
    }
    this.#lookAtDisk()
  }

  #stalled(run: RunSummary, { own }: Watched): void {
    // A trainer that lives and has a webhook tells it itself.
    if (own === true && this.options.local(run.id)?.alive === true) return
    this.#tell(run.id, "stall", run.step, `nothing new since ${new Date(run.updatedAt).toISOString()}`, run.updatedAt)
  }

  async #crashed(run: RunSummary, { own }: Watched): Promise<void> {
    const last = (await this.options.runs.events(run.id)).findLast(({ type }) => ["start", "crash"].includes(type))
    // Its last word is told as it comes.
    if (last?.type === "crash" || (own === true && this.options.local(run.id)?.hasSaid)) return
    this.#tell(run.id, "crash", run.step, "its process is gone without a last word", run.updatedAt)
  }

  /** One event for an incident: where one was written after `since`, that is it. */
  #tell(run: string, rule: string, step: number, message: string, since?: number): void {
    const { local, announce, webhook, log } = this.options
    const directory = local(run)?.directory
    if (directory === undefined) return
    if (since !== undefined && serverAlerts(directory).some((row) => row.rule === rule && row.time > since)) return
    let row: JournalRow = { seq: -1, time: Date.now(), type: "alert", step, rule, message, by: "server" }
    try {
      const writer = new JournalWriter(join(directory, ALERTS))
      row = writer.append({ type: "alert", step, rule, message, by: "server" })
      writer.close()
    } catch (error) {
      log("warn", "alerts", { error: (error as Error).message })
    }
    log("warn", "alert", { run: this.#names.get(run) ?? run, rule, message })
    announce({ run, kind: "events", row: { ...row, seq: -1 } })
    webhook?.post(this.#names.get(run) ?? run, rule, message)
  }

  #lookAtDisk(): void {
    const { free = () => freeBytes(this.options.runsDir), webhook, log } = this.options
    const left = free()
    const wasFull = this.#isDiskFull
    this.#isDiskFull = left !== undefined && isFull(left)
    if (!this.#isDiskFull || wasFull) return
    // A run that is trained here told it.
    if ([...this.#watched.values()].some(({ state, disk }) => disk && state === "running")) return
    const message = `${Math.round((left ?? 0) / 2 ** 20)} MiB are left on the disk of the runs`
    log("warn", "alert", { rule: "disk", message })
    webhook?.post(null, "disk", message)
  }
}
