/** Where a run's time goes: the phases of a step, the run as a whole, the kernels of a step that was profiled. */
import type { JournalRow, RunSummary, Series } from "./db.ts"
import { call, colour, count, empty, make, NONE, percent, span, table } from "./serve-dash-client-dom.ts"
import { listOf } from "./serve-dash-client-runs.ts"

interface Part {
  readonly title: string
  readonly ms: number
}

/** A bar of parts with their names, times and shares below. */
function bar(title: string, about: string, parts: readonly Part[]): HTMLElement {
  const total = parts.reduce((sum, { ms }) => sum + ms, 0)
  const told = parts.map((part, i) => ({ ...part, index: i })).filter(({ ms }) => ms > 0)
  const pieces = told.map(({ title: name, ms, index }) => {
    const piece = make("span", { title: `${name}: ${span(ms)}` })
    piece.style.setProperty("--colour", colour(index))
    piece.style.flexGrow = String(ms / total)
    return piece
  })
  const entries = told.map(({ title: name, ms, index }) => {
    const patch = make("span", { name: "swatch" })
    patch.style.setProperty("--colour", colour(index))
    return make(
      "li",
      {},
      patch,
      make("span", { text: name }),
      make("b", { text: span(ms) }),
      make("span", { name: "range", text: percent(ms / total) }),
    )
  })
  return make(
    "section",
    { name: "panel-card" },
    make("h3", { text: title }),
    make("p", { name: "meta", text: about }),
    make("div", { name: "stack", role: "img", "aria-label": title }, ...pieces),
    make("ul", { name: "parts" }, ...entries),
  )
}

const mean = (values: readonly (number | null)[] = []): number => {
  const known = values.filter((value) => value !== null)
  return known.reduce((sum, value) => sum + value, 0) / Math.max(1, known.length)
}
const sum = (values: readonly unknown[]): number => values.reduce<number>((all, value) => all + (typeof value === "number" ? value : 0), 0)

const rate = (value: number): string => (value === 0 ? NONE : String(Number(value.toPrecision(3))))

interface KernelRow {
  readonly op: string
  readonly kernel?: string
  readonly launches: number
  readonly ms: number
  readonly share: number
  readonly gb_per_s: number
  readonly tflop_per_s: number
}

function kernels(event: JournalRow | undefined): HTMLElement {
  if (event === undefined) return empty("No step was profiled", "alpha train --profile=STEP times every kernel of that step.")
  const rows = (event.kernels as readonly KernelRow[]).toSorted((a, b) => b.ms - a.ms)
  const most = rows[0]?.share ?? 1
  const asRun = event.bubbles as { readonly step_ms: number; readonly share: number } | undefined
  const bubbles = asRun === undefined ? "" : `; side by side ${span(asRun.step_ms)}, of which bubbles ${percent(asRun.share)}`
  const cells = rows.map(({ op, kernel, launches, ms, share, gb_per_s, tflop_per_s }) => {
    const meter = make("span", { name: "share" })
    meter.style.width = `${(share / most) * 100}%`
    const name = make("span", { name: "kernel" }, make("code", { text: kernel ?? op }), make("span", { name: "track" }, meter))
    return [name, percent(share), span(ms), count(launches), rate(gb_per_s), rate(tflop_per_s)]
  })
  return make(
    "section",
    { name: "panel-card" },
    make("h3", { text: "Kernels" }),
    make("p", {
      name: "meta",
      text: `step ${event.step}: ${span(event.ms as number)} in ${count(event.launches as number)} launches${bubbles}`,
    }),
    table(["Kernel", ">Share", ">Time", ">Launches", ">GB/s", ">TFLOP/s"], cells, "Kernels"),
  )
}

export async function phases(run: RunSummary): Promise<HTMLElement> {
  const path = `/api/runs/${encodeURIComponent(run.id)}`
  const columns = (names: string, points: number) => call<Series>(`${path}/metrics?columns=${names}&points=${points}`)
  const [steps, evaluations, events, samples] = await Promise.all([
    columns("msPerStep,data_ms,submit_ms,wait_ms", 500),
    columns("eval_ms", 10_000),
    call<unknown>(`${path}/events?limit=100000`).then((told) => listOf<JournalRow>(told, "events")),
    call<unknown>(`${path}/samples?limit=100000`).then((told) => listOf<JournalRow>(told, "samples")),
  ])
  const of = (name: string) => mean(steps.columns[name]?.last)
  const [step, data, submit, wait] = [of("msPerStep"), of("data_ms"), of("submit_ms"), of("wait_ms")]
  const known = data + submit + wait > 0
  const evaluating = sum(evaluations.columns.eval_ms?.last ?? [])
  const sampling = sum(samples.map(({ ms }) => ms))
  const saving = sum(events.filter(({ type }) => type === "checkpoint").map(({ ms }) => ms))
  const whole = run.updatedAt - run.startedAt
  const training = Math.min(whole, step * run.step)
  const rest = Math.max(0, whole - training - evaluating - sampling - saving)
  const none = empty("No times yet", "The first logged step brings them.")
  return make(
    "div",
    { name: "phases" },
    step === 0
      ? none
      : bar("The run", `${span(whole)} from its first row to its last`, [
          { title: "steps", ms: training },
          { title: "evaluation", ms: evaluating },
          { title: "samples", ms: sampling },
          { title: "checkpoints", ms: saving },
          { title: "start, pauses, all else", ms: rest },
        ]),
    known &&
      bar("A step", `${span(step)} on average`, [
        { title: "wait for the device", ms: wait },
        { title: /^cpu|threads/.test(run.device ?? "") ? "compute" : "submit work", ms: submit },
        { title: "make batches", ms: data },
        { title: "in flight", ms: Math.max(0, step - data - submit - wait) },
      ]),
    kernels(events.findLast(({ type }) => type === "profile")),
  )
}
