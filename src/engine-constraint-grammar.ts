/** Grammars over bytes: what constraints are written down as before they become an automaton. */

/** A set of bytes or code points: sorted, disjoint, inclusive ranges. */
export type Ranges = readonly (readonly [from: number, to: number])[]

export type Expression =
  | { readonly kind: "byte"; readonly ranges: Ranges }
  | { readonly kind: "sequence"; readonly items: readonly Expression[] }
  | { readonly kind: "choice"; readonly items: readonly Expression[] }
  /** max undefined: without end. */
  | { readonly kind: "repeat"; readonly item: Expression; readonly min: number; readonly max: number | undefined }
  | { readonly kind: "rule"; readonly name: string }

/** Rules by name; texts are derived from `root`. */
export interface Grammar {
  readonly root: Expression
  readonly rules: ReadonlyMap<string, Expression>
}

export const sequence = (...items: readonly Expression[]): Expression => (items.length === 1 ? items[0]! : { kind: "sequence", items })
export const choice = (...items: readonly Expression[]): Expression => (items.length === 1 ? items[0]! : { kind: "choice", items })
export const repeat = (item: Expression, min: number, max?: number): Expression => ({ kind: "repeat", item, min, max })
export const optional = (item: Expression): Expression => repeat(item, 0, 1)
export const rule = (name: string): Expression => ({ kind: "rule", name })
export const nothing: Expression = { kind: "sequence", items: [] }

/** Exactly this text. */
export const literal = (text: string): Expression =>
  sequence(...Array.from(new TextEncoder().encode(text), (byte): Expression => ({ kind: "byte", ranges: [[byte, byte]] })))

/** Every code point but the surrogates, which have no UTF-8. */
const CHARACTERS: Ranges = [
  [0, 0xd7ff],
  [0xe000, 0x10ffff],
]
/** Ends of the code points that take 1, 2, 3, 4 bytes. */
const LENGTHS = [0x7f, 0x7ff, 0xffff, 0x10ffff]

/** One character of a set of code points, as UTF-8. */
export function character(ranges: Ranges): Expression {
  const items: Expression[] = []
  for (const [from, to] of intersect(ranges, CHARACTERS)) {
    let start = from
    for (const end of LENGTHS) {
      if (start > to || start > end) continue
      items.push(...utf8Range(bytesOf(start), bytesOf(Math.min(to, end))))
      start = end + 1
    }
  }
  return choice(...items)
}

const bytesOf = (codePoint: number): number[] => [...new TextEncoder().encode(String.fromCodePoint(codePoint))]

/** Byte sequences between two of the same length, in the order of code points. */
function utf8Range(from: readonly number[], to: readonly number[]): Expression[] {
  const byte = (low: number, high: number): Expression => ({ kind: "byte", ranges: [[low, high]] })
  const [a, b] = [from[0]!, to[0]!]
  if (from.length === 1) return [byte(a, b)]
  const [low, high] = [from.slice(1), to.slice(1)]
  const [least, most] = [low.map(() => 0x80), low.map(() => 0xbf)]
  const after = (first: number, last: number, tails: Expression[]): Expression => sequence(byte(first, last), choice(...tails))
  if (a === b) return [after(a, b, utf8Range(low, high))]
  const items: Expression[] = []
  const cutLow = low.some((x) => x !== 0x80)
  const cutHigh = high.some((x) => x !== 0xbf)
  if (cutLow) items.push(after(a, a, utf8Range(low, most)))
  const [first, last] = [cutLow ? a + 1 : a, cutHigh ? b - 1 : b]
  if (first <= last) items.push(after(first, last, utf8Range(least, most)))
  if (cutHigh) items.push(after(b, b, utf8Range(least, high)))
  return items
}

/** Sorted and disjoint. */
export function normalise(ranges: Ranges): [number, number][] {
  const sorted = ranges.map(([a, b]): [number, number] => [a, b]).sort((x, y) => x[0] - y[0])
  const out: [number, number][] = []
  for (const range of sorted) {
    const last = out.at(-1)
    if (last !== undefined && range[0] <= last[1] + 1) last[1] = Math.max(last[1], range[1])
    else out.push(range)
  }
  return out
}

export function complement(ranges: Ranges): [number, number][] {
  const out: [number, number][] = []
  let next = 0
  for (const [from, to] of normalise(ranges)) {
    if (from > next) out.push([next, from - 1])
    next = to + 1
  }
  if (next <= 0x10ffff) out.push([next, 0x10ffff])
  return out
}

export function intersect(a: Ranges, b: Ranges): [number, number][] {
  const out: [number, number][] = []
  for (const [from, to] of normalise(a)) {
    for (const [low, high] of normalise(b))
      if (Math.max(from, low) <= Math.min(to, high)) out.push([Math.max(from, low), Math.min(to, high)])
  }
  return out
}

/** Any character. */
export const ANY: Ranges = [[0, 0x10ffff]]
