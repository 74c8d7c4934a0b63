/** Buckets of gradients: those that backward finishes first are summed over ranks while it goes on with the others. */
import { type Program, tensorsOf } from "./program.ts"
import { byteLength, type Tensor } from "./tensor.ts"

/**
 * `names` (states of the program) by the last node that writes to them, cut where `bytes` are reached; Infinity: one bucket. What is left at the
 * end goes with the last one unless it is half as large: nothing is left to hide its sum behind.
 */
export function buckets(program: Program, names: readonly string[], bytes: number): string[][] {
  const last = new Map<string, number>()
  program.nodes.forEach(({ op, inputs, outputs }, i) => {
    const changed = op.writes.flatMap((name) => tensorsOf({ value: inputs[name] }))
    for (const t of [...tensorsOf(outputs), ...changed]) if (t.role === "state") last.set(t.name, i)
  })
  const found: string[][] = []
  let room = 0
  for (const name of names.toSorted((a, b) => (last.get(a) ?? -1) - (last.get(b) ?? -1))) {
    if (room <= 0) {
      found.push([])
      room = bytes
    }
    found.at(-1)?.push(name)
    room -= byteLength(program.states.get(name) as Tensor)
  }
  const [before, rest] = [found.at(-2), found.at(-1)]
  if (before === undefined || rest === undefined || room <= bytes / 2) return found
  return [...found.slice(0, -2), [...before, ...rest]]
}
