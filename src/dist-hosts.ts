/** Slurm's compressed node lists, expanded. */
import { AlphaError, EXIT } from "./base-error.ts"

/** gnode[08,10-12]-ib,login1 → gnode08-ib, gnode10-ib, gnode11-ib, gnode12-ib, login1; leading zeros stay, several brackets multiply. */
export function expandHosts(list: string): string[] {
  const parts = splitOutside(list)
  const names = parts.flatMap(expandOne)
  if (names.length === 0 || parts.join() !== list || names.some((name) => !/^[\w.-]+$/.test(name)))
    throw new AlphaError(`node list ${JSON.stringify(list)}: expected names such as gnode[10,20-22]`, { code: EXIT.usage })
  return names
}

/** Parts between the commas that stand outside brackets. */
function splitOutside(list: string): string[] {
  return list.match(/(?:[^,[]|\[[^\]]*\])+/g) ?? []
}

function expandOne(name: string): string[] {
  const [, before = "", inside, after = ""] = /^([^[]*)\[([^\]]*)\](.*)$/.exec(name) ?? []
  if (inside === undefined) return [name]
  const tails = expandOne(after)
  return inside.split(",").flatMap((range) => {
    const [first = "", last = first] = range.split("-")
    if (!/^\d+$/.test(first) || !/^\d+$/.test(last)) return [`${name}!`] // refused by the caller with the whole list
    const count = Number(last) - Number(first) + 1
    return Array.from({ length: Math.max(0, count) }, (_, i) => String(Number(first) + i).padStart(first.length, "0")).flatMap((n) =>
      tails.map((tail) => `${before}${n}${tail}`),
    )
  })
}
