/** Machines, GPUs and jobs as the lines of a screen. */
import { displayWidth } from "./base-term.ts"
import {
  gpuCells,
  type HostReport,
  type HostState,
  hostLine,
  inOrder,
  isLive,
  JOB_HEAD,
  type JobReport,
  type JobState,
  jobCells,
} from "./fleet.ts"
import { cell, type Paint, type Style, toAscii } from "./tui-style.ts"

/** What is known of one machine; `state` undefined: it was not asked yet. */
export interface FleetRow {
  readonly name: string
  readonly state: HostState | undefined
  /** Why there is no report. */
  readonly message: string
  readonly report: HostReport | undefined
}

export interface FleetState {
  readonly rows: readonly FleetRow[]
  /** Place of the chosen job among all that are shown. */
  readonly chosen: number
  /** Jobs that ended are shown. */
  readonly all: boolean
}

export const initialFleet = (names: readonly string[]): FleetState => ({
  rows: names.map((name) => ({ name, state: undefined, message: "", report: undefined })),
  chosen: 0,
  all: true,
})

const shownJobs = ({ report }: FleetRow, all: boolean): JobReport[] =>
  inOrder(report?.jobs ?? []).filter(({ state }) => all || isLive(state))

/** The jobs in the order of the screen, with their machines. */
export const listed = ({ rows, all }: FleetState): { row: FleetRow; job: JobReport }[] =>
  rows.flatMap((row) => shownJobs(row, all).map((job) => ({ row, job })))

/** The state after a key; undefined when it ends the program. */
export function pressFleet(state: FleetState, key: string): FleetState | undefined {
  const last = Math.max(0, listed(state).length - 1)
  const to = (chosen: number) => ({ ...state, chosen: Math.min(last, Math.max(0, chosen)) })
  switch (key) {
    case "q":
    case "ctrl-c":
      return undefined
    case "j":
    case "down":
      return to(state.chosen + 1)
    case "k":
    case "up":
      return to(state.chosen - 1)
    case "g":
    case "home":
      return to(0)
    case "G":
    case "end":
      return to(last)
    case "a":
      return { ...state, all: !state.all, chosen: 0 }
    default:
      return state
  }
}

const statePaint = (state: JobState, style: Style): Paint =>
  ({
    running: style.green,
    restarting: style.yellow,
    stalled: style.yellow,
    crashed: style.red,
    rebooted: style.red,
    finished: style.cyan,
    stopped: style.dim,
  })[state]

const hostPaint = (state: HostState | undefined, style: Style): Paint =>
  state === undefined ? style.dim : state === "ok" ? style.green : state === "locked" ? style.yellow : style.red

/** Exactly `height` lines of exactly `width` columns. */
export function fleetFrame(state: FleetState, width: number, height: number, style: Style): string[] {
  const detail = height >= 12 ? detailLines(state, width, style) : []
  const room = Math.max(0, height - 2 - detail.length)
  const { lines, at } = bodyLines(state, width, style)
  const first = Math.max(0, Math.min(at === undefined ? 0 : at - Math.floor(room / 2), lines.length - room))
  const body = Array.from({ length: room }, (_, i) => lines[first + i] ?? " ".repeat(width))
  const whole = [titleLine(state, width, style), ...body, ...detail, keyLine(width, style)].slice(0, height)
  return style.unicode ? whole : whole.map(toAscii)
}

function titleLine({ rows }: FleetState, width: number, style: Style): string {
  const jobs = rows.flatMap(({ report }) => report?.jobs ?? [])
  const count = (state: JobState) => jobs.filter((job) => job.state === state).length
  const away = rows.filter(({ state }) => state !== undefined && state !== "ok").length
  const states = (["running", "stalled", "restarting", "crashed", "rebooted"] as const).flatMap((state) =>
    count(state) > 0 ? [`${count(state)} ${state}`] : [],
  )
  const parts = [
    "alpha fleet",
    `${rows.length} machine${rows.length === 1 ? "" : "s"}`,
    ...states,
    ...(away > 0 ? [`${away} not reached`] : []),
  ]
  return style.inverse(cell(` ${parts.join(" · ")}`, width))
}

