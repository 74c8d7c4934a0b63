/** GET /api/training/live: new rows and states of runs as server-sent events, from where a listener was cut off. */
import { JOURNALS, type Journal, type RunState, type RunStore, type RunUpdate } from "./db.ts"
import type { Call } from "./serve-context.ts"
import { ApiError } from "./serve-error.ts"
import { readPlaces } from "./serve-runs.ts"
import { eventStream } from "./serve-stream.ts"

/** Rows of all runs that are kept for listeners that come back. */
const KEPT = 20_000
/** How often states are looked at while somebody listens. */
const STATE_MS = 2000
/** A listener that is so far behind is cut off; it comes back with its last id. */
const MOST_WAITING = 50_000

interface Told {
  readonly number: number
  readonly text: string
}

/** What all listeners share: one subscription to the store while there is a listener, and what was told of late. */
class Hub {
  readonly #listeners = new Set<(told: Told) => void>()
  readonly #told: Told[] = []
  /** Another process counts anew: its numbers say nothing here. */
  readonly epoch = crypto.randomUUID().slice(0, 8)
  #next = 0
  #end: (() => void) | undefined
  #states: ReturnType<typeof setInterval> | undefined
  readonly #known = new Map<string, RunState>()

  constructor(private readonly store: RunStore) {}

  /** What came after `id`, undefined where that is not known any more; then every news. */
  listen(id: string | undefined, listener: (told: Told) => void): { missed: readonly Told[] | undefined; end: () => void } {
    const [epoch, number] = (id ?? "").split(":")
    const from = Number(number) + 1
    const first = this.#told[0]?.number ?? this.#next
    const missed =
      id === undefined ? [] : epoch !== this.epoch || !(from >= first) ? undefined : this.#told.filter((one) => one.number >= from)
    this.#listeners.add(listener)
    this.#end ??= this.store.subscribe(undefined, undefined, (update) => this.#tell(nameOf(update), update))
    if (this.#states === undefined) {
      void this.#look()
      this.#states = setInterval(() => void this.#look(), STATE_MS)
    }
    const end = () => {
      this.#listeners.delete(listener)
      if (this.#listeners.size > 0) return
      clearInterval(this.#states)
      this.#states = undefined
    }
    return { missed, end }
  }

  #tell(name: string, value: unknown): void {
    const number = this.#next++
    const told = { number, text: sse(name, `${this.epoch}:${number}`, value) }
    this.#told.push(told)
    if (this.#told.length > KEPT * 2) this.#told.splice(0, KEPT)
    for (const listener of [...this.#listeners]) listener(told)
  }

  async #look(): Promise<void> {
    const runs = await this.store.runs().catch(() => [])
    for (const run of runs) {
      const before = this.#known.get(run.id)
      this.#known.set(run.id, run.state)
      if (before !== undefined && before !== run.state) this.#tell("state", { run: run.id, state: run.state, summary: run })
    }
  }
}

const hubs = new WeakMap<RunStore, Hub>()

const sse = (name: string, id: string, value: unknown): string => `event: ${name}\nid: ${id}\ndata: ${JSON.stringify(value)}\n\n`

const nameOf = ({ row }: RunUpdate): string => (["step", "eval", "sample"].includes(row.type) ? row.type : "event")

/** ?run=ID: one run, from the rows that Last-Event-ID (or ?after=) names; else all runs, from now on or from Last-Event-ID. */
export async function live(call: Call): Promise<Response> {
  const { http, context } = call
  const last = http.req.header("last-event-id") ?? http.req.query("after")
  const run = http.req.query("run")
  const queue = new Queue()
  let end: () => void
  if (run === undefined) {
    const hub = hubs.get(context.runs) ?? new Hub(context.runs)
    hubs.set(context.runs, hub)
    const { missed, end: stop } = hub.listen(last, ({ text }) => queue.push(text))
    // What was missed is not known any more: the page reads its curves again.
    queue.first(missed === undefined ? [sse("reset", `${hub.epoch}:-1`, {})] : missed.map(({ text }) => text))
    end = stop
  } else {
    const found = await context.runs.run(run)
    if (found === undefined) throw new ApiError(404, `${run.slice(0, 100)}: no such run`, { code: "run_not_found" })
    const places: Partial<Record<Journal, number>> = last === undefined ? {} : readPlaces(last)
    end = context.runs.subscribe(found.id, last === undefined ? undefined : places, (update) => {
      places[update.kind] = update.row.seq
      const id = JOURNALS.flatMap((journal) => (places[journal] === undefined ? [] : [`${journal}:${places[journal]}`])).join(",")
      queue.push(sse(nameOf(update), id, update))
    })
  }
  const stop = () => {
    end()
    queue.close()
    context.listening.delete(stop)
  }
  context.listening.add(stop)
  return eventStream(queue.read(), { onGone: stop })
}

/** Texts on their way to one listener. */
class Queue {
  #waiting: string[] = []
  #wake = () => {}
  #isOpen = true

  push(text: string): void {
    if (this.#waiting.length >= MOST_WAITING) this.#isOpen = false
    if (this.#isOpen) this.#waiting.push(text)
    this.#wake()
  }

  /** Before what came meanwhile. */
  first(texts: readonly string[]): void {
    this.#waiting = [...texts, ...this.#waiting]
  }

  close(): void {
    this.#isOpen = false
    this.#wake()
  }

  async *read(): AsyncGenerator<string> {
    yield "retry: 1000\n\n"
    for (;;) {
      while (this.#waiting.length > 0) yield this.#waiting.splice(0).join("")
      if (!this.#isOpen) return
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}
