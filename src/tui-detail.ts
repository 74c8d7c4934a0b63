/** The chosen run: its numbers, and the panel that the tab key chose. */
import { displayWidth, formatBytes, formatCount, formatDuration, sparkline, wrap } from "./base-term.ts"
import type { JournalRow, RunSummary, Series } from "./db.ts"
import { shortNumber } from "./tui-chart.ts"
import { chartsPanel } from "./tui-charts.ts"
import { configPanel } from "./tui-config.ts"
import { type State, shown, TABS } from "./tui-state.ts"
import { cell, clean, type Style, statePaint } from "./tui-style.ts"

/** Exactly `height` lines of exactly `width` columns. */
export function detailLines(state: State, run: RunSummary, width: number, height: number, style: Style): string[] {
  const head = headLines(state, run, width, style).slice(0, height > 8 ? 3 : 1)
  const room = Math.max(0, height - head.length)
  const lines = [...head, ...panel(state, run, width, room, style)]
  return Array.from({ length: height }, (_, i) => lines[i] ?? " ".repeat(width))
}

function headLines(state: State, run: RunSummary, width: number, style: Style): string[] {
  const { step, steps, msPerStep } = run
  const left = run.state === "running" && steps !== null && msPerStep !== null && steps > step ? (steps - step) * msPerStep : undefined
  const progress = steps ? `step ${step}/${steps} (${Math.floor((100 * step) / steps)}%)` : `step ${step}`
  const silent = run.state === "stalled" || run.state === "crashed" ? [`no word for ${formatDuration(state.now - run.updatedAt)}`] : []
  const first = [progress, ...(left === undefined ? [] : [`${formatDuration(left)} left`]), ...silent].join("  ")
  const name = `${clean(run.name)}  `
  const taken = Math.min(width, displayWidth(name))
  const told = run.state.length + 2
  const title =
    taken + told >= width
      ? cell(name, width, style.bold)
      : cell(name, taken, style.bold) + cell(run.state, told, statePaint(run.state, style)) + cell(first, width - taken - told)
  const numbers = [
    run.loss === null ? "" : `loss ${shortNumber(run.loss)}`,
    run.valLoss === null
      ? ""
      : `val ${shortNumber(run.valLoss)}${run.bestValLoss === null ? "" : ` (best ${shortNumber(run.bestValLoss)})`}`,
    run.tokensPerS === null ? "" : `${formatCount(run.tokensPerS)} tok/s`,
    run.msPerStep === null ? "" : `${formatDuration(run.msPerStep)} a step`,
    run.tokens > 0 ? `${formatCount(run.tokens)} tokens` : "",
    run.parameters === null ? "" : `${formatCount(run.parameters)} parameters`,
    [run.device, run.precision, run.host].filter((part) => part !== null && part !== "").join(" "),
  ]
  return [title, cell(numbers.filter((part) => part !== "").join("  "), width), tabLine(state, width, style)]
}

function tabLine(state: State, width: number, style: Style): string {
  const told = state.tab === "charts" ? [`by ${state.axis}`, state.scale, `smoothing ${state.smoothing || "off"}`].join("  ") : ""
  let line = ""
  let taken = 0
  for (const tab of TABS) {
    if (taken + tab.length + 2 > width) break
    line += tab === state.tab ? style.inverse(style.colour ? ` ${tab} ` : `[${tab}]`) : style.dim(` ${tab} `)
    taken += tab.length + 2
  }
  const space = width - taken
  return space > told.length + 2 ? line + cell(told, space, style.dim, true) : line + " ".repeat(space)
}

function panel(state: State, run: RunSummary, width: number, height: number, style: Style): string[] {
  const detail = state.details.get(run.id) ?? {}
  switch (state.tab) {
    case "charts":
      return chartsPanel(state, width, height, style)
    case "events":
      return eventsPanel(detail.events, state.scroll, width, height, style)
    case "samples":
      return scrolled(sampleLines(detail.samples, width, style), state.scroll, width, height, style)
    case "gpu":
      return gpuPanel(detail.series, width, style)
    case "config":
      return scrolled(configPanel(state, shown(state), width, style), state.scroll, width, height, style)
  }
}

/** The lines from `scroll` on; past the end the last ones. */
function scrolled(lines: readonly string[], scroll: number, width: number, height: number, style: Style): string[] {
  const first = Math.max(0, Math.min(scroll, lines.length - height))
  const part = lines.slice(first, first + height)
  const below = lines.length - first - height
  if (below > 0 && height > 1) part[height - 1] = cell(`… ${below + 1} more lines`, width, style.dim)
  return part
}

