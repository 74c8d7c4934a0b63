/** Settings of runs side by side, of one run with where each came from. */
import { empty, make, NONE } from "./serve-dash-client-dom.ts"

interface Configured {
  readonly label: string
  readonly config: unknown
}

interface Row {
  readonly value?: unknown
  readonly origin?: unknown
}

/** A run's config.json: `config` holds the settings with their origins, the rest is what it ran on. */
interface RunConfig {
  readonly id?: unknown
  readonly config?: Readonly<Record<string, Row>>
}

/** { model: { nLayer: 2 } } → "model.nLayer" → "2". */
function flat(value: unknown, at = "", into = new Map<string, string>()): Map<string, string> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    for (const [key, part] of Object.entries(value)) flat(part, at === "" ? key : `${at}.${key}`, into)
  } else into.set(at, typeof value === "string" ? value : JSON.stringify(value))
  return into
}

function values(config: unknown): Map<string, string> {
  const { config: rows = {}, id: _, ...rest } = (config ?? {}) as RunConfig
  return flat({ ...rest, ...Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, row?.value ?? null])) })
}

/** Where a setting came from; what a person said stands before what nobody did. */
const LAYERS = ["flag", "environment", "file", "base", "preset", "derived", "default"]

function originOf(row: Row | undefined): { text: string; rank: number } {
  if (row === undefined) return { text: "the run", rank: LAYERS.length }
  const { layer = "", from = "" } = (row.origin ?? {}) as { layer?: string; from?: string }
  const text = layer === "default" || layer === "derived" ? [layer, from].filter(Boolean).join(": ") : from || layer
  return { text, rank: LAYERS.indexOf(layer) }
}

/** `all`: also those that are the same in all runs. */
export function settings(runs: readonly Configured[], all: boolean): HTMLElement {
  const maps = runs.map(({ config }) => values(config))
  const keys = [...new Set(maps.flatMap((map) => [...map.keys()]))].sort((a, b) => a.localeCompare(b))
  const rows = keys
    .map((key) => ({ key, told: maps.map((map) => map.get(key)) }))
    .map((row) => ({ ...row, differs: row.told.some((value) => value !== row.told[0]) }))
    .filter(({ differs }) => all || differs)
  if (rows.length === 0) return empty("No setting differs", "The runs were started alike.")
  const [one] = runs
  const origins = runs.length === 1 ? (((one?.config ?? {}) as RunConfig).config ?? {}) : undefined
  if (origins !== undefined) rows.sort((a, b) => originOf(origins[a.key]).rank - originOf(origins[b.key]).rank)
  const head = ["Setting", ...(origins === undefined ? runs.map(({ label }) => label) : ["Value", "From"])]
  const cell = (value: string | undefined) => make("td", {}, make("code", { text: value ?? NONE }))
  const body = rows.map(({ key, told, differs }) =>
    make(
      "tr",
      { name: differs ? "differs" : "" },
      make("th", { scope: "row" }, make("code", { text: key })),
      ...told.map(cell),
      origins !== undefined && make("td", { name: "meta", text: originOf(origins[key]).text }),
    ),
  )
  return make(
    "div",
    { name: "wide" },
    make(
      "table",
      { name: "settings", "aria-label": "Settings" },
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { text })))),
      make("tbody", {}, ...body),
    ),
  )
}
