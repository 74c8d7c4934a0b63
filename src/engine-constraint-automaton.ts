/** A grammar as a pushdown automaton over bytes, made deterministic where texts go: a state is the set of all places that a text so far may be at. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Expression, Grammar } from "./engine-constraint-grammar.ts"

/** A node of a rule's graph. */
interface Node {
  readonly bytes: { readonly from: number; readonly to: number; readonly target: Node }[]
  readonly empty: Node[]
  readonly calls: { readonly name: string; readonly back: Node }[]
  readonly serial: number
  isEnd: boolean
  /** Least bytes from here to the end of the rule. */
  least: number
}

/** Where to go on after the rules that are open, the innermost first. */
export interface Stack {
  readonly serial: number
  readonly back: Node
  readonly below: Stack | undefined
  readonly depth: number
  /** Least bytes from here to the end of the text. */
  readonly least: number
  /** What a text may become that has ended the innermost rule. */
  popped: State | undefined
}

interface Place {
  readonly node: Node
  readonly stack: Stack | undefined
}

/** What a text so far may become. */
export interface State {
  readonly places: readonly Place[]
  /** The text may end here. */
  readonly accepts: boolean
  /** Of a state that `isolate` made or that follows one: what was cut off may go on here. */
  readonly leaves: boolean
  /** Least bytes to a text that may end. */
  readonly least: number
  /** By byte; null: no text goes on so; undefined: not looked at yet. */
  readonly next: (State | null | undefined)[]
  readonly serial: number
  isolated: Isolated | undefined
}

/** A state without what lies below all its places: `local` is the same for many texts. */
export interface Isolated {
  readonly local: State
  /** Undefined: nothing was cut off. */
  readonly base: Stack | undefined
}

/** Nodes of the largest grammar. */
const NODE_LIMIT = 100_000
/** Places that a text may be at, at most. */
const PLACE_LIMIT = 4096
/** States, at most: a grammar whose texts lead to ever new ones is refused when it gets there. */
const STATE_LIMIT = 40_000

export class Automaton {
  readonly #starts = new Map<string, Node>()
  readonly #stacks = new Map<string, Stack>()
  readonly #states = new Map<string, State>()
  readonly start: State
  /** Stands for what `isolate` cuts off. */
  readonly #hole: Stack
  #nodes = 0
  #stackCount = 0

