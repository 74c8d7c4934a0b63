/** The dashboard's elements, numbers as people read them, and its calls of the server. */

type Child = Node | string | undefined | false

interface Traits {
  /** Class. */
  readonly name?: string
  readonly text?: string
  readonly [property: string]: unknown
}

/** An element with a class, a text, properties (or attributes, by "aria-…" and "role") and children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  { name = "", text, ...rest }: Traits = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [key, value] of Object.entries(rest)) {
    if (key === "role" || key.includes("-")) element.setAttribute(key, String(value))
    else Object.assign(element, { [key]: value })
  }
  if (name) element.className = name
  if (text !== undefined) element.textContent = text
  element.append(...children.filter((child): child is Node | string => child !== undefined && child !== false))
  return element
}

export function byId(id: string): HTMLElement {
  const element = document.getElementById(id)
  if (element === null) throw new Error(`the page has no #${id}`)
  return element
}

export const NONE = "–"

/** 1234567 → "1.23M"; small ones with four digits. */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE
  if (!Number.isFinite(value)) return String(value)
  const size = Math.abs(value)
  if (size !== 0 && size < 1e-3) return value.toExponential(2)
  // Thousands below 10 000 keep their digits: step 1234 is a name.
  if (size < 9999.5) return String(Number(value.toPrecision(4)))
  const [unit, letter] = UNITS.find(([unit]) => size >= unit * 0.9995) as (typeof UNITS)[number]
  return `${Number((value / unit).toPrecision(3))}${letter}`
}
const UNITS = [
  [1e18, "E"],
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
] as const

/** The same with as many digits for all of a column or of a moment: "3.020", "65.0k". */
export function figure(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE
  const size = Math.abs(value)
  if (Number.isInteger(value) || !Number.isFinite(value) || size < 1e-3) return count(value)
  if (size < 0.01) return String(Number(value.toPrecision(3)))
  if (size < 9999.5) return value.toPrecision(4)
  const [unit, letter] = UNITS.find(([unit]) => size >= unit * 0.9995) as (typeof UNITS)[number]
  return `${(value / unit).toPrecision(3)}${letter}`
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE
  for (const [unit, name] of [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
  ] as const)
    if (value >= unit) return `${Number((value / unit).toFixed(1))} ${name}`
  return `${value} B`
}

/** Seconds as "2 d 3 h", "4 min 5 s". */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  const two = (large: number, unit: string, small: number, lesser: string) => `${large} ${unit}${small === 0 ? "" : ` ${small} ${lesser}`}`
  if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s")
  if (s < 86_400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min")
  return two(Math.floor(s / 86_400), "d", Math.floor((s % 86_400) / 3600), "h")
}

/** Seconds as they stand on an axis: "1:40", "2:05:00", "3 d 4 h". */
export function clock(seconds: number): string {
  const s = Math.round(Math.abs(seconds))
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0")
  if (s >= 172_800) return duration(s)
  const sign = seconds < 0 ? "-" : ""
  return s < 3600 ? `${sign}${Math.floor(s / 60)}:${two(s % 60)}` : `${sign}${Math.floor(s / 3600)}:${two((s % 3600) / 60)}:${two(s % 60)}`
}

/** 0.123 → "12.3 %". */
export const percent = (value: number | null | undefined): string =>
  value === null || value === undefined ? NONE : `${Number((value * 100).toFixed(1))} %`

/** Milliseconds as "38.5 ms", "1.5 s", "4 min 5 s". */
export function span(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return NONE
  const three = (value: number) => Number(value.toPrecision(3))
  if (ms > 0 && ms < 0.1) return `${three(ms * 1000)} µs`
  return ms < 1000 ? `${three(ms)} ms` : ms < 60_000 ? `${three(ms / 1000)} s` : duration(ms / 1000)
}

/** "3 h ago": the greatest unit says enough. */
export const ago = (time: number): string =>
  time > 0 ? `${duration((Date.now() - time) / 1000).replace(/^(\d+ \S+) .*/, "$1")} ago` : NONE
export const moment = (time: number): string => (time > 0 ? new Date(time).toISOString().slice(0, 19).replace("T", " ") : NONE)

