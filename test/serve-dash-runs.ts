/** Generated runs behind the routes that the dashboard reads: curves with one spike, samples, checkpoints, a live stream. */
import type { JournalRow, RunSummary } from "../src/db.ts"
import type { Call, Route } from "../src/serve-context.ts"

const START = Date.UTC(2026, 10, 20, 8)
const TOKENS = 16_384

export interface GeneratedRun {
  summary: RunSummary
  readonly config: unknown
  readonly columns: ReadonlyMap<string, Float64Array>
}

/** Noise in −1 … 1 that is the same every time. */
const noise = (i: number, seed: number): number => {
  const value = Math.sin(i * 12.9898 + seed * 78.233) * 43_758.5453
  return (value - Math.floor(value)) * 2 - 1
}

/** A run of `steps` logged steps with a spike of the loss at two fifths of the way. */
export function generateRun(
  id: string,
  name: string,
  steps: number,
  traits: Partial<RunSummary> & { seed?: number; lr?: number } = {},
): GeneratedRun {
  const { seed = 1, lr = 3e-4, ...rest } = traits
  const column = (value: (i: number) => number) => Float64Array.from({ length: steps }, (_, i) => value(i))
  const spike = Math.floor(steps * 0.4)
  const size = steps / 400
  const loss = column((i) => 2.6 + seed * 0.08 + 8 / (1 + i / size / 4) + noise(i, seed) * 0.12)
  loss[spike] = 14
  const columns = new Map([
    ["step", column((i) => i + 1)],
    ["time", column((i) => START + i * 250)],
    ["loss", loss],
    ["valLoss", column((i) => (i % Math.ceil(steps / 20) === 0 ? (loss[i] as number) + 0.1 : Number.NaN))],
    ["lr", column((i) => lr * Math.min(1, (i + 1) / (steps / 20)) * (0.55 + 0.45 * Math.cos((Math.PI * i) / steps)))],
    ["gradNorm", column((i) => 0.6 + 0.3 * Math.abs(noise(i, seed + 2)) + (i === spike ? 30 : 0))],
    ["tokens", column((i) => (i + 1) * TOKENS)],
    ["tokensPerS", column((i) => 65_000 + 1500 * noise(i, 5))],
    ["msPerStep", column((i) => 250 + 8 * noise(i, 6))],
    ["mfu", column((i) => 0.41 + 0.01 * noise(i, 7))],
    ["gpu_utilisation", column((i) => 0.97 + 0.02 * noise(i, 8))],
    ["gpu_memory_bytes", column(() => 11 * 2 ** 30)],
    ["gpu_power_w", column((i) => 612 + 20 * noise(i, 9))],
    ["gpu_temperature_c", column((i) => 58 + 2 * noise(i, 10))],
  ])
  const summary: RunSummary = {
    id,
    name,
    state: "finished",
    step: steps,
    steps,
    loss: loss[steps - 1] ?? null,
    valLoss: 2.8,
    bestValLoss: 2.7,
    tokensPerS: 65_000,
    tokens: steps * TOKENS,
    msPerStep: 250,
    device: "NVIDIA H200",
    precision: "bf16",
    parameters: 124_000_000,
    preset: "gpt2-small",
    domain: "prose",
    startedAt: START,
    updatedAt: START + steps * 250,
    host: "trainer-1",
    notes: "",
    tags: [],
    ...rest,
  }
  return { summary, config: { model: { nLayer: 12, nEmbd: 768 }, train: { lr, batch: 16, seed } }, columns }
}

/** Buckets of a run's columns, as the server makes them of its pyramid. */
function buckets({ columns }: GeneratedRun, names: readonly string[], axis: string, from: number, to: number, points: number) {
  const x = axis === "flops" ? columns.get("tokens")!.map((tokens) => tokens * 6 * 124e6) : columns.get(axis)!
  let [first, end] = [0, x.length]
  while (first < end && x[first]! < from) first++
  while (end > first && x[end - 1]! > to) end--
  const size = Math.max(1, Math.ceil((end - first) / points))
  const told: Record<string, Record<"min" | "max" | "last", (number | null)[]>> = {}
  for (const name of names) told[name] = { min: [], max: [], last: [] }
  const xs: number[] = []
  for (let at = first; at < end; at += size) {
    const stop = Math.min(end, at + size)
    xs.push(x[stop - 1]!)
    for (const name of names) {
      let [min, max, last]: (number | null)[] = [null, null, null]
      const values = columns.get(name)
      for (let i = at; values !== undefined && i < stop; i++) {
        const value = values[i]!
        if (Number.isNaN(value)) continue
        min = min === null ? value : Math.min(min, value)
        max = max === null ? value : Math.max(max, value)
        last = value
      }
      told[name]!.min.push(min)
      told[name]!.max.push(max)
      told[name]!.last.push(last)
    }
  }
  return { x: xs, columns: told, rows: end - first }
}

