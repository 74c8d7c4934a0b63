/** Pages of keys and values: who holds them, and full ones of earlier sequences by their content, so that equal beginnings are computed once. */

/** A full page whose tokens, and all those before it, are known. */
export interface SharedPage {
  readonly serial: number
  readonly page: number
  readonly key: string
  /** Sequences that hold it. */
  holders: number
}

/** The pages of one model. A holder of a page holds all pages before it, too. */
export class PagePool {
  readonly #free: number[]
  readonly #shared = new Map<string, SharedPage>()
  /** Shared pages without holder, least recently used first; a page comes before the pages that precede it in its text. */
  readonly #idle = new Map<number, SharedPage>()
  #serials = 0
  /** Held pages that are not shared. */
  #owned = 0

  constructor(
    readonly count: number,
    readonly pageSize: number,
    readonly reuse: boolean,
  ) {
    this.#free = Array.from({ length: count }, (_, i) => count - 1 - i)
  }

  /** Pages that nobody holds: empty ones, and those kept for later. */
  get available(): number {
    return this.#free.length + this.#idle.size
  }

  /** Pages kept for later. */
  get kept(): number {
    return this.#idle.size
  }

  /** A page of the caller's own, or undefined where all are held. */
  take(): number | undefined {
    const page = this.#free.pop() ?? this.#evict()
    if (page !== undefined) this.#owned++
    return page
  }

  #evict(): number | undefined {
    const oldest = this.#idle.values().next().value
    if (oldest === undefined) return undefined
    this.#idle.delete(oldest.serial)
    this.#shared.delete(oldest.key)
    return oldest.page
  }

  /** The page of `tokens` after `before` (undefined: the first page), if it is there; the caller then holds it. */
  find(before: SharedPage | undefined, tokens: Int32Array): SharedPage | undefined {
    if (!this.reuse) return undefined
    const found = this.#shared.get(keyOf(before, tokens))
    if (found !== undefined) this.#hold(found)
    return found
  }

  #hold(page: SharedPage): void {
    if (page.holders++ === 0) this.#idle.delete(page.serial)
  }

  /** Makes the caller's full page one for all; where there is such a page already, that is the one to hold from now on. */
  share(before: SharedPage | undefined, tokens: Int32Array, page: number): SharedPage {
    const key = keyOf(before, tokens)
    const twin = this.#shared.get(key)
    this.#owned--
    if (twin !== undefined) {
      this.#free.push(page)
      this.#hold(twin)
      return twin
    }
    const made = { serial: this.#serials++, page, key, holders: 1 }
    this.#shared.set(key, made)
    return made
  }

  /** The caller holds these no longer: shared pages in the order of the text, and its own. */
  release(shared: readonly SharedPage[], own: Iterable<number>): void {
    for (const page of shared.toReversed()) if (--page.holders === 0) this.#idle.set(page.serial, page)
    for (const page of own) {
      this.#free.push(page)
      this.#owned--
    }
  }

  /** Pages held by sequences. */
  get used(): number {
    return this.count - this.available
  }

  /** Whether the books agree: every page is empty, kept, shared and held, or somebody's own. */
  get sound(): boolean {
    const held = [...this.#shared.values()].filter(({ holders }) => holders > 0).length
    return this.#free.length + this.#idle.size + held + this.#owned === this.count && this.#shared.size === held + this.#idle.size
  }
}

/** Pages are equal when their tokens and all before them are: the page before stands for these. */
const keyOf = (before: SharedPage | undefined, tokens: Int32Array): string => `${before?.serial ?? ""}:${tokens.join()}`
