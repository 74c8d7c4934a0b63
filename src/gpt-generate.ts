/** Generation: sequences live in slots of a paged cache; prompts are prefilled in chunks, then slots grow together, one token a step. */
import type { ModelConfig } from "./config.ts"
import type { Precision } from "./gpt-forward.ts"
import { type Adjustment, type Choice, type Draw, GENERATED, type Row, Step, type StepResult, type StepShape } from "./gpt-step.ts"
import type { Device, State } from "./program.ts"

/** How one sequence chooses its tokens. */
export interface Sampling extends Draw {
  /** Of all tokens the slot holds; 1 = off. */
  readonly repetitionPenalty: number
}

export interface GeneratorOptions {
  readonly precision: Precision
  /** Sequences that can run together. */
  readonly slots: number
  /** Most tokens a slot holds; at most the positions of the model. */
  readonly length: number
  /** Ids from here on are never chosen: a model may have more rows than its tokenizer has tokens. */
  readonly vocabulary: number
  /** "layers": a few sequences may go through all layers in one launch, with other bits than evaluation's. */
  readonly order?: "layers" | undefined
}

/** One sequence in a step. */
export interface Turn {
  readonly slot: number
  /** The token that is appended. */
  readonly id: number
  readonly sampling: Sampling
  /** Number of the random draw, so that a sequence's choices depend on its seed alone: tokens generated before. */
  readonly draw: number
}

/** The bits of a choice depend on the sequence's own tokens and sampling: not on slots, chunks or who else runs. */
export interface Generator {
  readonly slots: number
  readonly length: number
  /** Makes the slot hold exactly `ids` (1 … length of them), computing only what it does not hold yet, and chooses the token after them. */
  prefill(turn: Omit<Turn, "id"> & { readonly ids: ArrayLike<number> }): Choice & { readonly computed: number }
  /** Appends one token to each of some slots and chooses the tokens after them; `more`: how many steps of these or some of them may follow. */
  decode(turns: readonly Turn[], more: number): readonly Choice[]
  /** Tokens the slot holds. */
  held(slot: number): number
  /** Gives programs and cache back; the weights stay. */
  free(): void
}

/** Positions per page of the cache. */
const PAGE = 64
/** Pages that tables name at least where the model has as many, so that slots of all lengths have the kernels of one. */
const COMMON_PAGES = 16
/** Longest prefill chunk, in tokens; a device that takes work ahead is not filled by so few. */
const CHUNK = 256
const CHUNK_AHEAD = 1024
/** Chunks up to this size cost about as much as one token: reading the weights dominates. */
const CHEAP = 32
/**
 * Steps of one submit: as many as a device does in HELD_MS, as their tokens come together and nobody should see it. An H200 does nine with gpt2-124m;
 * more would only be thrown away behind an end of text.
 */
const HELD_MS = 2
const TOGETHER = 8

