/** `--print-config`: every value of a command with where it came from. */
import { columns, fit } from "./base-term.ts"
import { groupsOf } from "./cli-help.ts"
import type { Fields, Loaded, Origin } from "./config.ts"

/** A table of field, value and origin under the headings of the help, ≤ 100 columns. */
export function configTable(loaded: Loaded<Fields>): string {
  const sections = [...groupsOf(loaded.fields)].map(([group, rows]) => {
    const cells = rows.map(([name]) => [name, shown(loaded.values[name]), originOf(loaded.origins[name]!)])
    return [[group, "", ""], ...cells.map(([name, value, origin]) => [`  ${name}`, fit(value!, 33).trimEnd(), fit(origin!, 30).trimEnd()])]
  })
  return columns(sections.flat())
}

function shown(value: unknown): string {
  if (value === undefined) return "-"
  return typeof value === "object" || (typeof value === "string" && !/^\S+$/.test(value)) ? JSON.stringify(value) : String(value)
}

function originOf({ layer, from }: Origin): string {
  if (layer === "default") return from === "" ? "default" : `default: ${from}`
  return layer === "derived" ? `from ${from || "other fields"}` : from
}