export interface FakeRuns {
  readonly runs: GeneratedRun[]
  readonly routes: readonly Route[]
  /** Bytes of the answers with metrics, and their number. */
  readonly sent: { bytes: number; answers: number; x: string[] }
  /** A row on its way to whoever listens. */
  tell(run: string, row: Record<string, unknown>): void
  readonly listeners: number
}

/** The routes over `runs`. */
export function fakeRuns(runs: GeneratedRun[]): FakeRuns {
  const sent = { bytes: 0, answers: 0, x: [] as string[] }
  const listeners = new Map<(text: string) => void, string | undefined>()
  const find = ({ http }: Call) => runs.find(({ summary }) => summary.id === http.req.param("id") || summary.name === http.req.param("id"))
  const get = (path: string, handle: (run: GeneratedRun, call: Call) => unknown): Route => ({
    method: "GET",
    path,
    scope: "read",
    about: "",
    handle: (call) => {
      const run = find(call)
      if (path.includes(":id") && run === undefined) return Response.json({ error: { message: "no such run" } }, { status: 404 })
      return Response.json(handle(run as GeneratedRun, call))
    },
  })
  const row = (seq: number, step: number, type: string, rest: object): JournalRow => ({
    seq,
    time: START + step * 250,
    type,
    step,
    ...rest,
  })
  const routes: Route[] = [
    get("/api/runs", () => ({ runs: runs.map(({ summary }) => summary) })),
    get("/api/runs/:id", ({ summary }) => summary),
    get("/api/runs/:id/config", ({ config }) => config),
    get("/api/runs/:id/metrics", (run, { http }) => {
      const query = (name: string, otherwise: string) => http.req.query(name) ?? otherwise
      const axis = query("x", "step")
      const told = buckets(
        run,
        query("columns", "loss").split(","),
        axis,
        Number(query("from", "-Infinity")),
        Number(query("to", "Infinity")),
        Number(query("points", "1000")),
      )
      sent.answers++
      sent.x.push(axis)
      sent.bytes += JSON.stringify(told).length
      return told
    }),
    get("/api/runs/:id/samples", ({ summary }) => ({
      samples: [1, 2, 3, 4].flatMap((i) =>
        ["The whale", "Once upon"].map((prompt, j) =>
          row(i * 2 + j, (summary.step * i) / 4, "sample", { prompt, text: ` text ${i} of the sea` }),
        ),
      ),
    })),
    get("/api/runs/:id/events", () => ({
      events: [row(0, 0, "start", { device: "NVIDIA H200" }), row(1, 400, "alert", { rule: "spike", loss: 14 })],
    })),
    get("/api/runs/:id/checkpoints", ({ summary }) => ({
      checkpoints: [1, 2].map((i) => ({
        step: (summary.step * i) / 2,
        path: `step-${i}`,
        bytes: 496e6,
        sha256: `${i}`.repeat(64),
        loss: 3,
        valLoss: 3.1,
        best: i === 2,
        time: summary.startedAt + i,
      })),
    })),
    get("/api/domains", () => ({ domains: [{ id: "prose", runs: runs.length }] })),
    {
      method: "PATCH",
      path: "/api/runs/:id",
      scope: "admin",
      about: "",
      handle: async (call) => {
        const run = find(call)!
        run.summary = { ...run.summary, ...((await call.json()) as Partial<RunSummary>) }
        return Response.json(run.summary)
      },
    },
    {
      method: "GET",
      path: "/api/training/live",
      scope: "read",
      about: "",
      handle: ({ http, signal }) => {
        const run = http.req.query("run")
        const body = new ReadableStream<Uint8Array>({
          start(controller) {
            const listener = (text: string) => controller.enqueue(new TextEncoder().encode(text))
            listener("retry: 200\n\n")
            listeners.set(listener, run)
            signal.addEventListener("abort", () => listeners.delete(listener))
          },
        })
        return new Response(body, { headers: { "content-type": "text/event-stream" } })
      },
    },
  ]
  let seq = 0
  return {
    runs,
    routes,
    sent,
    tell(run, told) {
      const text = `event: ${String(told.type)}\nid: metrics:${seq}\ndata: ${JSON.stringify({ run, kind: "metrics", row: { seq: seq++, ...told } })}\n\n`
      for (const [listener, wanted] of listeners) if (wanted === undefined || wanted === run) listener(text)
    },
    get listeners() {
      return listeners.size
    },
  }
}