/** Prepares generation with the model whose weights `state` holds; programs are compiled when they are first needed. */
export function createGenerator(device: Device, state: State, model: ModelConfig, options: GeneratorOptions): Generator {
  const { slots, length } = options
  if (model.position === "learned" && length > model.blockSize) {
    throw new RangeError(`slots of ${length} tokens: the model has ${model.blockSize} learned positions`)
  }
  const [own, all] = [length, model.blockSize].map((positions) => Math.ceil(positions / PAGE)) as [number, number]
  const shared = {
    model,
    precision: options.precision,
    vocabulary: options.vocabulary,
    pageSize: PAGE,
    pageCount: slots * own,
    maxPages: Math.max(own, Math.min(all, COMMON_PAGES)),
    order: options.order,
  }
  const pages = Array.from({ length: slots }, (_, slot) =>
    new Int32Array(shared.maxPages).map((_, page) => (page < own ? slot * own + page : 0)),
  )
  const tokens = Array.from({ length: slots }, () => new Int32Array(length))
  const lengths = new Int32Array(slots)
  const steps = new Map<string, Step>()
  const stepOf = (shape: Omit<StepShape, "top" | "scores" | "hidden">): Step => {
    const key = JSON.stringify(shape)
    const step = steps.get(key) ?? new Step(device, state, shared, { ...shape, top: 0, scores: false, hidden: false })
    steps.set(key, step)
    return step
  }
  /** Steps that the device has beyond the newest one that was read, oldest first: each goes on with the tokens that the one before it chooses. */
  let pending: (() => StepResult)[] = []
  /** The slots of their rows, and with what a sequence goes on that is still one of them. */
  let rowSlots: readonly number[] = []
  let expected = new Map<number, Turn>()
  const pace = new Pace()

  const append = (slot: number, chunk: ArrayLike<number>): void => {
    tokens[slot]!.set(chunk, lengths[slot])
    lengths[slot]! += chunk.length
  }

  /** Appends to each slot its chunk (at most T tokens); chooses the next tokens, or only fills the cache. */
  const run = (turns: readonly (Omit<Turn, "id"> & { readonly chunk: Int32Array })[], T: number, chooses: boolean): (() => StepResult) => {
    const rows = turns.map(({ slot, chunk, sampling, draw }): Row => {
      const before = lengths[slot]!
      append(slot, chunk)
      const adjust = chooses ? repetition(tokens[slot]!.subarray(0, lengths[slot]), sampling.repetitionPenalty) : undefined
      return { chunk, before, pages: pages[slot]!, draw: sampling, number: draw, adjust }
    })
    const longest = Math.max(...rows.map(({ adjust }) => adjust?.ids.length ?? 0))
    const adjusted = longest === 0 ? undefined : Math.max(64, 2 ** Math.ceil(Math.log2(longest)))
    return stepOf({ B: rowsOf(rows.length), T, chooses, adjusted }).submit(rows)
  }

  /** Gives the device the next steps while it is at the last ones it has, which begin with `turns`: as many as may be wanted and can be known. */
  const goOn = (turns: readonly Turn[], more: number): void => {
    const room = Math.min(more, ...turns.map(({ slot }) => length - lengths[slot]!)) - pending.length
    const isKnown = turns.every(({ sampling }) => sampling.repetitionPenalty === 1) && rowsOf(turns.length) === rowsOf(rowSlots.length)
    if (device.ahead === 0 || !isKnown || room <= 0 || pending.length >= Math.max(1, pace.given)) return
    const rows = rowSlots.map((slot) => turns.find((turn) => turn.slot === slot))
    const steps = Array.from({ length: Math.min(room, pace.next()) }, (_, i) => {
      const later = pending.length + i
      return rows.map((turn): Row | undefined => {
        if (turn === undefined) return undefined
        const { slot, sampling, draw } = turn
        return { chunk: new Int32Array(1), before: lengths[slot]! + later, pages: pages[slot]!, draw: sampling, number: draw + 1 + later }
      })
    })
    const step = stepOf({ B: rowsOf(rows.length), T: 1, chooses: true, adjusted: undefined, follows: true })
    pending.push(...step.submitAll(steps, 2 * TOGETHER - 1))
    pace.gave(steps.length)
  }

  return {
    slots,
    length,
    held: (slot) => lengths[slot]!,
    prefill({ slot, ids, ...turn }) {
      const all = Int32Array.from(ids)
      if (all.length === 0 || all.length > length) throw new RangeError(`prefill of ${all.length} tokens into a slot of ${length}`)
      expected = new Map()
      // The last token always runs again: its logits are not kept.
      lengths[slot] = commonStart(tokens[slot]!.subarray(0, lengths[slot]), all.subarray(0, -1))
      const computed = all.length - lengths[slot]!
      for (;;) {
        const left = all.subarray(lengths[slot])
        const T = chunkSize(left.length, device.ahead > 0 ? CHUNK_AHEAD : CHUNK)
        const [choice] = run([{ ...turn, slot, chunk: left.subarray(0, T) }], T, left.length <= T)().choices
        if (choice !== undefined) return { ...choice, computed }
      }
    },
    decode(turns, more) {
      pace.taken++
      // What the host does not want of the steps ahead is done again in another way: only `lengths` says what a slot holds.
      if (!turns.every((turn) => isSame(turn, expected.get(turn.slot)))) pending = []
      const early = pending.shift()
      if (early === undefined) rowSlots = turns.map(({ slot }) => slot)
      else for (const { slot, id } of turns) append(slot, [id])
      const chunks = () => turns.map(({ id, ...turn }) => ({ ...turn, chunk: Int32Array.of(id) }))
      const read = early ?? run(chunks(), 1, true)
      // The device goes on while the host looks at the tokens.
      goOn(turns, more)
      const { choices } = read()
      const chosen = turns.map(({ slot }) => choices[rowSlots.indexOf(slot)]!)
      expected = new Map(turns.map((turn, i) => [turn.slot, { ...turn, id: chosen[i]!.id, draw: turn.draw + 1 }]))
      return chosen
    },
    free() {
      for (const step of steps.values()) step.free()
      for (const name of state.names()) if (GENERATED.test(name)) state.drop(name)
    },
  }
}

/** How many steps a submit holds, by how long a step took lately. */
class Pace {
  /** Steps of the last submit, and steps that were asked for since. */
  given = 0
  taken = 0
  #at = Number.NEGATIVE_INFINITY
  #ms = Number.POSITIVE_INFINITY

  next(): number {
    const ms = (performance.now() - this.#at) / this.taken
    // After a pause of the host the device has tokens in store that seem to take no time.
    const count = Math.floor(HELD_MS / Math.max(ms, this.#ms))
    this.#ms = ms
    return Math.min(TOGETHER, Math.max(1, count))
  }

  gave(count: number): void {
    this.given = count
    this.taken = 0
    this.#at = performance.now()
  }
}

/** Rows of the program for so many sequences. */
const rowsOf = (count: number): number => 2 ** Math.ceil(Math.log2(count))

/** Whether a turn goes on with what was chosen for its slot. */
const isSame = (a: Turn, b: Turn | undefined): boolean =>
  a.id === b?.id && a.draw === b.draw && (Object.keys(a.sampling) as (keyof Sampling)[]).every((key) => a.sampling[key] === b.sampling[key])

/** The penalty of every token among `held`; undefined where it changes nothing. */
function repetition(held: Int32Array, penalty: number): Adjustment | undefined {
  if (penalty === 1) return undefined
  const ids = Int32Array.from(new Set(held))
  return { ids, scale: new Float32Array(ids.length).fill(penalty), bias: new Float32Array(ids.length) }
}

/** Length of the longest common beginning. */
function commonStart(a: Int32Array, b: Int32Array): number {
  const end = Math.min(a.length, b.length)
  for (let i = 0; i < end; i++) if (a[i] !== b[i]) return i
  return end
}

/** Power of two, at most `limit`, for the next chunk of `left` tokens: the whole rest, unless a quarter or more of it would be padding. */
export function chunkSize(left: number, limit: number): number {
  const whole = 2 ** Math.ceil(Math.log2(left))
  return Math.min(limit, whole <= CHEAP || left > 0.75 * whole ? whole : whole / 2)
}

export type { Choice } from "./gpt-step.ts"
