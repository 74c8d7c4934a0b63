/** One request on its way: its tokens, its pages, what it has told and when it ends. */
import { compileConstraint, type TokenMask, type Vocabulary } from "./engine-constraint.ts"
import { type LogitChanges, logitChanges } from "./engine-serve-logits.ts"
import type { PagePool, SharedPage } from "./engine-serve-pages.ts"
import type { ModelFacts, RequestEvent, ServeFinish, ServeRequest } from "./engine-serve-protocol.ts"
import type { Adjustment, Alternatives, Choice, Row } from "./gpt.ts"

/** What a sequence needs to know of its model. */
export interface SequenceRules {
  readonly pool: PagePool
  readonly ends: ReadonlySet<number>
}

/** What its sizes follow from. */
export type SequenceFacts = Pick<ModelFacts, "blockSize" | "vocabSize" | "nEmbd" | "pageSize">

export class Sequence {
  readonly request: ServeRequest
  readonly facts: SequenceFacts
  readonly client: string
  /** Most tokens of the answer. */
  readonly limit: number
  /** Prompt and answer. */
  readonly #tokens: Int32Array
  #length: number
  /** Of these, those whose keys and values are in pages. */
  computed = 0
  /** Prompt tokens that came from pages of earlier sequences, until it lost its slot. */
  cached = 0
  #paused = false
  readonly #shared: SharedPage[] = []
  /** All its pages in order: the shared ones, then its own. */
  readonly #table: Int32Array
  readonly #own: number[] = []
  #pool: PagePool | undefined
  readonly #stops: ReadonlySet<number>
  #rules: SequenceRules | undefined
  readonly #changes: LogitChanges | undefined
  mask: TokenMask | undefined
  /** Prompt tokens whose logprobs were told. */
  #scored = 1
  readonly #sum: Float64Array | undefined
  readonly submitted = performance.now()
  started = 0
  #firstAt = 0
  #lastAt = 0
  cancelled = false

  constructor(request: ServeRequest, facts: SequenceFacts) {
    const { blockSize, nEmbd, pageSize } = facts
    this.request = request
    this.facts = facts
    this.client = request.client
    const { prompt, maxTokens, kind } = request
    // The last token's own keys and values are never needed: it may stand one beyond the window.
    this.limit = kind === "embed" ? 0 : Math.min(maxTokens, blockSize + 1 - prompt.length)
    this.#tokens = new Int32Array(prompt.length + this.limit)
    this.#tokens.set(prompt)
    this.#table = new Int32Array(Math.ceil(this.#tokens.length / pageSize))
    this.#length = prompt.length
    this.#stops = new Set(request.stopIds)
    this.#changes = logitChanges(request.sampling, prompt)
    this.#sum = kind === "embed" ? new Float64Array(nEmbd) : undefined
  }

  /** Most tokens of prompt and answer. */
  get tokens(): number {
    return this.#tokens.length
  }

  /** Tokens of the answer so far. */
  get said(): number {
    return this.#length - this.request.prompt.length
  }

  /** Tokens that the cache lacks: 1 when it takes part in decoding. */
  get left(): number {
    return this.#length - this.computed
  }

  get pages(): number {
    return this.#shared.length + this.#own.length
  }

  get phase(): "prefill" | "decode" {
    return this.said > 0 && this.left === 1 ? "decode" : "prefill"
  }

  /** Whether the step that computes all that is left also chooses a token. */
  get chooses(): boolean {
    return this.said < this.limit
  }

