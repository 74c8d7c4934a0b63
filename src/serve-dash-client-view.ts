/** The whole view's state, kept in the address: links and reloads show the same view. */

export const AXES = ["step", "tokens", "time", "flops"] as const
export type Axis = (typeof AXES)[number]

export interface View {
  readonly x: Axis
  readonly logx: boolean
  readonly logy: boolean
  /** Weight of the past in the moving average, per 1/300 of the axis: 0 (none) to 0.999. */
  readonly smooth: number
  readonly from: number | undefined
  readonly to: number | undefined
  /** Part of the page. */
  readonly tab: string
  /** Runs that are compared. */
  readonly runs: readonly string[]
  /** Words that the listed runs' names, tags or notes hold. */
  readonly find: string
  /** Column by which runs are sorted, "-" before it for falling. */
  readonly sort: string
  /** State of the listed runs. */
  readonly only: string
  /** Index of the prompt whose samples show. */
  readonly prompt: number
  /** Also the settings that are the same in all runs. */
  readonly same: boolean
  /** y spans the lines; what of the raw band reaches beyond is marked at the edge. */
  readonly fit: boolean
  /** Column of the chart that has the whole width. */
  readonly wide: string
  /** Compared runs whose lines are not drawn. */
  readonly hide: readonly string[]
  /** Samples show what changed since the step before. */
  readonly diff: boolean
}

const START: View = {
  x: "step",
  logx: false,
  logy: false,
  smooth: 0.6,
  from: undefined,
  to: undefined,
  tab: "charts",
  runs: [],
  find: "",
  sort: "-startedAt",
  only: "",
  prompt: 0,
  same: false,
  fit: false,
  wide: "",
  hide: [],
  diff: false,
}

export const SMOOTHEST = 0.999

const finite = (text: string | null): number | undefined => {
  const value = Number(text ?? "")
  return text === null || text === "" || !Number.isFinite(value) ? undefined : value
}

function read(): View {
  const query = new URLSearchParams(location.search)
  const list = (name: string) => (query.get(name) ?? "").split(",").filter((id) => id !== "")
  const x = AXES.find((axis) => axis === query.get("x")) ?? START.x
  return {
    x,
    logx: query.get("logx") === "1",
    logy: query.get("logy") === "1",
    smooth: Math.min(SMOOTHEST, Math.max(0, finite(query.get("smooth")) ?? START.smooth)),
    from: finite(query.get("from")),
    to: finite(query.get("to")),
    tab: query.get("tab") ?? START.tab,
    runs: list("runs"),
    find: query.get("find") ?? "",
    sort: query.get("sort") ?? START.sort,
    only: query.get("only") ?? "",
    prompt: finite(query.get("prompt")) ?? 0,
    same: query.get("same") === "1",
    fit: query.get("fit") === "1",
    wide: query.get("wide") ?? "",
    hide: list("hide"),
    diff: query.get("diff") === "1",
  }
}

let view = read()
const listeners: (() => void)[] = []

export const current = (): View => view

/** Calls back after every change of the view. */
export const onView = (listener: () => void): void => void listeners.push(listener)

function address(next: View): string {
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(next)) {
    const usual = START[key as keyof View]
    if (value === undefined || String(value) === String(usual)) continue
    query.set(key, value === true ? "1" : String(value))
  }
  const text = query.toString().replaceAll("%2C", ",")
  return `${location.pathname}${text === "" ? "" : `?${text}`}`
}

/** `push`: the browser's Back undoes it. */
export function change(part: Partial<View>, push = false): void {
  view = { ...view, ...part }
  if (push) history.pushState(null, "", address(view))
  else history.replaceState(null, "", address(view))
  for (const listener of listeners) listener()
}

addEventListener("popstate", () => {
  view = read()
  for (const listener of listeners) listener()
})
