/** GBNF, the grammars that llama.cpp reads: rules `name ::= …` of texts, classes, names, groups, alternatives and repetitions. */
import { refusal } from "./engine-constraint-automaton.ts"
import {
  ANY,
  character,
  choice,
  complement,
  type Expression,
  type Grammar,
  literal,
  nothing,
  type Ranges,
  repeat,
  rule,
  sequence,
} from "./engine-constraint-grammar.ts"

const NAME = /[A-Za-z0-9_-]/
const SPACE = /[ \t]/
const CONTROLS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9 }
const COUNT_LIMIT = 10_000

/** The grammar in `text`. Throws AlphaError naming the line. */
export function parseGbnf(text: string): Grammar {
  return new GbnfParser(text).parse()
}

class GbnfParser {
  readonly #characters: readonly string[]
  readonly #rules = new Map<string, Expression>()
  readonly #named = new Set<string>()
  #at = 0

  constructor(text: string) {
    this.#characters = Array.from(text)
  }

  parse(): Grammar {
    this.#skip(true)
    while (this.#at < this.#characters.length) {
      const name = this.#name()
      this.#skip(false)
      for (const expected of "::=") if (!this.#take(expected)) throw this.#wrong(`::= is missing after ${name}`)
      this.#skip(true)
      if (this.#rules.has(name)) throw this.#wrong(`rule ${name} is there twice`)
      this.#rules.set(name, this.#alternatives(false))
      this.#skip(true)
    }
    for (const name of ["root", ...this.#named]) if (!this.#rules.has(name)) throw refusal(`grammar: no rule ${name}`)
    return { root: rule("root"), rules: this.#rules }
  }

  #wrong(what: string): Error {
    const line = this.#characters.slice(0, this.#at).filter((character) => character === "\n").length + 1
    return refusal(`grammar, line ${line}: ${what}`)
  }

  #peek(): string | undefined {
    return this.#characters[this.#at]
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at++
    return true
  }

  /** Spaces and comments, with or without line ends. */
  #skip(lines: boolean): void {
    for (;;) {
      const next = this.#peek()
      if (next === "#") while (this.#peek() !== undefined && this.#peek() !== "\n") this.#at++
      else if (next !== undefined && (SPACE.test(next) || (lines && /[\r\n]/.test(next)))) this.#at++
      else return
    }
  }

  #name(): string {
    let name = ""
    for (let next = this.#peek(); next !== undefined && NAME.test(next); next = this.#peek()) {
      name += next
      this.#at++
    }
    if (name === "") throw this.#wrong(`a name is expected, found ${JSON.stringify(this.#peek() ?? "the end")}`)
    return name
  }

  #alternatives(nested: boolean): Expression {
    const items = [this.#terms(nested)]
    while (this.#take("|")) {
      this.#skip(true)
      items.push(this.#terms(nested))
    }
    return choice(...items)
  }

  #terms(nested: boolean): Expression {
    const items: Expression[] = []
    for (;;) {
      const item = this.#term()
      if (item === undefined) return items.length === 0 ? nothing : sequence(...items)
      items.push(this.#quantified(item))
      this.#skip(nested)
    }
  }

  #term(): Expression | undefined {
    const next = this.#peek()
    if (next === '"') return this.#text()
    if (next === "[") return character(this.#class())
    if (next === "(") {
      this.#at++
      this.#skip(true)
      const inside = this.#alternatives(true)
      if (!this.#take(")")) throw this.#wrong("a group that does not end")
      return inside
    }
    if (next === ".") {
      this.#at++
      return character(ANY)
    }
    if (next === undefined || !NAME.test(next)) return undefined
    const name = this.#name()
    this.#named.add(name)
    return rule(name)
  }

  #text(): Expression {
    this.#at++
    let text = ""
    while (!this.#take('"')) text += String.fromCodePoint(this.#code("text"))
    return literal(text)
  }

  #class(): Ranges {
    this.#at++
    const negated = this.#take("^")
    const ranges: [number, number][] = []
    while (!this.#take("]")) {
      const from = this.#code("class")
      const isRange = this.#peek() === "-" && this.#characters[this.#at + 1] !== "]"
      if (isRange) this.#at++
      const to = isRange ? this.#code("class") : from
      if (to < from) throw this.#wrong("a range that is none")
      ranges.push([from, to])
    }
    return negated ? complement(ranges) : ranges
  }

  /** One character of a text or class, escaped or not. */
  #code(where: string): number {
    const next = this.#peek()
    if (next === undefined || next === "\n") throw this.#wrong(`a ${where} that does not end`)
    this.#at++
    if (next !== "\\") return next.codePointAt(0)!
    const kind = this.#peek() ?? ""
    this.#at++
    const digits = { x: 2, u: 4, U: 8 }[kind]
    if (digits === undefined) return CONTROLS[kind] ?? kind.codePointAt(0) ?? 0x5c
    const code = Number.parseInt(this.#characters.slice(this.#at, this.#at + digits).join(""), 16)
    if (!(code <= 0x10ffff)) throw this.#wrong(`\\${kind} without ${digits} hexadecimal digits`)
    this.#at += digits
    return code
  }

  #quantified(item: Expression): Expression {
    if (this.#take("*")) return repeat(item, 0)
    if (this.#take("+")) return repeat(item, 1)
    if (this.#take("?")) return repeat(item, 0, 1)
    if (this.#peek() !== "{") return item
    const found = /^\{\s*(\d+)\s*(,\s*(\d*)\s*)?\}/.exec(this.#characters.slice(this.#at, this.#at + 40).join(""))
    if (found === null) throw this.#wrong("{ without counts")
    this.#at += found[0].length
    const min = Number(found[1])
    const max = found[2] === undefined ? min : found[3] === "" ? undefined : Number(found[3])
    if ((max !== undefined && max < min) || Math.max(min, max ?? 0) > COUNT_LIMIT) throw this.#wrong(`the counts ${found[0]}`)
    return repeat(item, min, max)
  }
}
