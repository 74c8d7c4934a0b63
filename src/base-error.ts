/** The one error a user sees: what is wrong, the next step, the exit code. */

/** Exit codes of `alpha`; scripts may rely on them. */
export const EXIT = {
  ok: 0,
  /** The work was tried and failed. */
  failure: 1,
  /** The command line or configuration is wrong; nothing was started. */
  usage: 2,
  /** An input file is missing, damaged or not what was expected. */
  data: 3,
  /** The device or native library that was asked for cannot be had. */
  device: 4,
  /** Another process holds the run, port or lock. */
  busy: 5,
  /** A second SIGINT, SIGTERM or SIGHUP ended the program at once (128 + 2). */
  interrupted: 130,
} as const

/**
 * An error for people. `message` names the thing and the value ("data x.txt: 0 bytes"), `hint` the next step, `code` the exit code.
 * Library code throws it; only `cli.ts` prints it and exits.
 */
export class AlphaError extends Error {
  override readonly name = "AlphaError"
  readonly hint: string | undefined
  readonly code: number

  constructor(message: string, options: { hint?: string | undefined; code?: number; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.hint = options.hint
    this.code = options.code ?? EXIT.failure
  }
}

/**
 * The candidate a mistyped `name` most likely meant, or undefined when none is close.
 * Case, `-` and `_` do not count; a swap of neighbours counts as one edit; about a third of the letters may differ, one of two.
 */
export function nearest(name: string, candidates: Iterable<string>): string | undefined {
  const plain = (text: string) => text.toLowerCase().replace(/[-_]/g, "")
  const wanted = plain(name)
  let best: string | undefined
  let bestDistance = (wanted.length === 2 ? 1 : Math.round(wanted.length / 3)) + 1
  for (const candidate of candidates) {
    const other = plain(candidate)
    const isPrefix = wanted.length >= 3 && (other.startsWith(wanted) || wanted.startsWith(other)) && other.length >= 3
    const distance = Math.min(editDistance(wanted, other), isPrefix ? 1.5 : Infinity)
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

/** Optimal string alignment distance: insert, delete, replace, swap neighbours. editDistance("lern", "learn") = 1. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replace = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      let cost = Math.min(last[j]! + 1, row[j - 1]! + 1, replace)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) cost = Math.min(cost, beforeLast[j - 2]! + 1)
      row.push(cost)
    }
    beforeLast = last
    last = row
  }
  return last[b.length]!
}
