/** The bar above charts: x axis, logarithms, smoothing, the span of y, zoom. */
import { make } from "./serve-dash-client-dom.ts"
import { AXES, type Axis, change, current, onView, SMOOTHEST } from "./serve-dash-client-view.ts"

const AXIS_NAMES: Readonly<Record<Axis, string>> = { step: "Step", tokens: "Tokens", time: "Time", flops: "FLOPs" }

// Near 1 small differences matter: the slider moves the logarithm of what is left of the present.
const weightAt = (place: number): number => Number(Math.min(SMOOTHEST, 1 - 10 ** (-3 * (place / 100))).toFixed(4))
const placeOf = (weight: number): number => Math.round((Math.log10(1 - weight) / -3) * 100)

export function axesBar(): HTMLElement {
  const axes = AXES.map((axis) => {
    const button = make("button", { type: "button", text: AXIS_NAMES[axis] })
    button.addEventListener("click", () => change({ x: axis, from: undefined, to: undefined }))
    return button
  })
  const toggle = (key: "logx" | "logy" | "fit", text: string, title: string) => {
    const button = make("button", { type: "button", text, title })
    button.addEventListener("click", () => change({ [key]: !current()[key] }))
    return { key, button }
  }
  const toggles = [
    toggle("logx", "log x", "Logarithmic x axis (k)"),
    toggle("logy", "log y", "Logarithmic y axis (l)"),
    toggle("fit", "fit y", "y spans the lines; what reaches beyond is marked at the edge (f)"),
  ]
  const smooth = make("input", { type: "range", min: "0", max: "100", step: "1", "aria-label": "Smoothing" })
  const told = make("output")
  smooth.addEventListener("input", () => change({ smooth: weightAt(Number(smooth.value)) }))
  const reset = make("button", { type: "button", text: "Reset zoom" })
  reset.addEventListener("click", () => change({ from: undefined, to: undefined }))
  const show = () => {
    const view = current()
    for (const [i, axis] of AXES.entries()) axes[i]?.setAttribute("aria-pressed", String(view.x === axis))
    for (const { key, button } of toggles) button.setAttribute("aria-pressed", String(view[key]))
    smooth.value = String(placeOf(view.smooth))
    told.textContent = view.smooth.toFixed(view.smooth > 0.99 ? 3 : 2)
    reset.hidden = view.from === undefined && view.to === undefined
  }
  onView(show)
  show()
  return make(
    "div",
    { name: "axes", role: "group", "aria-label": "Axes" },
    make("div", { name: "segments", role: "group", "aria-label": "x axis" }, ...axes),
    make("div", { name: "segments", role: "group", "aria-label": "Scales" }, ...toggles.map(({ button }) => button)),
    make("label", { name: "slider" }, "Smoothing", smooth, told),
    reset,
    make("span", { name: "tip", text: "drag to zoom · double click resets" }),
  )
}
