/** JSON as grammar rules: values, strings with bounds, integers in a range. */
import {
  ANY,
  character,
  choice,
  complement,
  type Expression,
  intersect,
  literal,
  nothing,
  optional,
  type Ranges,
  repeat,
  rule,
  sequence,
} from "./engine-constraint-grammar.ts"

const digit = character([[0x30, 0x39]])
const hex = character([[0x30, 0x39], [0x41, 0x46], [0x61, 0x66]]) // biome-ignore format: one line
/** Characters that stand for themselves in a JSON string. */
const PLAIN = complement([[0, 0x1f], [0x22, 0x22], [0x5c, 0x5c], [0x7f, 0x7f]]) // biome-ignore format: one line
const SHORT: readonly (readonly [code: number, letter: string])[] = [
  [0x22, '"'],
  [0x5c, "\\"],
  [8, "b"],
  [12, "f"],
  [10, "n"],
  [13, "r"],
  [9, "t"],
]

/** One character of a set as it stands in a JSON string: by itself, or escaped where it must be. */
export function jsonCharacter(ranges: Ranges): Expression {
  const items: Expression[] = []
  const plain = intersect(ranges, PLAIN)
  if (plain.length > 0) items.push(character(plain))
  for (const [from, to] of intersect(ranges, [
    [0, 0x1f],
    [0x22, 0x22],
    [0x5c, 0x5c],
    [0x7f, 0x7f],
  ])) {
    // biome-ignore format: one line
    for (let code = from; code <= to; code++) {
      const short = SHORT.find(([known]) => known === code)
      items.push(literal(short === undefined ? `\\u${code.toString(16).padStart(4, "0")}` : `\\${short[1]}`))
    }
  }
  return choice(...items)
}

const digits = (min: number, max: number): Expression => repeat(digit, min, max)
const natural = choice(literal("0"), sequence(character([[0x31, 0x39]]), digits(0, 14)))
/** Four hexadecimal digits that are no half of a surrogate pair. */
const codeUnit = choice(
  sequence(character([[0x30, 0x39], [0x41, 0x43], [0x45, 0x46], [0x61, 0x63], [0x65, 0x66]]), hex, hex, hex), // biome-ignore format: one line
  sequence(character([[0x44, 0x44], [0x64, 0x64]]), character([[0x30, 0x37]]), hex, hex), // biome-ignore format: one line
)

/** Rules that schemas use by name; every value is finite, every string has UTF-8. */
export const JSON_RULES: ReadonlyMap<string, Expression> = new Map([
  // As llama.cpp has it: enough for pretty printing, and it ends.
  ["ws", choice(nothing, literal(" "), sequence(literal("\n"), repeat(character([[0x20, 0x20], [9, 9]]), 0, 20)))], // biome-ignore format: one line
  [
    "char",
    choice(
      character(PLAIN),
      sequence(
        literal("\\"),
        choice(
          character(Array.from('"\\/bfnrt', (c): [number, number] => [c.codePointAt(0)!, c.codePointAt(0)!])),
          sequence(literal("u"), codeUnit),
        ),
      ),
    ),
  ],
  ["string", sequence(literal('"'), repeat(rule("char"), 0), literal('"'))],
  ["integer", sequence(optional(literal("-")), natural)],
  [
    "number",
    sequence(
      optional(literal("-")),
      natural,
      optional(sequence(literal("."), digits(1, 16))),
      optional(sequence(character([[0x45, 0x45], [0x65, 0x65]]), optional(character([[0x2b, 0x2b], [0x2d, 0x2d]])), digits(1, 2))), // biome-ignore format: one line
    ),
  ],
  ["boolean", choice(literal("true"), literal("false"))],
  ["null", literal("null")],
  ["value", choice(...["string", "number", "boolean", "null", "array", "object"].map(rule))],
  ["array", sequence(literal("["), rule("ws"), optional(listOf(rule("value"), 1)), rule("ws"), literal("]"))],
  [
    "object",
    sequence(literal("{"), rule("ws"), optional(listOf(sequence(rule("string"), colon(), rule("value")), 1)), rule("ws"), literal("}")),
  ],
])

/** The colon of a pair. */
export function colon(): Expression {
  return sequence(literal(":"), rule("ws"))
}

/** The comma between two items. */
export function comma(): Expression {
  return sequence(literal(","), rule("ws"))
}

/** min … max items with commas between; min ≥ 1. */
export function listOf(item: Expression, min: number, max?: number): Expression {
  return sequence(item, repeat(sequence(comma(), item), min - 1, max === undefined ? undefined : max - 1))
}

/** A string of min … max characters. */
export const boundedString = (min: number, max: number | undefined): Expression =>
  sequence(literal('"'), repeat(rule("char"), min, max), literal('"'))