  /** Throws AlphaError where a rule is missing, calls itself before any byte, never ends, or all is too large. */
  constructor(grammar: Grammar) {
    this.#hole = { serial: -1, back: this.#node(), below: undefined, depth: 0, least: 0, popped: undefined }
    const rules = [["", grammar.root] as const, ...grammar.rules]
    for (const [name] of rules) this.#starts.set(name, this.#node())
    for (const [name, expression] of rules) {
      const end = this.#node()
      end.isEnd = true
      this.#build(expression, this.#starts.get(name)!, end)
    }
    this.#measure()
    if (!Number.isFinite(this.#starts.get("")!.least)) throw refusal("grammar: no text can ever be complete")
    this.start = this.#state([{ node: this.#starts.get("")!, stack: undefined }])
  }

  /** States made so far. */
  get size(): number {
    return this.#states.size
  }

  #node(): Node {
    if (this.#nodes >= NODE_LIMIT) throw refusal(`grammar: more than ${NODE_LIMIT} nodes; lower its largest counts`)
    return { bytes: [], empty: [], calls: [], serial: this.#nodes++, isEnd: false, least: Number.POSITIVE_INFINITY }
  }

  #build(expression: Expression, from: Node, to: Node): void {
    switch (expression.kind) {
      case "byte":
        for (const [low, high] of expression.ranges) from.bytes.push({ from: low, to: high, target: to })
        break
      case "rule":
        if (!this.#starts.has(expression.name)) throw refusal(`grammar: no rule ${expression.name}`)
        from.calls.push({ name: expression.name, back: to })
        break
      case "choice":
        for (const item of expression.items) this.#build(item, from, to)
        break
      case "sequence": {
        let at = from
        expression.items.forEach((item, i) => {
          const next = i === expression.items.length - 1 ? to : this.#node()
          this.#build(item, at, next)
          at = next
        })
        if (expression.items.length === 0) from.empty.push(to)
        break
      }
      case "repeat":
        this.#repeat(expression, from, to)
    }
  }

  #repeat({ item, min, max }: Extract<Expression, { kind: "repeat" }>, from: Node, to: Node): void {
    let at = from
    for (let i = 0; i < min; i++) {
      const next = this.#node()
      this.#build(item, at, next)
      at = next
    }
    if (max === undefined) {
      const loop = this.#node()
      at.empty.push(loop)
      const again = this.#node()
      this.#build(item, loop, again)
      again.empty.push(loop)
      loop.empty.push(to)
      return
    }
    at.empty.push(to)
    for (let i = min; i < max; i++) {
      const next = this.#node()
      this.#build(item, at, next)
      next.empty.push(to)
      at = next
    }
  }

  /** Least bytes to each rule's end, from every node: lowered until nothing changes. */
  #measure(): void {
    const all: Node[] = []
    const seen = new Set<Node>()
    const visit = (first: Node) => {
      const open = [first]
      for (let node = open.pop(); node !== undefined; node = open.pop()) {
        if (seen.has(node)) continue
        seen.add(node)
        all.push(node)
        open.push(...node.empty, ...node.bytes.map(({ target }) => target), ...node.calls.map(({ back }) => back))
      }
    }
    for (const start of this.#starts.values()) visit(start)
    for (let changed = true; changed; ) {
      changed = false
      for (let i = all.length - 1; i >= 0; i--) {
        const node = all[i]!
        let least = node.isEnd ? 0 : Number.POSITIVE_INFINITY
        for (const next of node.empty) least = Math.min(least, next.least)
        for (const { target } of node.bytes) least = Math.min(least, 1 + target.least)
        for (const { name, back } of node.calls) least = Math.min(least, this.#starts.get(name)!.least + back.least)
        if (least >= node.least) continue
        node.least = least
        changed = true
      }
    }
  }

  #push(back: Node, below: Stack | undefined): Stack | undefined {
    // Nothing is left to do after the call: its end is the end of the caller.
    if (back.isEnd && back.empty.length + back.bytes.length + back.calls.length === 0) return below
    const key = `${back.serial},${below?.serial ?? ""}`
    const known = this.#stacks.get(key)
    if (known !== undefined) return known
    const least = back.least + (below?.least ?? 0)
    const made = { serial: this.#stackCount++, back, below, depth: 1 + (below?.depth ?? 0), least, popped: undefined }
    this.#stacks.set(key, made)
    return made
  }

  /** The state of all places that can be reached from these without a byte. */
  #state(from: readonly Place[]): State {
    const seen = new Map<string, Place>()
    const open = [...from]
    let [accepts, leaves] = [false, false]
    let least = Number.POSITIVE_INFINITY
    for (let place = open.pop(); place !== undefined; place = open.pop()) {
      const { node, stack } = place
      if (!Number.isFinite(node.least)) continue
      const key = `${node.serial},${stack?.serial ?? ""}`
      if (seen.has(key)) continue
      if (seen.size >= PLACE_LIMIT) throw refusal("grammar: too ambiguous, or a rule calls itself before any byte")
      seen.set(key, place)
      least = Math.min(least, node.least + (stack?.least ?? 0))
      for (const next of node.empty) open.push({ node: next, stack })
      for (const { name, back } of node.calls) open.push({ node: this.#starts.get(name)!, stack: this.#push(back, stack) })
      if (!node.isEnd) continue
      if (stack === undefined) accepts = true
      else if (stack === this.#hole) leaves = true
      else open.push({ node: stack.back, stack: stack.below })
    }
    const kept = [...seen].filter(([, { node }]) => node.bytes.length > 0).sort(([a], [b]) => (a < b ? -1 : 1))
    const key = `${accepts} ${leaves} ${kept.map(([name]) => name).join(" ")}`
    const known = this.#states.get(key)
    if (known !== undefined) return known
    if (this.#states.size >= STATE_LIMIT) throw refusal(`grammar: more than ${STATE_LIMIT} states`, "it leaves too much open for too long")
    const places = kept.map(([, place]) => place)
    const made: State = { places, accepts, leaves, least, next: new Array(256), serial: this.#states.size, isolated: undefined }
    this.#states.set(key, made)
    return made
  }

  /** The state by itself, and the rules that are open below all its places. */
  isolate(state: State): Isolated {
    if (state.isolated !== undefined) return state.isolated
    let base = state.places[0]?.stack
    for (const { stack } of state.places) {
      let other = stack
      while (base !== other) {
        if ((base?.depth ?? 0) >= (other?.depth ?? 0)) base = base?.below
        else other = other?.below
      }
    }
    const relative = (stack: Stack | undefined): Stack =>
      stack === base || stack === undefined ? this.#hole : (this.#push(stack.back, relative(stack.below)) as Stack)
    const local = base === undefined ? state : this.#state(state.places.map(({ node, stack }) => ({ node, stack: relative(stack) })))
    state.isolated = { local, base }
    return state.isolated
  }

  /** What goes on after the innermost rule of `stack` has ended. */
  pop(stack: Stack): State {
    stack.popped ??= this.#state([{ node: stack.back, stack: stack.below }])
    return stack.popped
  }

  /** Where `byte` leads; null: nowhere. */
  step(state: State, byte: number): State | null {
    const known = state.next[byte]
    if (known !== undefined) return known
    const targets: Place[] = []
    for (const { node, stack } of state.places) {
      for (const { from, to, target } of node.bytes) if (from <= byte && byte <= to) targets.push({ node: target, stack })
    }
    const found = targets.length === 0 ? null : this.#state(targets)
    const next = found === null || !Number.isFinite(found.least) ? null : found
    state.next[byte] = next
    return next
  }
}

export const refusal = (message: string, hint?: string): AlphaError => new AlphaError(message, { hint, code: EXIT.usage })