  /** Whether every prompt position must be computed here, since something of each is told. */
  get #whole(): boolean {
    return this.#sum !== undefined || (this.request.promptLogprobs && this.#scored < this.request.prompt.length)
  }

  get scores(): boolean {
    return this.request.promptLogprobs && this.#scored < this.request.prompt.length
  }

  /** Before its start, anew after `pause`: holds what earlier sequences computed. */
  enter(rules: SequenceRules): void {
    this.#rules = rules
    this.#pool = rules.pool
    this.findPages()
  }

  /** There was no room after `enter`. */
  leave(): void {
    this.release()
    this.computed = 0
    if (!this.#paused) this.cached = 0
  }

  /** Whether it can run on a model that came after it was submitted. */
  suits({ blockSize, vocabSize, nEmbd }: SequenceFacts): boolean {
    return blockSize === this.facts.blockSize && vocabSize === this.facts.vocabSize && nEmbd === this.facts.nEmbd
  }

  /** Prepares the constraint for the model's tokens, the first time. Throws AlphaError where these cannot meet it. */
  constrain(vocabulary: () => Vocabulary, ends: ReadonlySet<number>): void {
    const { constraint, ignoreEnd } = this.request
    if (constraint !== undefined) this.mask ??= compileConstraint(constraint).mask(vocabulary(), ignoreEnd ? new Set() : ends)
  }

  /** Takes over full pages of others that continue what is computed. The last token is always computed here: its logits are wanted. */
  findPages(): void {
    const pool = this.#pool!
    if (this.#whole || this.#own.length > 0) return
    const size = pool.pageSize
    while (this.computed + size < this.#length) {
      const found = pool.find(this.#shared.at(-1), this.#tokens.subarray(this.computed, this.computed + size))
      if (found === undefined) return
      this.#table[this.pages] = found.page
      this.#shared.push(found)
      this.computed += size
      if (!this.#paused) this.cached += size
    }
  }

  /** What `findPages` would look for next, as a text; undefined when less than a page is left. */
  get nextPage(): string | undefined {
    const size = this.#pool!.pageSize
    if (this.#whole || this.#own.length > 0 || this.left <= size) return undefined
    return `${this.#shared.at(-1)?.serial ?? ""}:${this.#tokens.subarray(this.computed, this.computed + size).join()}`
  }

  /** Pages that `count` further tokens need beyond those it holds. */
  lacking(count: number): number {
    return Math.max(0, Math.ceil((this.computed + count) / this.#pool!.pageSize) - this.pages)
  }

  addPage(page: number): void {
    this.#table[this.pages] = page
    this.#own.push(page)
  }

  /** Its part of a step that computes its next `count` tokens. */
  row(count: number): Row {
    const { request } = this
    const chunk = this.#tokens.subarray(this.computed, this.computed + count)
    const pages = this.#table.subarray(0, this.pages)
    const last = this.computed + count === this.#length && this.chooses
    const row = { chunk, before: this.computed, pages, targets: this.scores ? this.#targets(count) : undefined }
    return last ? { ...row, draw: request.sampling, number: this.said, adjust: this.#adjustment() } : row
  }

  /** Its part of a step that follows the one of `row(1)`, with the token that is being chosen there; undefined where it ends there. */
  rowAfter(): Row | undefined {
    if (this.said + 1 >= this.limit) return undefined
    const pages = this.#table.subarray(0, this.pages)
    return { chunk: new Int32Array(1), before: this.computed + 1, pages, draw: this.request.sampling, number: this.said + 1 }
  }

  #targets(count: number): Int32Array {
    const { prompt } = this.request
    return Int32Array.from({ length: count }, (_, i) => prompt[this.computed + i + 1] ?? -1)
  }

  #adjustment(): Adjustment | undefined {
    const mask = this.mask?.allowed(this.limit - this.said)
    if (mask === undefined) return this.#changes
    return { ids: this.#changes?.ids ?? [], scale: this.#changes?.scale ?? [], bias: this.#changes?.bias ?? [], mask }
  }

  /** Longest list of its adjustment; undefined: none. */
  get adjusted(): number | undefined {
    return this.#changes === undefined && this.mask === undefined ? undefined : (this.#changes?.ids.length ?? 0)
  }

  /** `count` further tokens are in the cache: full pages become everyone's. */
  advance(count: number): void {
    const pool = this.#pool!
    this.computed += count
    if (!pool.reuse) return
    const size = pool.pageSize
    while ((this.#shared.length + 1) * size <= this.computed) {
      const from = this.#shared.length * size
      const page = pool.share(this.#shared.at(-1), this.#tokens.subarray(from, from + size), this.#own.shift()!)
      this.#table[this.#shared.length] = page.page
      this.#shared.push(page)
    }
  }

  /** As many of a position's alternatives as were asked for. */
  alternatives(top: Alternatives | undefined): Alternatives | undefined {
    const count = this.request.topLogprobs
    return count === 0 || top === undefined ? undefined : { ids: top.ids.slice(0, count), logprobs: top.logprobs.slice(0, count) }
  }

  /** Tells the scores of the chunk that began at `from`. */
  *tellScores(from: number, scores: { logprobs: Float32Array; top: readonly Alternatives[] | undefined }): Iterable<RequestEvent> {
    const start = this.#scored - 1 - from
    const end = Math.min(scores.logprobs.length, this.request.prompt.length - 1 - from)
    if (start < 0 || start >= end) return
    const top = this.request.topLogprobs === 0 ? undefined : scores.top?.slice(start, end).map((some) => this.alternatives(some)!)
    yield { type: "promptLogprobs", from: this.#scored, logprobs: scores.logprobs.slice(start, end), top }
    this.#scored = from + end + 1
  }

  /** Adds hidden states (count, C) of the chunk. */
  addHidden(hidden: Float32Array, count: number): void {
    const sum = this.#sum!
    const C = sum.length
    for (let r = 0; r < count; r++) for (let c = 0; c < C; c++) sum[c]! += hidden[r * C + c]!
  }

  /** Mean of the hidden states over the prompt. */
  get embedding(): Float32Array {
    return Float32Array.from(this.#sum!, (total) => total / this.request.prompt.length)
  }

  /** Takes the chosen token; the reason when it was the last. */
  take({ id }: Choice): ServeFinish | undefined {
    this.#lastAt = performance.now()
    if (this.said === 0) this.#firstAt = this.#lastAt
    this.#tokens[this.#length++] = id
    this.#changes?.say(id)
    if (this.#stops.has(id) || (!this.request.ignoreEnd && this.#rules!.ends.has(id))) return "end"
    this.mask?.accept(id)
    if (this.mask?.complete === true) return "complete"
    return this.said >= this.limit ? "length" : undefined
  }

  /** Loses its slot and pages; what it said and told stays. */
  pause(): void {
    this.#paused = true
    this.release()
    this.computed = 0
    this.#sum?.fill(0)
  }

  /** Gives its pages back. */
  release(): void {
    this.#pool?.release(this.#shared, this.#own)
    this.#shared.length = 0
    this.#own.length = 0
  }

  finished(reason: ServeFinish): RequestEvent {
    const now = performance.now()
    const first = this.#firstAt === 0 ? now : this.#firstAt
    return {
      type: "finished",
      reason,
      promptTokens: this.request.prompt.length,
      cachedTokens: this.cached,
      completionTokens: this.said,
      times: {
        queueMs: this.started - this.submitted,
        prefillMs: first - this.started,
        decodeMs: this.#firstAt === 0 ? 0 : this.#lastAt - first,
      },
    }
  }
}
