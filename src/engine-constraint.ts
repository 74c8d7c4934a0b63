/** What answers must match: constraints as data → automata, kept while they are in use; masks of tokens for answers. */
import { Automaton, refusal } from "./engine-constraint-automaton.ts"
import { parseGbnf } from "./engine-constraint-gbnf.ts"
import { ANY, character, choice, type Expression, type Grammar, literal, repeat, rule, sequence } from "./engine-constraint-grammar.ts"
import { Masks, TokenMask } from "./engine-constraint-mask.ts"
import { parseRegex } from "./engine-constraint-regex.ts"
import { objectGrammar, schemaGrammar } from "./engine-constraint-schema.ts"
import type { Vocabulary } from "./engine-constraint-vocabulary.ts"
import type { Constraint } from "./engine-serve-protocol.ts"

/** Automata kept and their states together; states of one before it is made anew: they grow with every new text. */
const KEPT = 32
const KEPT_STATES = 60_000
const STATE_LIMIT = 20_000

/** A grammar ready to use, with what was found for its states so far. */
export class Compiled {
  #automaton: Automaton
  #masks = new WeakMap<Vocabulary, Masks>()

  constructor(readonly grammar: Grammar) {
    this.#automaton = new Automaton(grammar)
  }

  get states(): number {
    return this.#automaton.size
  }

  /** The mask of one answer; `ends` are tokens that may end it. */
  mask(vocabulary: Vocabulary, ends: ReadonlySet<number>): TokenMask {
    if (this.#automaton.size > STATE_LIMIT) {
      this.#automaton = new Automaton(this.grammar)
      this.#masks = new WeakMap()
    }
    const masks = this.#masks.get(vocabulary) ?? new Masks(this.#automaton, vocabulary)
    this.#masks.set(vocabulary, masks)
    return new TokenMask(masks, ends)
  }
}

const kept = new Map<string, Compiled>()

/** Throws AlphaError naming what in the constraint is wrong or not supported. */
export function compileConstraint(constraint: Constraint): Compiled {
  const key = shallowEnough(() => JSON.stringify(constraint))
  const known = kept.get(key)
  kept.delete(key)
  const compiled = known ?? shallowEnough(() => new Compiled(grammarOf(constraint)))
  kept.set(key, compiled)
  let [count, states] = [0, 0]
  for (const [other, { states: own }] of [...kept].reverse()) {
    states += own
    if (++count > 1 && (count > KEPT || states > KEPT_STATES)) kept.delete(other)
  }
  return compiled
}

/** Work that calls itself for what is nested: the stack's end must not be the engine's. */
function shallowEnough<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof RangeError) throw refusal("constraint: nests too deeply, or refers to itself without end")
    throw error
  }
}

function grammarOf(constraint: Constraint): Grammar {
  const rules = new Map<string, Expression>()
  const root = expressionOf(constraint, rules, "")
  return { root, rules }
}

/** The constraint as an expression; its rules go to `rules` under names of their own. */
function expressionOf(constraint: Constraint, rules: Map<string, Expression>, path: string): Expression {
  switch (constraint.type) {
    case "text":
      return repeat(character(ANY), 0)
    case "literal":
      return literal(constraint.text)
    case "regex":
      return parseRegex(constraint.pattern, character, true)
    case "sequence":
      return sequence(...constraint.items.map((item, i) => expressionOf(item, rules, `${path}.${i}`)))
    case "choice":
      return choice(...constraint.items.map((item, i) => expressionOf(item, rules, `${path}.${i}`)))
    case "grammar":
      return adopt(parseGbnf(constraint.text), rules, path)
    case "json_object":
      return adopt(objectGrammar(), rules, path)
    case "json_schema":
      return adopt(schemaGrammar(constraint.schema), rules, path)
  }
}

/** The root of a grammar whose rules are now called `path`/name. */
function adopt({ root, rules: own }: Grammar, rules: Map<string, Expression>, path: string): Expression {
  const renamed = (expression: Expression): Expression => {
    if (expression.kind === "rule") return rule(`${path}/${expression.name}`)
    if (expression.kind === "repeat") return { ...expression, item: renamed(expression.item) }
    if (expression.kind === "byte") return expression
    return { ...expression, items: expression.items.map(renamed) }
  }
  for (const [name, expression] of own) rules.set(`${path}/${name}`, renamed(expression))
  return renamed(root)
}

export { TokenMask } from "./engine-constraint-mask.ts"
export { type Vocabulary, vocabularyOf } from "./engine-constraint-vocabulary.ts"