/** Integers from `min` to `max`, without leading zeros; undefined: without bound on that side (15 digits are written at most). */
export function integerRange(min: number | undefined, max: number | undefined): Expression {
  const most = 10 ** 15 - 1
  const [low, high] = [Math.max(-most, min ?? -most), Math.min(most, max ?? most)]
  const items: Expression[] = []
  if (low < 0) items.push(sequence(literal("-"), choice(...between(Math.max(1, -high), -low))))
  if (high >= 0) items.push(choice(...between(Math.max(0, low), high)))
  return choice(...items)
}

/** Digits of a bounded number: before the point, and after it, few enough that no rounding crosses a bound. */
const BOUND_LIMIT = 10 ** 9
const FRACTION_DIGITS = 6

/** A whole bound of a number; `open`: the bound itself is outside. */
export interface Bound {
  readonly at: number
  readonly open: boolean
}

/** Numbers between two whole bounds, without exponent; undefined: as far as nine digits go. */
export function numberRange(
  min: Bound = { at: 1 - BOUND_LIMIT, open: false },
  max: Bound = { at: BOUND_LIMIT - 1, open: false },
): Expression {
  const negated = ({ at, open }: Bound): Bound => ({ at: -at, open })
  const zero = { at: 0, open: false }
  const items: Expression[] = []
  if (min.at < 0) {
    const negative = magnitudes(max.at < 0 || (max.at === 0 && max.open) ? negated(max) : zero, negated(min))
    items.push(...negative.map((item) => sequence(literal("-"), item)))
  }
  if (max.at > 0 || (max.at === 0 && !max.open)) items.push(...magnitudes(min.at >= 0 ? min : zero, max))
  return choice(...items)
}

/** Texts of numbers between two bounds that are not negative. */
function magnitudes(low: Bound, high: Bound): Expression[] {
  const items: Expression[] = []
  const from = low.open ? low.at + 1 : low.at
  if (from < high.at) {
    const fraction = optional(sequence(literal("."), digits(1, FRACTION_DIGITS)))
    items.push(sequence(choice(...between(from, high.at - 1)), fraction))
  }
  if (low.open && low.at < high.at) {
    // At least one digit after the point is none of the zeros.
    const after = Array.from({ length: FRACTION_DIGITS }, (_, zeros) =>
      sequence(literal("0".repeat(zeros)), character([[0x31, 0x39]]), digits(0, FRACTION_DIGITS - 1 - zeros)),
    )
    items.push(sequence(literal(`${low.at}.`), choice(...after)))
  }
  if (!high.open && (high.at > low.at || !low.open)) items.push(literal(String(high.at)))
  return items
}

/** Texts of low … high, both ≥ 0. */
function between(low: number, high: number): Expression[] {
  const items: Expression[] = []
  for (let from = low; from <= high; ) {
    const length = String(from).length
    const to = Math.min(high, 10 ** length - 1)
    items.push(...sameLength(String(from), String(to)))
    from = to + 1
  }
  return items
}

/** Texts between two numbers of as many digits. */
function sameLength(low: string, high: string): Expression[] {
  if (low === "") return [nothing]
  const one = (a: string, b: string): Expression => character([[a.charCodeAt(0), b.charCodeAt(0)]])
  const [a, b] = [low[0]!, high[0]!]
  const [lowRest, highRest] = [low.slice(1), high.slice(1)]
  if (a === b) return [sequence(one(a, a), choice(...sameLength(lowRest, highRest)))]
  const zeros = lowRest.replace(/./g, "0")
  const nines = zeros.replace(/./g, "9")
  const cutLow = lowRest !== zeros
  const cutHigh = highRest !== nines
  const items: Expression[] = []
  if (cutLow) items.push(sequence(one(a, a), choice(...sameLength(lowRest, nines))))
  const [first, last] = [Number(a) + (cutLow ? 1 : 0), Number(b) - (cutHigh ? 1 : 0)]
  if (first <= last) items.push(sequence(one(String(first), String(last)), digits(lowRest.length, lowRest.length)))
  if (cutHigh) items.push(sequence(one(b, b), choice(...sameLength(zeros, highRest))))
  return items
}

/** Any string whose text is none of `names`; without escapes, which could spell one. */
export function otherString(names: readonly string[]): Expression {
  const inside = (prefix: readonly string[]): Expression => {
    const here = names.map((name) => Array.from(name)).filter((name) => prefix.every((c, i) => name[i] === c))
    const next = new Set(here.flatMap((name) => name[prefix.length] ?? []))
    const free = intersect(PLAIN, complement(Array.from(next, (c): [number, number] => [c.codePointAt(0)!, c.codePointAt(0)!])))
    const items: Expression[] = [sequence(character(free), repeat(character(intersect(ANY, PLAIN)), 0))]
    if (!here.some((name) => name.length === prefix.length)) items.push(nothing)
    for (const c of next) {
      if (intersect([[c.codePointAt(0)!, c.codePointAt(0)!]], PLAIN).length > 0) {
        items.push(sequence(literal(c), inside([...prefix, c])))
      }
    }
    return choice(...items)
  }
  return sequence(literal('"'), inside([]), literal('"'))
}
