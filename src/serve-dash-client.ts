/** The dashboard in the browser: draws the page that the path names, and listens to keys. */
import { comparePage } from "./serve-dash-client-compare.ts"
import { byId, complain, make } from "./serve-dash-client-dom.ts"
import { checkpointsPage, domainsPage, modelsPage } from "./serve-dash-client-lists.ts"
import { runPage, TABS } from "./serve-dash-client-run.ts"
import { runsPage, trainingPage } from "./serve-dash-client-runs.ts"
import { AXES, change, current, SMOOTHEST } from "./serve-dash-client-view.ts"

const PAGES: Readonly<Record<string, (main: HTMLElement) => Promise<void>>> = {
  "/training": trainingPage,
  "/runs": runsPage,
  "/compare": comparePage,
  "/models": modelsPage,
  "/checkpoints": checkpointsPage,
  "/domains": domainsPage,
}

const KEYS: readonly (readonly [string, string, () => void])[] = [
  [
    "x",
    "next x axis: step, tokens, time, FLOPs",
    () => change({ x: AXES[(AXES.indexOf(current().x) + 1) % AXES.length] ?? "step", from: undefined, to: undefined }),
  ],
  ["l", "logarithmic y", () => change({ logy: !current().logy })],
  ["k", "logarithmic x", () => change({ logx: !current().logx })],
  ["s", "more smoothing", () => change({ smooth: Math.min(SMOOTHEST, Number((1 - (1 - current().smooth) / 1.5).toFixed(4))) })],
  ["a", "less smoothing", () => change({ smooth: Math.max(0, Number((1 - (1 - current().smooth) * 1.5).toFixed(4))) })],
  ["f", "y spans the lines; spikes beyond are marked", () => change({ fit: !current().fit })],
  ["r", "reset zoom", () => change({ from: undefined, to: undefined })],
  ["/", "search the runs", () => document.getElementById("find")?.focus()],
  ["c", "compare the ticked runs", () => document.getElementById("compare")?.click()],
  ["t", "what trains now", () => location.assign("/training")],
  ["g", "all runs", () => location.assign("/runs")],
  ["?", "these keys", () => (byId("keys") as HTMLDialogElement).showModal()],
]

function listenToKeys(): void {
  const rows = [["1 … 6", "parts of a run"], ["↑ ↓", "runs in the list"], ["← →", "crosshair, on a chart (Tab)"], ...KEYS] as const
  const close = make("button", { type: "button", text: "Close" })
  const dialog = byId("keys") as HTMLDialogElement
  byId("help").addEventListener("click", () => dialog.showModal())
  close.addEventListener("click", () => dialog.close())
  dialog.append(
    make("h2", { text: "Keys" }),
    make("dl", {}, ...rows.flatMap(([key, about]) => [make("dt", {}, make("kbd", { text: key })), make("dd", { text: about })])),
    close,
  )
  document.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return
    if (target.matches("textarea, select, input:not([type=checkbox]):not([type=range])")) {
      if (event.key === "Escape") target.blur()
      return
    }
    const tab = TABS[Number(event.key) - 1]
    const isRun = location.pathname.startsWith("/runs/")
    const work = tab !== undefined && isRun ? () => change({ tab }, true) : KEYS.find(([key]) => key === event.key)?.[2]
    if (work === undefined) return
    event.preventDefault()
    work()
  })
}

const path = location.pathname.replace(/(.)\/$/, "$1")
for (const link of byId("nav").querySelectorAll("a")) {
  if (link.pathname === "/" || (path !== link.pathname && !path.startsWith(`${link.pathname}/`))) continue
  link.setAttribute("aria-current", "page")
  document.title = `${link.textContent} · alpha`
}
listenToKeys()
const run = /^\/runs\/(.+)$/.exec(path)?.[1]
try {
  await (run === undefined ? PAGES[path] : (main: HTMLElement) => runPage(main, decodeURIComponent(run)))?.(byId("main"))
} catch (error) {
  complain(error)
  throw error
}
