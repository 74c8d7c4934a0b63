/** Which tokens may come next: an automaton over bytes walked along the tree of all tokens. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Automaton, State } from "./engine-constraint-automaton.ts"
import type { Tokenizer } from "./token.ts"

/** A beginning that tokens share. */
interface Branch {
  readonly byte: number
  /** Tokens that are exactly this text. */
  readonly ids: number[]
  readonly children: Branch[]
}

/** The tokens of a model as texts. */
export interface Vocabulary {
  /** Words of a mask: a bit per id of the model. */
  readonly words: number
  readonly root: Branch
  readonly bytes: (id: number) => Uint8Array
}

/** Special tokens and those that stand for unknown text are in no text. */
export function vocabularyOf(tokenizer: Tokenizer, vocabSize: number): Vocabulary {
  const root: Branch = { byte: -1, ids: [], children: [] }
  for (let id = 0; id < Math.min(vocabSize, tokenizer.vocabSize); id++) {
    const bytes = tokenizer.tokenBytes(id)
    if (bytes.length === 0 || id === tokenizer.unknown) continue
    let at = root
    for (const byte of bytes) {
      let child = at.children.find((branch) => branch.byte === byte)
      if (child === undefined) {
        child = { byte, ids: [], children: [] }
        at.children.push(child)
      }
      at = child
    }
    at.ids.push(id)
  }
  return { words: Math.ceil(vocabSize / 32), root, bytes: (id) => tokenizer.tokenBytes(id) }
}

/** Tokens that a state allows, and the longest way from any of them to an end. */
interface Allowed {
  readonly mask: Int32Array
  readonly count: number
  readonly farthest: number
}

/** Masks of one automaton for one vocabulary, kept while they are few. */
export class Masks {
  readonly #known = new Map<State, Allowed>()

  constructor(
    readonly automaton: Automaton,
    readonly vocabulary: Vocabulary,
  ) {}

  /** Tokens after which an end is at most `within` bytes away. */
  of(state: State, within = Number.POSITIVE_INFINITY): Allowed {
    const known = this.#known.get(state)
    if (known !== undefined && known.farthest <= within) return known
    if (known === undefined && within !== Number.POSITIVE_INFINITY) {
      const all = this.of(state)
      if (all.farthest <= within) return all
    }
    const mask = new Int32Array(this.vocabulary.words)
    let [count, farthest] = [0, 0]
    const walk = (branch: Branch, at: State): void => {
      for (const child of branch.children) {
        const next = at.next[child.byte] ?? this.automaton.step(at, child.byte)
        if (next === null) continue
        if (next.least <= within && child.ids.length > 0) {
          for (const id of child.ids) mask[id >> 5]! |= 1 << (id & 31)
          count += child.ids.length
          farthest = Math.max(farthest, next.least)
        }
        if (child.children.length > 0) walk(child, next)
      }
    }
    walk(this.vocabulary.root, state)
    const made = { mask, count, farthest }
    if (within !== Number.POSITIVE_INFINITY) return made
    if (this.#known.size >= MASK_LIMIT) this.#known.clear()
    this.#known.set(state, made)
    return made
  }
}

const MASK_LIMIT = 2000

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
