/** Regular expressions in ECMAScript's syntax, as far as they describe texts and not positions in them. */
import { refusal } from "./engine-constraint-automaton.ts"
import { ANY, choice, complement, type Expression, normalise, nothing, type Ranges, repeat, sequence } from "./engine-constraint-grammar.ts"

/** Writes one character of a set: as UTF-8, or as it stands in a JSON string. */
export type Leaf = (ranges: Ranges) => Expression

const DIGIT: Ranges = [[0x30, 0x39]]
const WORD: Ranges = [[0x30, 0x39], [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]] // biome-ignore format: one line
const SPACE: Ranges = [[9, 13], [32, 32], [0xa0, 0xa0], [0x1680, 0x1680], [0x2000, 0x200a], [0x2028, 0x2029], [0x202f, 0x202f], [0x205f, 0x205f], [0x3000, 0x3000], [0xfeff, 0xfeff]] // biome-ignore format: one line
const LINE_ENDS: Ranges = [[10, 10], [13, 13], [0x2028, 0x2029]] // biome-ignore format: one line
const CLASSES: Readonly<Record<string, Ranges>> = {
  d: DIGIT,
  D: complement(DIGIT),
  w: WORD,
  W: complement(WORD),
  s: SPACE,
  S: complement(SPACE),
}
const CONTROLS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, v: 11, f: 12, "0": 0 }
/** Largest count of a quantifier. */
const COUNT_LIMIT = 10_000

/**
 * Texts that match `pattern`. Whole: the pattern describes the whole text; else a part of it, as JSON Schema has it, unless ^ and $ say otherwise.
 * Throws AlphaError naming what describes no text: look-around, back-references, word boundaries, anchors in the middle, \p.
 */
export function parseRegex(pattern: string, leaf: Leaf, whole: boolean): Expression {
  return new RegexParser(pattern, leaf, whole).parse()
}

class RegexParser {
  readonly #characters: readonly string[]
  #at = 0

  constructor(
    readonly pattern: string,
    readonly leaf: Leaf,
    readonly whole: boolean,
  ) {
    this.#characters = Array.from(pattern)
  }

