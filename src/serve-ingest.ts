/** POST /api/ingest: rows of a trainer's journals, each taken once, however often it is sent. */
import { type Beat, JOURNALS, type Journal, RUN_STATES, readBeat, writeBeat } from "./db.ts"
import type { Call } from "./serve-context.ts"
import { badField } from "./serve-error.ts"
import { type Counts, type RemoteRun, RUN_ID } from "./serve-ingest-store.ts"

const KINDS = [...JOURNALS, "start", "heartbeat", "end"] as const
/** Most rows of one message; trainers send far fewer. */
const MOST_ROWS = 10_000
const MOST_BYTES_OF_RECORD = 1 << 20

type Body = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is Body => typeof value === "object" && value !== null && !Array.isArray(value)
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/**
 * { run, session, kind, … } → { through }: the highest row of the journal that is here, −1 for none; of all journals where none is meant.
 * start with `name` and `config` tells a run and answers marks of what is here and whose turn it is; start with `config`, that turn and `keep`
 * lets this session write from those rows on.
 */
export async function ingest(call: Call): Promise<Response> {
  const body = await call.json()
  if (!isObject(body)) throw badField("body", "expected an object")
  const run = text(body, "run", RUN_ID)
  const session = text(body, "session", RUN_ID)
  const kind = KINDS.find((one) => one === body.kind)
  if (kind === undefined) throw badField("kind", `expected one of ${KINDS.join(", ")}`)
  const store = call.context.remote
  if (kind === "start") return Response.json(await start(call, body, run, session))
  const known = store.get(run)
  if (kind === "heartbeat" || kind === "end") {
    store.check(known, session)
    const told = beat(body, kind)
    if (kind === "end") store.flush(known)
    // A heartbeat that comes after the end was late.
    if (kind === "end" || !hasEnded(known)) writeBeat(known.directory, told)
    return Response.json({ through: through(known) })
  }
  const { from, rows } = body
  if (!isCount(from)) throw badField("from", "expected the number of the first row, from 0")
  if (!Array.isArray(rows) || rows.length > MOST_ROWS) throw badField("rows", `expected at most ${MOST_ROWS} rows`)
  rows.forEach((row: unknown, i) => {
    if (!isObject(row) || typeof row.type !== "string") throw badField(`rows[${i}]`, "expected an object with a type")
    if (row.seq !== undefined && row.seq !== from + i) throw badField(`rows[${i}].seq`, `expected ${from + i}`)
  })
  return Response.json({ through: store.append(known, session, kind, from, rows as object[]) })
}

async function start({ context: { remote } }: Call, body: Body, id: string, session: string): Promise<object> {
  const { config, keep, name, turn } = body
  if (!isObject(config) || JSON.stringify(config).length > MOST_BYTES_OF_RECORD) throw badField("config", "expected the run's config.json")
  if (keep === undefined) {
    if (typeof name !== "string") throw badField("name", "expected the run's name")
    const run = remote.start(id, name, config)
    const now = { through: through(run), turn: run.turn } // before the marks: a turn that comes meanwhile makes them worthless
    return { ...now, marks: await remote.marks(run) }
  }
  if (!isCount(turn)) throw badField("turn", "expected the number that the first start answered")
  const run = remote.get(id)
  const told = beat(body, "heartbeat")
  const isNew = await remote.adopt(run, session, turn, keptRows(keep), config)
  if (isNew || !hasEnded(run)) writeBeat(run.directory, told)
  return { through: through(run) }
}

const hasEnded = ({ directory }: RemoteRun): boolean => (readBeat(directory)?.state ?? "running") !== "running"

function keptRows(keep: unknown): Counts {
  if (!isObject(keep)) throw badField("keep", "expected rows by journal")
  for (const journal of JOURNALS) if (!isCount(keep[journal])) throw badField(`keep.${journal}`, "expected a number of rows")
  return keep as unknown as Counts
}

const through = ({ counts }: RemoteRun): Record<Journal, number> => ({
  metrics: counts.metrics - 1,
  events: counts.events - 1,
  samples: counts.samples - 1,
})

/** The trainer's word on itself; the time is this machine's, whose clock it is compared with. */
function beat({ state, host, pid, message }: Body, kind: "heartbeat" | "end"): Beat {
  const told = kind === "heartbeat" ? "running" : RUN_STATES.find((one) => one === state)
  if (told === undefined || told === "stalled" || (kind === "end" && told === "running"))
    throw badField("state", "expected finished, stopped or crashed")
  return {
    state: told,
    time: Date.now(),
    host: typeof host === "string" ? host.slice(0, 100) : "",
    pid: isCount(pid) ? pid : 0,
    ...(typeof message === "string" ? { message: message.slice(0, 1000) } : {}),
  }
}

function text(body: Body, field: string, form: RegExp): string {
  const value = body[field]
  if (typeof value === "string" && form.test(value)) return value
  throw badField(field, "expected letters, digits and dashes, at most 64")
}