/** Lines of all machines, and which of them the chosen job is on. */
function bodyLines(state: FleetState, width: number, style: Style): { lines: string[]; at: number | undefined } {
  const lines: string[] = []
  let at: number | undefined
  let place = 0
  for (const row of state.rows) {
    const { name, report, message } = row
    const words = report === undefined ? (row.state === undefined ? "asking …" : `${row.state}: ${message}`) : hostLine(report)
    const label = Math.min(displayWidth(name) + 4, Math.ceil(width / 3))
    lines.push(
      cell(`● ${name}`, label, hostPaint(row.state, style)) + cell(words, width - label, row.state === "ok" ? style.plain : style.dim),
    )
    for (const gpu of report?.gpus ?? []) lines.push(gpuLine(gpuCells(gpu), gpu.utilisation, width, style))
    const jobs = shownJobs(row, state.all)
    if (jobs.length > 0) lines.push(jobLine(JOB_HEAD, width, style.dim, style.dim))
    for (const job of jobs) {
      const isChosen = place++ === state.chosen
      if (isChosen) at = lines.length
      const line = jobLine(jobCells(job, report!.time), width, statePaint(job.state, style), style.plain)
      lines.push(isChosen ? style.inverse(jobLine(jobCells(job, report!.time), width, style.plain, style.plain)) : line)
    }
    lines.push(" ".repeat(width))
  }
  return { lines, at }
}

const BAR = 10

function gpuLine(
  [index, name, share, memory, watts, celsius, job]: string[],
  utilisation: number | null,
  width: number,
  style: Style,
): string {
  const full = Math.round((utilisation ?? 0) * BAR)
  const bar = utilisation === null ? "" : `${"█".repeat(full)}${"─".repeat(BAR - full)}`
  const widths = [7, 18, BAR + 1, 6, 24, 7, 7]
  const cells = [index, name, bar, share, memory, watts, celsius].map((text, i) =>
    cell(text ?? "", widths[i]!, i === 2 ? style.green : style.plain),
  )
  return fitTo(
    `    ${cells.join("")}`,
    `    ${widths.map((wide) => " ".repeat(wide)).join("")}`.length,
    cell(job ?? "", Math.max(0, width - 84), style.cyan),
    width,
  )
}

/** Cells that were laid out already, cut to the width by leaving the last ones out. */
function fitTo(line: string, taken: number, last: string, width: number): string {
  if (taken > width) return cell(Bun.stripANSI(line), width)
  const rest = width - taken
  return line + (rest > 0 ? last : "") + " ".repeat(Math.max(0, rest - displayWidth(last)))
}

/** name, state, step, loss, val, tokens/s, left, since. */
const WIDTHS = [0, 11, 16, 9, 9, 10, 9, 9]

function jobLine(cells: readonly string[], width: number, second: Paint, rest: Paint): string {
  if (width < 4 + WIDTHS[1]! + 10) return cell(`${cells[0]} ${cells[1]}`, width, second)
  // Where the screen is narrow the columns at the end are left out.
  let count = WIDTHS.length
  const sum = (n: number) => WIDTHS.slice(0, n).reduce((total, one) => total + one, 0)
  while (count > 2 && width - 4 - sum(count) < 16) count--
  const name = Math.max(0, width - 4 - sum(count))
  const parts = cells.slice(0, count).map((text, i) => {
    if (i === 0) return cell(text, name, rest)
    return i === 1 ? cell(text, WIDTHS[1]!, second) : cell(text, WIDTHS[i]!, rest, true)
  })
  return `    ${parts.join("")}`
}

/** What there is to say of the chosen job. */
function detailLines(state: FleetState, width: number, style: Style): string[] {
  const found = listed(state)[state.chosen]
  const rule = style.dim(cell("─".repeat(width), width))
  if (found === undefined) return [rule, cell(" no jobs: alpha fleet train starts one", width, style.dim)]
  const { row, job } = found
  const evidence = job.exit?.evidence[0]
  return [
    rule,
    cell(` ${job.name} on ${row.name}: ${job.state}${job.reason === "" ? "" : `, ${job.reason}`}`, width, statePaint(job.state, style)),
    cell(` alpha ${job.argv.join(" ")}`, width, style.dim),
    ...(evidence === undefined ? [] : [cell(` ${evidence}`, width, style.yellow)]),
  ]
}

const keyLine = (width: number, style: Style): string => cell(" ↑↓ job   a ended jobs   q quit", width, style.dim)
