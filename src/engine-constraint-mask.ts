/** Which tokens may come next: an automaton over bytes walked along the tree of all tokens. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Automaton, State } from "./engine-constraint-automaton.ts"
import type { Vocabulary } from "./engine-constraint-vocabulary.ts"

/** Tokens that go on within a state's own rules: the same for all texts that are in these, however they came there. */
interface Local {
  readonly mask: Int32Array
  /** By id: least bytes from there to the end of those rules; NEVER where the token does not go on. */
  readonly least: Uint16Array
  /** Nodes of the vocabulary with whose text these rules may end, though tokens go on. */
  readonly leaving: readonly number[]
  readonly count: number
  readonly farthest: number
}

/** Tokens that a state allows, and the longest way from any of them to an end. */
interface Allowed {
  readonly mask: Int32Array
  readonly count: number
  readonly farthest: number
}

const NEVER = 0xffff
/** Longest way that is told from a longer one. */
const FAR = NEVER - 1
/** Local masks and masks kept. */
const LOCAL_LIMIT = 256
const MASK_LIMIT = 2000

/** Masks of one automaton for one vocabulary, kept while they are few. */
export class Masks {
  readonly #locals = new Map<State, Local>()
  readonly #known = new Map<State, Allowed>()

  constructor(
    readonly automaton: Automaton,
    readonly vocabulary: Vocabulary,
  ) {}

  /** Tokens after which an end is at most `within` bytes away. */
  of(state: State, within = Number.POSITIVE_INFINITY): Allowed {
    let known = this.#known.get(state)
    if (known === undefined) {
      known = this.#find(state, Number.POSITIVE_INFINITY)
      if (this.#known.size >= MASK_LIMIT) this.#known.clear()
      this.#known.set(state, known)
    }
    return known.farthest <= within ? known : this.#find(state, within)
  }

  #find(state: State, within: number): Allowed {
    const { local: inside, base } = this.automaton.isolate(state)
    const local = this.#local(inside)
    const further = base?.least ?? 0
    let { mask, count } = local
    let farthest = local.farthest + further
    if (farthest > within) ({ mask, count } = filtered(local.least, this.vocabulary.words, within - further))
    if (base === undefined || local.leaving.length === 0) return { mask, count, farthest }
    const own = mask.slice()
    const popped = this.automaton.pop(base)
    const { starts, ids } = this.vocabulary
    for (const node of local.leaving) {
      this.#walk(popped, node, (at, { least }) => {
        if (least > within) return
        farthest = Math.max(farthest, least)
        for (let i = starts[at]!; i < starts[at + 1]!; i++) {
          const id = ids[i]!
          if (((own[id >> 5]! >> (id & 31)) & 1) === 0) count++
          own[id >> 5]! |= 1 << (id & 31)
        }
      })
    }
    return { mask: own, count, farthest }
  }

  /** Calls `found` for the nodes below `root` that can be reached from `state`. */
  #walk(state: State, root: number, found: (node: number, state: State) => void): void {
    const { byte, depth, after } = this.vocabulary
    const above = root === 0 ? 0 : depth[root]! + 1
    const path = [state]
    for (let node = root + 1; node < after[root]!; ) {
      const at = path[depth[node]! - above]!
      const next = at.next[byte[node]!]
      const to = next === undefined ? this.automaton.step(at, byte[node]!) : next
      if (to === null) node = after[node]!
      else {
        path[depth[node]! - above + 1] = to
        found(node, to)
        node = to.places.length === 0 ? after[node]! : node + 1
      }
    }
  }

  #local(state: State): Local {
    const known = this.#locals.get(state)
    if (known !== undefined) return known
    const { words, size, starts, ids, after } = this.vocabulary
    const mask = new Int32Array(words)
    const least = new Uint16Array(size).fill(NEVER)
    const leaving: number[] = []
    let [count, farthest] = [0, 0]
    this.#walk(state, 0, (node, to) => {
      for (let i = starts[node]!; i < starts[node + 1]!; i++) {
        const id = ids[i]!
        mask[id >> 5]! |= 1 << (id & 31)
        least[id] = Math.min(FAR, to.least)
        farthest = Math.max(farthest, to.least)
        count++
      }
      if (to.leaves && after[node]! > node + 1) leaving.push(node)
    })
    const made = { mask, least, leaving, count, farthest }
    if (this.#locals.size >= LOCAL_LIMIT) this.#locals.clear()
    this.#locals.set(state, made)
    return made
  }
}

/** The tokens from where the end is near enough. */
function filtered(least: Uint16Array, words: number, within: number): { mask: Int32Array; count: number } {
  const mask = new Int32Array(words)
  let count = 0
  for (let id = 0; id < least.length; id++) {
    if (least[id]! > within || least[id] === NEVER) continue
    mask[id >> 5]! |= 1 << (id & 31)
    count++
  }
  return { mask, count }
}

/** One answer on its way through a grammar. */
export class TokenMask {
  readonly #masks: Masks
  readonly #ends: ReadonlySet<number>
  #state: State

  constructor(masks: Masks, ends: ReadonlySet<number>) {
    this.#masks = masks
    this.#ends = ends
    this.#state = masks.automaton.start
  }

  /** The text is complete and cannot go on. */
  get complete(): boolean {
    return this.#state.accepts && this.#state.places.length === 0
  }

  /**
   * A bit per id that may come next; end tokens where the text may end. With `remaining` tokens left, of which each has a byte at least, only
   * those from where the text can still be completed, if it can at all. Throws AlphaError where no token goes on.
   */
  allowed(remaining: number): Int32Array {
    const state = this.#state
    const within = state.least <= remaining ? remaining - 1 : Number.POSITIVE_INFINITY
    const { mask, count } = this.#masks.of(state, within)
    if (!state.accepts) {
      if (count > 0) return mask
      const all = this.#masks.of(state)
      if (all.count > 0) return all.mask
      throw new AlphaError("constraint: the model's tokenizer has no token that goes on from here", { code: EXIT.usage })
    }
    const open = mask.slice()
    for (const id of this.#ends) open[id >> 5]! |= 1 << (id & 31)
    return open
  }

  /** The answer goes on with `id`; an end token changes nothing. */
  accept(id: number): void {
    if (this.#ends.has(id)) return
    for (const byte of this.#masks.vocabulary.bytes(id)) {
      const next = this.#masks.automaton.step(this.#state, byte)
      if (next === null) throw new Error(`token ${id} is outside its mask`)
      this.#state = next
    }
  }
}
