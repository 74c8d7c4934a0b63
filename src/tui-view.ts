/** The whole screen as lines: title, list of runs, the chosen run, keys. */
import { displayWidth, formatCount } from "./base-term.ts"
import type { RunState, RunSummary } from "./db.ts"
import { shortNumber } from "./tui-chart.ts"
import { detailLines } from "./tui-detail.ts"
import { chosen, listed, type State } from "./tui-state.ts"
import { cell, type Paint, type Style, statePaint, toAscii } from "./tui-style.ts"

/** From this width on the list stands left of the run, else above it. */
const SIDE_BY_SIDE = 110
const LIST_WIDTH = 52
/** Lines from which on there is room for a run below the list. */
const STACKED = 14

/** Exactly `height` lines of exactly `width` columns. */
export function frame(state: State, width: number, height: number, style: Style): string[] {
  const body = Math.max(0, height - 2)
  const lines = [titleLine(state, width, style), ...bodyLines(state, width, body, style), keyLine(state, width, style)].slice(0, height)
  const whole = Array.from({ length: height }, (_, i) => lines[i] ?? " ".repeat(width))
  return style.unicode ? whole : whole.map(toAscii)
}

function bodyLines(state: State, width: number, height: number, style: Style): string[] {
  const run = chosen(state)
  if (run === undefined) return emptyLines(state, width, height, style)
  if (state.focus === "detail") return detailLines(state, run, width, height, style)
  if (width >= SIDE_BY_SIDE) {
    const list = listLines(state, LIST_WIDTH, height, style)
    const detail = detailLines(state, run, width - LIST_WIDTH - 2, height, style)
    return list.map((line, i) => `${line}${style.dim("│")} ${detail[i]}`)
  }
  if (height < STACKED) return listLines(state, width, height, style)
  const rows = Math.min(listed(state).length + 1, Math.max(4, Math.floor(height / 3)))
  return [...listLines(state, width, rows, style), ...detailLines(state, run, width, height - rows, style)]
}

function emptyLines(state: State, width: number, height: number, style: Style): string[] {
  const text =
    state.runs === undefined
      ? state.error === undefined
        ? ["reading …"]
        : []
      : state.runs.length === 0
        ? ["no runs yet", "alpha train --data=book.txt starts one"]
        : [`no run has "${state.filter}" in its name, state or tags`]
  const lines = ["", ...text].map((line) => cell(`  ${line}`, width, style.dim))
  return Array.from({ length: height }, (_, i) => lines[i] ?? " ".repeat(width))
}

function titleLine(state: State, width: number, style: Style): string {
  const runs = state.runs ?? []
  const count = (wanted: RunState) => runs.filter((run) => run.state === wanted).length
  const counts = (["running", "stalled", "crashed"] as const).flatMap((name) => (count(name) > 0 ? [`${count(name)} ${name}`] : []))
  const told = [`${runs.length} run${runs.length === 1 ? "" : "s"}`, ...counts].join(", ")
  if (state.error !== undefined) return cell(` alpha  ${state.source}  not up to date: ${state.error}`, width, style.red)
  const filter = state.filter !== "" || state.isTyping ? `  /${state.filter}${state.isTyping ? "█" : ""}` : ""
  const left = ` alpha  ${state.source}${filter}`
  const space = width - displayWidth(told) - 1
  if (space < 20) return cell(left, width, style.bold)
  return cell(left, space, style.bold) + cell(`${told} `, width - space)
}

const KEYS: readonly (readonly [key: string, what: string])[] = [
  ["q", "quit"],
  ["j/k", "move"],
  ["enter", "open"],
  ["tab", "panel"],
  ["/", "find"],
  ["c", "compare"],
  ["x", "axis"],
  ["l", "log"],
  ["s", "smooth"],
]

/** As many keys as fit, those that cannot be guessed first. */
function keyLine(state: State, width: number, style: Style): string {
  const all: readonly (readonly [string, string])[] = state.isTyping
    ? [
        ["enter", "keep"],
        ["esc", "clear"],
      ]
    : KEYS.map(([key, what]) => (key === "enter" && state.focus === "detail" ? ["esc", "back"] : [key, what]))
  let line = ""
  let taken = 0
  for (const [key, what] of all) {
    const size = key.length + what.length + 2
    if (taken + size > width) break
    line += ` ${style.bold(key)}${style.dim(`:${what}`)}`
    taken += size
  }
  return line + " ".repeat(width - taken)
}

interface Column {
  readonly title: string
  readonly width: number
  readonly text: (run: RunSummary, now: number) => string
}

const optional = (value: number | null, format: (value: number) => string) => (value === null ? "" : format(value))

/** In the order in which they find room. */
const COLUMNS: readonly Column[] = [
  { title: "state", width: 8, text: ({ state }) => state },
  { title: "loss", width: 6, text: ({ loss }) => optional(loss, shortNumber) },
  { title: "done", width: 5, text: ({ step, steps }) => (steps ? `${Math.floor((100 * step) / steps)}%` : formatCount(step)) },
  { title: "val", width: 6, text: ({ valLoss }) => optional(valLoss, shortNumber) },
  { title: "tok/s", width: 6, text: ({ tokensPerS }) => optional(tokensPerS, formatCount) },
  { title: "seen", width: 7, text: ({ updatedAt }, now) => ago(now - updatedAt) },
  { title: "size", width: 6, text: ({ parameters }) => optional(parameters, formatCount) },
]
const NAME_WIDTH = 14

/** "12s", "5m", "3h", "2d": how long ago, in as little room as can be. */
function ago(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000))
  if (seconds < 60) return `${seconds}s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`
}

function listLines(state: State, width: number, height: number, style: Style): string[] {
  const runs = listed(state)
  const used: Column[] = []
  let left = width - 2 - Math.min(NAME_WIDTH, Math.max(6, width - 12))
  for (const column of COLUMNS) {
    if (left < column.width + 1) break
    used.push(column)
    left -= column.width + 1
  }
  const name = width - 2 - used.reduce((sum, column) => sum + column.width + 1, 0)
  const right = ({ title }: Column) => title !== "state"
  const head = `  ${cell("run", name)}${used.map((column) => ` ${cell(column.title, column.width, style.plain, right(column))}`).join("")}`
  const at = Math.max(
    0,
    runs.findIndex(({ id }) => id === chosen(state)?.id),
  )
  const room = Math.max(0, height - 1)
  const first = Math.max(0, Math.min(at - Math.floor(room / 2), runs.length - room))
  const rows = runs.slice(first, first + room).map((run) => {
    const isChosen = run.id === chosen(state)?.id
    const mark = state.marked.indexOf(run.id)
    const paint = (own: Paint): Paint => (isChosen ? style.plain : own)
    const dot = mark < 0 ? " " : paint(style.curves[mark] as Paint)("●")
    const cells = used.map((column) => {
      const own = column.title === "state" ? statePaint(run.state, style) : style.plain
      return ` ${cell(column.text(run, state.now), column.width, paint(own), right(column))}`
    })
    const line = `${isChosen ? ">" : " "}${dot}${cell(run.name, name)}${cells.join("")}`
    return isChosen ? style.inverse(line) : line
  })
  return Array.from({ length: height }, (_, i) => (i === 0 ? style.dim(head) : (rows[i - 1] ?? " ".repeat(width))))
}