/** What the server refused, in its own words. */
export class Refusal extends Error {
  constructor(
    message: string,
    readonly status: number,
    /** In the page's words, which say more. */
    readonly isOwn = false,
  ) {
    super(message)
  }
}

export async function call<T>(path: string, init?: RequestInit): Promise<T> {
  let response: Response
  try {
    response = await fetch(path, { cache: "no-store", ...init })
  } catch (error) {
    if ((error as Error).name === "AbortError") throw error
    throw new Refusal("the server cannot be reached: it ended, or the network did", 0)
  }
  if (!response.ok) {
    const told = (await response.json().catch(() => undefined)) as { error?: { message?: string } } | undefined
    throw new Refusal(told?.error?.message ?? `the server answered ${response.status}`, response.status)
  }
  return (await response.json()) as T
}

export const send = <T>(method: string, path: string, body: unknown): Promise<T> =>
  call<T>(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) })

/** Says above the page what went wrong, or that nothing does; nothing is on its way any more then. */
export function complain(error: unknown): void {
  const box = byId("alert")
  box.hidden = error === undefined
  if (error === undefined) return
  for (const waiting of document.querySelectorAll(".loading")) waiting.remove()
  const mayNot = error instanceof Refusal && (error.status === 401 || error.status === 403)
  box.textContent =
    mayNot && error.status === 401 && !error.isOwn
      ? "This takes a key of the server."
      : error instanceof Error
        ? error.message
        : String(error)
  if (!mayNot) return
  const href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`
  box.append(" ", make("a", { href, text: "Log in" }))
}

/** The dot in the header. */
export function status(kind: "ready" | "failed" | "", text: string): void {
  byId("dot").className = `dot ${kind}`
  byId("state").textContent = text
}

/** Draws anew without taking the place from somebody at the keyboard. */
export function keepFocus(root: HTMLElement, draw: () => void): void {
  const label = root.contains(document.activeElement) ? document.activeElement?.getAttribute("aria-label") : undefined
  draw()
  if (label) root.querySelector<HTMLElement>(`[aria-label="${CSS.escape(label)}"]`)?.focus()
}

/** Shows an empty state: what is missing and what would fill it. */
export const empty = (title: string, hint: string): HTMLElement =>
  make("div", { name: "empty" }, make("h2", { text: title }), make("p", { text: hint }))

/** Stands where something is on its way; shown after a moment, so that what is quick does not flicker. */
export const loading = (): HTMLElement => make("p", { name: "loading", role: "status", text: "Loading …" })

/** Rows below a head; a head's cell that begins with ">" has numbers. */
export function table(head: readonly string[], rows: readonly (readonly Child[])[], label: string): HTMLElement {
  const isNumber = head.map((title) => title.startsWith(">"))
  const cell = (child: Child, i: number) => make("td", { name: isNumber[i] ? "number" : "" }, child)
  return make(
    "div",
    { name: "wide" },
    make(
      "table",
      { "aria-label": label },
      make(
        "thead",
        {},
        make("tr", {}, ...head.map((title, i) => make("th", { name: isNumber[i] ? "number" : "", text: title.replace(/^>/, "") }))),
      ),
      make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map(cell)))),
    ),
  )
}

/** Colours of runs in the order of their choice; told apart with the usual kinds of colour blindness. */
const COLOURS = ["#6ea8fe", "#ffb454", "#4fc98a", "#f27aa5", "#b794f6", "#45cfd8", "#d8c24a", "#ff7b6b", "#a8b3c2", "#c08a5a"] as const
export const colour = (index: number): string => COLOURS[index % COLOURS.length] as string
/** Runs beyond the colours have the first ones again, dashed. */
export const dashOf = (index: number): number[] => DASHES[Math.floor(index / COLOURS.length) % DASHES.length] as number[]
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]]

/** A patch of a run's colour. */
export function swatch(index: number): HTMLElement {
  const patch = make("span", { name: dashOf(index).length > 0 ? "swatch dashed" : "swatch" })
  patch.style.setProperty("--colour", colour(index))
  return patch
}
