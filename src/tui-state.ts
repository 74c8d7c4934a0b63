/** What the screen shows and how keys change it. */
import type { JournalRow, RunSummary, Series, XAxis } from "./db.ts"

export const TABS = ["charts", "events", "samples", "gpu", "config"] as const
export type Tab = (typeof TABS)[number]
export const AXES: readonly XAxis[] = ["step", "tokens", "time"]
/** Axes that are logarithmic. */
export const SCALES = ["linear", "log y", "log x, y"] as const
/** Weights of the moving average, in turn; 0 = none. */
export const SMOOTHINGS = [0.9, 0.97, 0, 0.6] as const
/** Runs that can be compared: as many as there are colours. */
const MOST_MARKED = 6

/** What is known of a run beyond its summary; what was never asked for is absent. */
export interface Detail {
  readonly series?: Series
  /** Axis that `series` was asked for. */
  readonly axis?: XAxis
  readonly events?: readonly JournalRow[]
  readonly samples?: readonly JournalRow[]
  readonly config?: unknown
}

export interface State {
  /** Where the runs come from, for the title. */
  readonly source: string
  /** Clock, ms since 1970. */
  readonly now: number
  /** undefined until the first answer. */
  readonly runs: readonly RunSummary[] | undefined
  readonly details: ReadonlyMap<string, Detail>
  /** Why the newest question was not answered; what is on the screen is then old. */
  readonly error: string | undefined
  /** Id of the chosen run. */
  readonly selected: string | undefined
  /** Ids of the runs that are compared. */
  readonly marked: readonly string[]
  readonly focus: "list" | "detail"
  readonly tab: Tab
  readonly axis: XAxis
  readonly scale: (typeof SCALES)[number]
  readonly smoothing: number
  /** Only runs with this in their name. */
  readonly filter: string
  /** Keys go into the filter. */
  readonly isTyping: boolean
  /** Lines that a text is scrolled from where it opens. */
  readonly scroll: number
}

export const initialState = (source: string, now: number): State => ({
  source,
  now,
  runs: undefined,
  details: new Map(),
  error: undefined,
  selected: undefined,
  marked: [],
  focus: "list",
  tab: "charts",
  axis: "step",
  scale: "linear",
  smoothing: SMOOTHINGS[0],
  filter: "",
  isTyping: false,
  scroll: 0,
})

/** The runs of the list, the youngest first. */
export function listed({ runs = [], filter }: Pick<State, "runs" | "filter">): readonly RunSummary[] {
  const part = filter.toLowerCase()
  const isWanted = ({ name, tags, state }: RunSummary) => [name, state, ...tags].some((text) => text.toLowerCase().includes(part))
  return runs.filter(isWanted).toSorted((a, b) => b.startedAt - a.startedAt || (a.name < b.name ? -1 : 1))
}

/** The chosen run, or the first where that is gone. */
export function chosen(state: State): RunSummary | undefined {
  const runs = listed(state)
  return runs.find(({ id }) => id === state.selected) ?? runs[0]
}

/** The runs in the charts: those marked, else the chosen one. */
export function shown(state: State): readonly RunSummary[] {
  const marked = (state.runs ?? []).filter(({ id }) => state.marked.includes(id))
  const one = chosen(state)
  return marked.length > 0 ? state.marked.flatMap((id) => marked.filter((run) => run.id === id)) : one === undefined ? [] : [one]
}

const next = <T>(all: readonly T[], now: T, by = 1): T => all[(all.indexOf(now) + by + all.length) % all.length] as T

/** The state after a key ("j", "down", "enter" …, see tui-keys); undefined when it ends the program. */
export function press(state: State, key: string, page = 10): State | undefined {
  if (key === "ctrl-c") return undefined
  if (state.isTyping) return typed(state, key)
  switch (key) {
    case "q":
      return undefined
    case "j":
    case "down":
      return move(state, 1)
    case "k":
    case "up":
      return move(state, -1)
    case "pagedown":
      return move(state, page)
    case "pageup":
      return move(state, -page)
    case "g":
    case "home":
      return move(state, Number.NEGATIVE_INFINITY)
    case "G":
    case "end":
      return move(state, Number.POSITIVE_INFINITY)
    case "enter":
      return { ...state, focus: state.focus === "list" ? "detail" : "list", scroll: 0 }
    case "escape":
      if (state.focus === "detail") return { ...state, focus: "list", scroll: 0 }
      return state.filter === "" ? { ...state, marked: [] } : { ...state, filter: "" }
    case "tab":
      return { ...state, tab: next(TABS, state.tab), scroll: 0 }
    case "shift-tab":
      return { ...state, tab: next(TABS, state.tab, -1), scroll: 0 }
    case "/":
      return { ...state, isTyping: true, focus: "list" }
    case "c":
      return mark(state)
    case "x":
      return { ...state, axis: next(AXES, state.axis) }
    case "l":
      return { ...state, scale: next(SCALES, state.scale) }
    case "s":
      return { ...state, smoothing: next(SMOOTHINGS, state.smoothing as (typeof SMOOTHINGS)[number]) }
    default:
      return state
  }
}

function typed(state: State, key: string): State {
  if (key === "enter") return { ...state, isTyping: false }
  if (key === "escape") return { ...state, isTyping: false, filter: "" }
  if (key === "backspace") return { ...state, filter: [...state.filter].slice(0, -1).join("") }
  return [...key].length === 1 ? { ...state, filter: state.filter + key } : state
}

/** Down the list, or down a text. */
function move(state: State, by: number): State {
  if (state.focus === "detail" && state.tab !== "charts") {
    const far = Math.min(1e9, Math.max(0, state.scroll + by))
    return { ...state, scroll: Number.isNaN(far) ? 0 : far }
  }
  const runs = listed(state)
  const at = runs.findIndex(({ id }) => id === chosen(state)?.id)
  const to = Math.min(runs.length - 1, Math.max(0, at + by))
  return { ...state, selected: runs[to]?.id, scroll: 0 }
}

function mark(state: State): State {
  const id = chosen(state)?.id
  if (id === undefined) return state
  if (state.marked.includes(id)) return { ...state, marked: state.marked.filter((other) => other !== id) }
  return { ...state, marked: [...state.marked, id].slice(-MOST_MARKED) }
}
