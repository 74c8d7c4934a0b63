/** The panel of settings: of one run with their origins, of several only where they differ. */
import type { RunSummary } from "./db.ts"
import type { State } from "./tui-state.ts"
import { cell, type Paint, type Style } from "./tui-style.ts"

interface Setting {
  readonly value: string
  readonly origin: string
}

export function configPanel(state: State, runs: readonly RunSummary[], width: number, style: Style): string[] {
  const known = runs.map(({ id }) => state.details.get(id)?.config)
  if (known.some((config) => config === undefined)) return [cell("reading …", width, style.dim)]
  const all = known.map(settings)
  const names = [...new Set(all.flatMap((one) => [...one.keys()]))]
  const wide = Math.min(26, Math.floor(width / 3))
  if (all.length <= 1) {
    const one = all[0] ?? new Map<string, Setting>()
    if (one.size === 0) return [cell("no settings on record", width, style.dim)]
    return names.map((name) => {
      const { value, origin } = one.get(name) as Setting
      const right = Math.min(24, Math.max(0, width - wide - 20))
      return cell(name, wide, style.dim) + cell(value, width - wide - right) + cell(origin, right, style.dim)
    })
  }
  const differing = names.filter((name) => new Set(all.map((one) => one.get(name)?.value)).size > 1)
  const each = Math.floor((width - wide) / all.length)
  const rest = " ".repeat(width - wide - each * all.length)
  const head = cell("", wide) + runs.map(({ name }, i) => cell(`${name} `, each, style.curves[i] as Paint)).join("") + rest
  const same = cell(`${names.length - differing.length} settings are the same`, width, style.dim)
  const rows = differing.map(
    (name) => cell(name, wide, style.dim) + all.map((one) => cell(one.get(name)?.value ?? "", each)).join("") + rest,
  )
  return [head, ...rows, same]
}

/** Settings of a config.json, { config: { name: { value, origin } } } or plain values; those that are not set are left out. */
function settings(record: unknown): Map<string, Setting> {
  const object = (value: unknown): Record<string, unknown> => (typeof value === "object" && value !== null ? { ...value } : {})
  const { config, ...others } = object(record)
  const found = new Map<string, Setting>()
  const put = (name: string, value: unknown, origin: string) => {
    if (value === null || value === undefined) return
    found.set(name, { value: typeof value === "string" ? value : JSON.stringify(value), origin })
  }
  for (const [name, row] of Object.entries(object(config))) {
    const { value, origin } = object(row)
    const { layer, from } = object(origin)
    if (origin === undefined) put(name, row, "")
    else put(name, value, layer === "default" || layer === "derived" ? String(layer) : String(from || layer || ""))
  }
  for (const [name, value] of Object.entries(others)) put(name, value, "")
  return found
}