/** The newest event is the last line; scrolling goes back. */
function eventsPanel(events: readonly JournalRow[] | undefined, scroll: number, width: number, height: number, style: Style): string[] {
  if (events === undefined || events.length === 0) return [cell(events === undefined ? "reading …" : "no events", width, style.dim)]
  const last = Math.max(Math.min(height, events.length), events.length - scroll)
  return events.slice(Math.max(0, last - height), last).map((event) => {
    const paint = event.level === "error" ? style.red : event.level === "warn" || event.type === "alert" ? style.yellow : style.plain
    return cell(`${clock(event.time)} ${String(event.step ?? "").padStart(7)}  ${eventText(event)}`, width, paint)
  })
}

const clock = (time: unknown): string => {
  const date = new Date(time as number)
  return Number.isNaN(date.getTime()) ? "        " : date.toTimeString().slice(0, 8)
}

/** An event in words; one of an unknown kind as its fields. */
function eventText(event: JournalRow): string {
  const bytes = (value: unknown) => (typeof value === "number" ? `, ${formatBytes(value)}` : "")
  switch (event.type) {
    case "note":
    case "alert":
      return String(event.message)
    case "checkpoint":
      return `checkpoint ${String(event.path).split("/").at(-1)}${bytes(event.bytes)}${event.best === true ? ", best" : ""}`
    case "start":
      return `start on ${event.device}, ${event.precision}${bytes(event.memoryBytes)}, to step ${event.steps}`
    case "summary":
      return `${event.status} after ${event.steps} steps${typeof event.wall_s === "number" ? `, ${formatDuration(event.wall_s * 1000)}` : ""}`
    default: {
      const { seq: _, time: __, step: ___, type, ...rest } = event
      const fields = Object.entries(rest).filter(([, value]) => typeof value !== "object")
      return [type, ...fields.map(([name, value]) => `${name} ${value}`)].join("  ")
    }
  }
}

/** Newest step first, each prompt's answer in its own paragraph. */
function sampleLines(samples: readonly JournalRow[] | undefined, width: number, style: Style): string[] {
  if (samples === undefined || samples.length === 0) {
    return [cell(samples === undefined ? "reading …" : "no samples (--sampleInterval draws some)", width, style.dim)]
  }
  const lines: string[] = []
  let step: number | undefined
  for (const sample of samples.toReversed()) {
    if (sample.step !== step) lines.push(cell(`step ${sample.step}`, width, style.bold))
    step = sample.step
    lines.push(cell(`  ${sample.prompt}`, width, style.cyan))
    for (const line of String(sample.text ?? "").split(/\r?\n/)) {
      for (const part of wrap(clean(line), Math.max(8, width - 4))) lines.push(cell(`    ${part}`, width))
    }
  }
  return lines
}

const GPU_ROWS: readonly (readonly [column: string, title: string, format: (value: number) => string])[] = [
  ["mfu", "share of the peak rate", (value) => `${(100 * value).toFixed(1)} %`],
  ["tokensPerS", "tokens a second", formatCount],
  ["gpu_utilisation", "busy", (value) => `${Math.round(100 * value)} %`],
  ["gpu_memory_bytes", "memory", formatBytes],
  ["gpu_power_w", "power", (value) => `${Math.round(value)} W`],
  ["gpu_temperature_c", "temperature", (value) => `${Math.round(value)} C`],
  ["gpu_sm_mhz", "clock", (value) => `${Math.round(value)} MHz`],
  ["gpu_memory_mhz", "memory clock", (value) => `${Math.round(value)} MHz`],
]

/** Every so-manieth value, so that there are at most `count`; means would differ in the last digit where the values are the same. */
function thinned(values: readonly number[], count: number): number[] {
  const kept = Math.min(values.length, Math.max(0, count))
  return Array.from({ length: kept }, (_, i) => values[Math.floor(((i + 1) * values.length) / kept) - 1] as number)
}

/** Newest value, greatest value and course of what the device told. */
function gpuPanel(series: Series | undefined, width: number, style: Style): string[] {
  if (series === undefined) return [cell("reading …", width, style.dim)]
  const lines = [cell(`${"".padEnd(24)}${"now".padStart(11)}${"most".padStart(11)}`, width, style.dim)]
  for (const [column, title, format] of GPU_ROWS) {
    const { last = [], max = [] } = series.columns[column] ?? {}
    const values = last.filter((value) => value !== null)
    if (values.length === 0) continue
    const most = max.reduce<number>((a, b) => Math.max(a, b ?? Number.NEGATIVE_INFINITY), Number.NEGATIVE_INFINITY)
    const text = `${title.padEnd(24)}${format(values.at(-1) as number).padStart(11)}${format(most).padStart(11)}  `
    lines.push(cell(text + sparkline(thinned(values, width - displayWidth(text))), width))
  }
  if (!GPU_ROWS.some(([column]) => column.startsWith("gpu_") && series.columns[column]?.last.some((value) => value !== null))) {
    lines.push("", cell("the device tells nothing of itself: it is a CPU, or has no maker's library", width, style.dim))
  }
  return lines.map((line) => (line === "" ? " ".repeat(width) : line))
}