  parse(): Expression {
    const any = repeat(this.leaf(ANY), 0)
    // ^ and $ belong to one alternative each.
    const items = this.#alternatives((parse) => {
      const start = this.#take("^")
      const body = parse()
      const end = this.#take("$")
      return this.whole ? body : sequence(...(start ? [] : [any]), body, ...(end ? [] : [any]))
    })
    if (this.#at < this.#characters.length) throw this.#wrong(`${this.#peek()} without an opening bracket`)
    return items
  }

  #wrong(what: string): Error {
    return refusal(`regex ${JSON.stringify(this.pattern)}: ${what} at ${this.#at}`)
  }

  #peek(ahead = 0): string | undefined {
    return this.#characters[this.#at + ahead]
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at++
    return true
  }

  #alternatives(around: (parse: () => Expression) => Expression): Expression {
    const items = [around(() => this.#terms())]
    while (this.#take("|")) items.push(around(() => this.#terms()))
    return choice(...items)
  }

  #terms(): Expression {
    const items: Expression[] = []
    for (let next = this.#peek(); next !== undefined && next !== "|" && next !== ")"; next = this.#peek()) {
      if (next === "$" && [undefined, "|"].includes(this.#peek(1))) break
      items.push(this.#quantified(this.#atom()))
    }
    return items.length === 0 ? nothing : sequence(...items)
  }

  #atom(): Expression {
    const next = this.#peek()!
    if (next === "(") return this.#group()
    if (next === "[") return this.leaf(this.#class())
    if (next === "^" || next === "$") throw this.#wrong(`the anchor ${next} inside the pattern is not supported`)
    if ("*+?".includes(next)) throw this.#wrong(`nothing before ${next}`)
    this.#at++
    if (next === ".") return this.leaf(complement(LINE_ENDS))
    if (next === "\\") return this.leaf(this.#escape(false))
    return this.leaf(single(next.codePointAt(0)!))
  }

  #group(): Expression {
    this.#at++
    if (this.#take("?")) {
      if (this.#take("<")) {
        if (["=", "!"].includes(this.#peek() ?? "")) throw this.#wrong("look-behind is not supported")
        while (this.#peek() !== undefined && !this.#take(">")) this.#at++
      } else if (!this.#take(":")) throw this.#wrong("look-ahead and flags are not supported")
    }
    const inside = this.#alternatives((parse) => parse())
    if (!this.#take(")")) throw this.#wrong("a group that does not end")
    return inside
  }

  #quantified(item: Expression): Expression {
    const next = this.#peek()
    let bounds: [number, number | undefined]
    if (next === "*") bounds = [0, undefined]
    else if (next === "+") bounds = [1, undefined]
    else if (next === "?") bounds = [0, 1]
    else {
      const counted = next === "{" ? /^\{(\d+)(,(\d*))?\}/.exec(this.#characters.slice(this.#at, this.#at + 24).join("")) : null
      if (counted === null) return item
      const min = Number(counted[1])
      const max = counted[2] === undefined ? min : counted[3] === "" ? undefined : Number(counted[3])
      if (max !== undefined && max < min) throw this.#wrong(`{${min},${max}} is out of order`)
      if (Math.max(min, max ?? 0) > COUNT_LIMIT) throw this.#wrong(`a count above ${COUNT_LIMIT}`)
      bounds = [min, max]
      this.#at += counted[0].length - 1
    }
    this.#at++
    this.#take("?") // lazy: the same texts
    if (["*", "+", "?"].includes(this.#peek() ?? "")) throw this.#wrong(`nothing before ${this.#peek()}`)
    return repeat(item, ...bounds)
  }

  #class(): Ranges {
    this.#at++
    const negated = this.#take("^")
    const ranges: (readonly [number, number])[] = []
    while (!this.#take("]")) {
      const low = this.#member()
      if (this.#peek() === "-" && this.#peek(1) !== "]" && low.length === 1 && low[0]![0] === low[0]![1]) {
        this.#at++
        const high = this.#member()
        if (high.length !== 1 || high[0]![0] < low[0]![0]) throw this.#wrong("a range that is none")
        ranges.push([low[0]![0], high[0]![1]])
      } else ranges.push(...low)
    }
    return negated ? complement(ranges) : normalise(ranges)
  }

  #member(): Ranges {
    const next = this.#peek()
    if (next === undefined) throw this.#wrong("a class that does not end")
    this.#at++
    return next === "\\" ? this.#escape(true) : single(next.codePointAt(0)!)
  }

  /** What follows a backslash. */
  #escape(inClass: boolean): Ranges {
    const next = this.#peek()
    if (next === undefined) throw this.#wrong("a backslash at the end")
    this.#at++
    const named = CLASSES[next]
    if (named !== undefined) return named
    if (inClass && next === "b") return single(8)
    if (next === "b" || next === "B") throw this.#wrong("word boundaries are not supported")
    if (next === "p" || next === "P") throw this.#wrong("\\p is not supported")
    if (/[1-9k]/.test(next)) throw this.#wrong("back-references are not supported")
    if (next === "x" || next === "u") return single(this.#hexadecimal(next))
    const control = CONTROLS[next]
    if (control !== undefined) return single(control)
    if (/[a-zA-Z]/.test(next)) throw this.#wrong(`\\${next} is not known`)
    return single(next.codePointAt(0)!)
  }

  #hexadecimal(kind: string): number {
    const rest = this.#characters.slice(this.#at, this.#at + 12).join("")
    const found = kind === "x" ? /^([0-9a-fA-F]{2})/.exec(rest) : /^(?:([0-9a-fA-F]{4})|\{([0-9a-fA-F]{1,6})\})/.exec(rest)
    const code = Number.parseInt(found?.[1] ?? found?.[2] ?? "", 16)
    if (found === null || !(code <= 0x10ffff)) throw this.#wrong(`\\${kind} without hexadecimal digits`)
    this.#at += found[0].length
    return code
  }
}

const single = (code: number): Ranges => [[code, code]]
