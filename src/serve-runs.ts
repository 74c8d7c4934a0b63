/** GET /api/runs…: what is known of runs, as JSON or to download. */
import { csvOf, domainsOf, type Journal, journalPages, jsonlOf, type Pages, RUN_STATES, type RunSummary, type XAxis } from "./db.ts"
import type { Call } from "./serve-context.ts"
import { ApiError, badField } from "./serve-error.ts"
import { packedJson } from "./serve-pack.ts"

const X_AXES = ["step", "tokens", "time", "flops"] as const satisfies readonly XAxis[]
const DEFAULT_POINTS = 1000
const MOST_POINTS = 20_000
const MOST_COLUMNS = 64
/** Rows of a journal that are answered where nothing says how many. */
const PAGE_ROWS = 5000
const MOST_NOTES = 20_000
const TAG = /^[^\s,]{1,50}$/

/** GET /api/runs?state=&tag=&name=&limit= */
export async function listRuns(call: Call): Promise<Response> {
  const query = (name: string) => call.http.req.query(name)
  const states = query("state")
    ?.split(",")
    .map((state) => RUN_STATES.find((one) => one === state) ?? unknown("state", state, RUN_STATES))
  const limit = count(call, "limit", undefined, 100_000)
  const filter = { states, tag: query("tag"), name: query("name"), limit }
  const { runs } = call.context
  return packedJson(call, { runs: await runs.runs(filter), database: runs.database ?? null })
}

export async function oneRun(call: Call): Promise<Response> {
  const run = await find(call)
  const alerts = await call.context.runs.alerts?.(run.id)
  return Response.json({ ...run, alerts: alerts ?? [] })
}

export async function runConfig(call: Call): Promise<Response> {
  const { id } = await find(call)
  return Response.json((await call.context.runs.config(id)) ?? null)
}

/** The curves of a run in at most `points` buckets; with ?format=csv or jsonl all its rows. */
export async function runMetrics(call: Call): Promise<Response> {
  const run = await find(call)
  if (call.http.req.query("format") !== undefined) return download(call, run, "metrics")
  const columns = (call.http.req.query("columns") ?? "loss,valLoss").split(",").filter((name) => name !== "")
  if (columns.length > MOST_COLUMNS) throw badField("columns", `at most ${MOST_COLUMNS}`)
  for (const column of columns) if (!/^\w{1,64}$/.test(column)) throw badField("columns", "expected names separated by commas")
  const x = X_AXES.find((one) => one === (call.http.req.query("x") ?? "step")) ?? unknown("x", call.http.req.query("x"), X_AXES)
  const points = count(call, "points", DEFAULT_POINTS, MOST_POINTS) as number
  const [from, to] = [bound(call, "from"), bound(call, "to")]
  return packedJson(call, await call.context.runs.metrics(run.id, { columns, x, points, from, to }))
}

/** Rows of a journal after ?after=, at most ?limit=, or all of them with ?format=. */
const journalRoute =
  (journal: Journal) =>
  async (call: Call): Promise<Response> => {
    const run = await find(call)
    if (call.http.req.query("format") !== undefined) return download(call, run, journal)
    const after = bound(call, "after") ?? -1
    const limit = count(call, "limit", PAGE_ROWS, 100_000)
    return Response.json({ [journal]: await call.context.runs.rows(run.id, journal, { after, limit }) })
  }
export const runSamples = journalRoute("samples")
export const runEvents = journalRoute("events")

export async function runCheckpoints(call: Call): Promise<Response> {
  const run = await find(call)
  // Paths of the server's disk are nobody's business; the last part names a checkpoint well enough.
  const rows = (await call.context.runs.checkpoints(run.id)).map((row) => ({ ...row, path: row.path.split("/").at(-1) ?? "" }))
  if (call.http.req.query("format") === undefined) return Response.json({ checkpoints: rows })
  return attachment(call, run, "checkpoints", async function* () {
    yield rows
  })
}

/** PATCH /api/runs/:id { notes, tags } */
export async function changeRun(call: Call): Promise<Response> {
  const run = await find(call)
  const body = await call.json()
  if (typeof body !== "object" || body === null) throw badField("body", "expected an object")
  const { notes, tags, ...rest } = body as Record<string, unknown>
  const extra = Object.keys(rest)[0]
  if (extra !== undefined) throw badField(extra, "only notes and tags can be changed")
  if (notes !== undefined && (typeof notes !== "string" || notes.length > MOST_NOTES))
    throw badField("notes", `expected at most ${MOST_NOTES} letters`)
  if (tags !== undefined && !(Array.isArray(tags) && tags.length <= 50 && tags.every((tag) => typeof tag === "string" && TAG.test(tag))))
    throw badField("tags", "expected up to 50 words of at most 50 letters")
  await call.context.runs.setNotes(run.id, {
    ...(notes === undefined ? {} : { notes: notes as string }),
    ...(tags === undefined ? {} : { tags: tags as string[] }),
  })
  return Response.json(await find(call))
}

/** GET /api/domains: what runs are trained on, and what they came to. */
export const domains = async (call: Call): Promise<Response> => Response.json({ domains: domainsOf(await call.context.runs.runs()) })

async function find(call: Call): Promise<RunSummary> {
  const id = call.http.req.param("id") ?? ""
  const run = await call.context.runs.run(id)
  if (run === undefined) throw new ApiError(404, `${id.slice(0, 100)}: no such run`, { code: "run_not_found" })
  return run
}

const download = (call: Call, run: RunSummary, journal: Journal): Response =>
  attachment(call, run, journal, journalPages(call.context.runs, run.id, journal))

/** Rows as they come. */
function attachment(call: Call, run: RunSummary, what: string, read: Pages): Response {
  const format = call.http.req.query("format")
  if (format !== "csv" && format !== "jsonl") throw badField("format", "expected csv or jsonl")
  const encoder = new TextEncoder()
  const pages = format === "csv" ? csvOf(read, "\r\n") : jsonlOf(read)
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const next = await pages.next()
      if (next.done === true) controller.close()
      else controller.enqueue(encoder.encode(next.value))
    },
    cancel: () => void pages.return(undefined),
  })
  const name = `${run.name.replace(/[^\w.-]/g, "_")}-${what}.${format}`
  return new Response(body, {
    headers: {
      "content-type": format === "csv" ? "text/csv; charset=utf-8" : "application/x-ndjson",
      "content-disposition": `attachment; filename="${name}"`,
    },
  })
}

function count(call: Call, name: string, otherwise: number | undefined, most: number): number | undefined {
  const given = call.http.req.query(name)
  if (given === undefined) return otherwise
  const value = Number(given)
  if (!Number.isSafeInteger(value) || value < 1 || value > most) throw badField(name, `expected a whole number from 1 to ${most}`)
  return value
}

function bound(call: Call, name: string): number | undefined {
  const given = call.http.req.query(name)
  if (given === undefined) return undefined
  const value = Number(given)
  if (given.trim() === "" || !Number.isFinite(value)) throw badField(name, "expected a number")
  return value
}

function unknown(name: string, value: unknown, known: readonly string[]): never {
  throw badField(name, `${String(value).slice(0, 50)}: expected one of ${known.join(", ")}`)
}
