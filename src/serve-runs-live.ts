/** GET /api/training/live: new rows and states of runs as server-sent events, from where a listener was cut off. */
import { JOURNALS, type Journal, type JournalRow, type RunState, type RunStore, type RunUpdate } from "./db.ts"
import type { Call } from "./serve-context.ts"
import { ApiError } from "./serve-error.ts"
import { eventStream } from "./serve-stream.ts"

/** Rows of all runs that are kept for listeners that come back. */
const KEPT = 20_000
/** How often states are looked at while somebody listens. */
const STATE_MS = 2000
/** A listener that is so many letters behind is cut off; it comes back with its last id. */
const MOST_WAITING = 4 << 20
/** Bytes that wait in a listener's connection, and events that are written at once. */
const MOST_UNREAD = 64 << 10
const AT_ONCE = 64
/** Rows of a journal that are read at once for who comes back. */
const PAGE_ROWS = 500

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
  listen(id: string | undefined, listener: (told: Told) => void): { missed: readonly Told[] | undefined; at: number; end: () => void } {
    const [epoch, number] = (id ?? "").split(":")
    const from = Number(number) + 1
    const first = this.#told[0]?.number ?? this.#next
    const missed =
      id === undefined ? [] : epoch !== this.epoch || !(from >= first) ? undefined : this.#told.filter((one) => one.number >= from)
    this.#listeners.add(listener)
    this.#end ??= this.store.subscribe(undefined, undefined, (update) => {
      if (update.rewound) this.#tell("reset", { run: update.run })
      this.#tell(nameOf(update), update)
    })
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
    return { missed, at: this.#next - 1, end }
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

/** Row of a journal that a listener had last, and a mark by which it is known: a run that was resumed earlier has another there. */
type Places = Record<Journal, { readonly seq: number; readonly mark: string }>

const markOf = ({ time, type, step }: JournalRow): string => Bun.hash.crc32(`${time} ${type} ${step}`).toString(36)

/** "metrics:12.1x0k,events:3.9zz": an id of one run's events. */
const idOf = (places: Places): string =>
  JOURNALS.map((journal) => `${journal}:${places[journal].seq}${places[journal].mark && `.${places[journal].mark}`}`).join(",")

const START: Places = { metrics: { seq: -1, mark: "" }, events: { seq: -1, mark: "" }, samples: { seq: -1, mark: "" } }

/** What an id says; a journal that it leaves out is told from its beginning. */
function readPlaces(text: string): Places {
  const found = text.split(",").flatMap((part) => {
    const [, journal, seq, mark] = /^(\w+):(-?\d{1,15})(?:\.(\w{1,8}))?$/.exec(part.trim()) ?? []
    const known = JOURNALS.find((one) => one === journal)
    return known === undefined ? [] : [[known, { seq: Number(seq), mark: mark ?? "" }] as const]
  })
  return { ...START, ...Object.fromEntries(found) }
}

async function placeAt(store: RunStore, run: string, journal: Journal, seq: number): Promise<Places[Journal]> {
  const [row] = seq < 0 ? [] : await store.rows(run, journal, { after: seq - 1, limit: 1 })
  return { seq, mark: row === undefined ? "" : markOf(row) }
}

const eachPlace = async (at: (journal: Journal) => Promise<Places[Journal]>): Promise<Places> => ({
  metrics: await at("metrics"),
  events: await at("events"),
  samples: await at("samples"),
})

/** Where a listener to one run begins. */
interface Beginning {
  readonly places: Places
  /** Rows before it are told. */
  readonly goesOn: boolean
  /** The rows that its id names are no more. */
  readonly isStale: boolean
}

/** At the rows that an id names, or now. */
async function beginning(store: RunStore, run: string, last: string | undefined): Promise<Beginning> {
  const asked = last === undefined ? undefined : readPlaces(last)
  const now = () => eachPlace(async (journal) => placeAt(store, run, journal, await store.through(run, journal)))
  const there = asked && (await eachPlace((journal) => placeAt(store, run, journal, asked[journal].seq)))
  const isStale =
    asked !== undefined && JOURNALS.some((journal) => asked[journal].mark !== "" && asked[journal].mark !== there![journal].mark)
  return { places: there === undefined || isStale ? await now() : there, goesOn: asked !== undefined, isStale }
}

/** One run from its beginning on; "reset" where what was told before is void. What was missed comes as fast as it is read. */
async function* runEvents(
  store: RunStore,
  run: string,
  { places, goesOn, isStale }: Beginning,
  queue: Queue,
  onLive: (end: () => void) => void,
): AsyncGenerator<string> {
  if (isStale) yield sse("reset", idOf(places), { run })
  const tell = (update: RunUpdate): string => {
    const { kind, row, rewound } = update
    const reset = rewound ? sse("reset", idOf({ ...places, [kind]: { seq: row.seq - 1, mark: "" } }), { run }) : ""
    places[kind] = { seq: row.seq, mark: markOf(row) }
    return reset + sse(nameOf(update), idOf(places), update)
  }
  for (let isBehind = goesOn; isBehind; ) {
    isBehind = false
    for (const kind of JOURNALS) {
      const rows = await store.rows(run, kind, { after: places[kind].seq, limit: PAGE_ROWS })
      if (rows.length > 0) yield rows.map((row) => tell({ run, kind, row })).join("")
      if (rows.length === PAGE_ROWS) isBehind = true
    }
  }
  const after = Object.fromEntries(JOURNALS.map((journal) => [journal, places[journal].seq]))
  if (queue.isOpen) onLive(store.subscribe(run, after, (update) => queue.push(tell(update))))
  yield* queue.read()
}

/**
 * ?run=ID: one run, from the rows that Last-Event-ID (or ?after=) names; else all runs, from now on or from Last-Event-ID. "reset": rows that were
 * told are void, or some were missed: what is shown has to be read again.
 */
export async function live(call: Call): Promise<Response> {
  const { http, context } = call
  const last = http.req.header("last-event-id") ?? http.req.query("after")
  const run = http.req.query("run")
  let end = () => {}
  let source: AsyncIterable<string>
  const stop = () => {
    end()
    queue.close()
    context.listening.delete(stop)
  }
  const slow = new AbortController()
  const queue = new Queue(() => {
    stop()
    slow.abort()
  })
  if (run === undefined) {
    const hub = hubs.get(context.runs) ?? new Hub(context.runs)
    hubs.set(context.runs, hub)
    const { missed, at, end: leave } = hub.listen(last, ({ text }) => queue.push(text))
    // What was missed is not known any more: the page reads its curves again.
    queue.first(missed === undefined ? [sse("reset", `${hub.epoch}:${at}`, {})] : missed.map(({ text }) => text))
    end = leave
    source = queue.read()
  } else {
    const found = await context.runs.run(run)
    if (found === undefined) throw new ApiError(404, `${run.slice(0, 100)}: no such run`, { code: "run_not_found" })
    // Before the answer begins: whoever has its head is told everything that is written from then on.
    const from = await beginning(context.runs, found.id, last)
    source = runEvents(context.runs, found.id, from, queue, (leave) => {
      end = leave
    })
  }
  context.listening.add(stop)
  return eventStream(begun(source), { onGone: stop, most: MOST_UNREAD, cut: slow.signal })
}

/** A browser that is cut off comes back soon. */
async function* begun(source: AsyncIterable<string>): AsyncGenerator<string> {
  yield "retry: 1000\n\n"
  yield* source
}

/** Texts on their way to one listener. */
class Queue {
  #waiting: string[] = []
  #size = 0
  #wake = () => {}
  isOpen = true

  /** `onFull`: the listener reads too slowly. It is cut off, and comes back with the last id that it has read. */
  constructor(private readonly onFull: () => void) {}

  push(text: string): void {
    if (!this.isOpen) return
    this.#waiting.push(text)
    this.#size += text.length
    if (this.#size > MOST_WAITING) {
      this.#waiting = []
      this.onFull()
    }
    this.#wake()
  }

  /** Before what came meanwhile. */
  first(texts: readonly string[]): void {
    this.#waiting = [...texts, ...this.#waiting]
    for (const { length } of texts) this.#size += length
  }

  close(): void {
    this.isOpen = false
    this.#wake()
  }

  async *read(): AsyncGenerator<string> {
    for (;;) {
      while (this.#waiting.length > 0) {
        const text = this.#waiting.splice(0, AT_ONCE).join("")
        this.#size -= text.length
        yield text
      }
      if (!this.isOpen) return
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}
