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
  /** Appends one token to each of some slots and chooses the tokens after them. */
  decode(turns: readonly Turn[]): readonly Choice[]
  /** Tokens the slot holds. */
  held(slot: number): number
  /** Gives programs and cache back; the weights stay. */
  free(): void
}

/** Positions per page of the cache. */
const PAGE = 64
/** Longest prefill chunk, in tokens; a device that takes work ahead is not filled by so few. */
const CHUNK = 256
const CHUNK_AHEAD = 1024
/** Chunks up to this size cost about as much as one token: reading the weights dominates. */
const CHEAP = 32

/** Prepares generation with the model whose weights `state` holds; programs are compiled when they are first needed. */
export function createGenerator(device: Device, state: State, model: ModelConfig, options: GeneratorOptions): Generator {
  const { slots, length } = options
  if (model.position === "learned" && length > model.blockSize) {
    throw new RangeError(`slots of ${length} tokens: the model has ${model.blockSize} learned positions`)
  }
  const maxPages = Math.ceil(length / PAGE)
  const shared = {
    model,
    precision: options.precision,
    vocabulary: options.vocabulary,
    pageSize: PAGE,
    pageCount: slots * maxPages,
    maxPages,
    order: options.order,
  }
  const pages = Array.from({ length: slots }, (_, slot) => Int32Array.from({ length: maxPages }, (_, page) => slot * maxPages + page))
  const tokens = Array.from({ length: slots }, () => new Int32Array(length))
  const lengths = new Int32Array(slots)
  const steps = new Map<string, Step>()
  const stepOf = (shape: StepShape): Step => {
    const key = JSON.stringify(shape)
    const step = steps.get(key) ?? new Step(device, state, shared, shape)
    steps.set(key, step)
    return step
  }
  const rowsOf = (count: number) => 2 ** Math.ceil(Math.log2(count))
  const plain = { top: 0, scores: false, hidden: false }
  /** What the last step chose, where only decode has run since, and the step after it, where the device has it already. */
  let newest: { readonly turns: readonly Turn[]; readonly next: (() => StepResult) | undefined } | undefined

  /** Appends to each slot its chunk (at most T tokens); chooses the next tokens, or only fills the cache. */
  const run = (turns: readonly (Omit<Turn, "id"> & { readonly chunk: Int32Array })[], T: number, chooses: boolean): (() => StepResult) => {
    const rows = turns.map(({ slot, chunk, sampling, draw }): Row => {
      const before = lengths[slot]!
      tokens[slot]!.set(chunk, before)
      lengths[slot] = before + chunk.length
      const adjust = chooses ? repetition(tokens[slot]!.subarray(0, lengths[slot]), sampling.repetitionPenalty) : undefined
      return { chunk, before, pages: pages[slot]!, draw: sampling, number: draw, adjust }
    })
    const longest = Math.max(...rows.map(({ adjust }) => adjust?.ids.length ?? 0))
    const adjusted = longest === 0 ? undefined : Math.max(64, 2 ** Math.ceil(Math.log2(longest)))
    return stepOf({ B: rowsOf(rows.length), T, chooses, adjusted, ...plain }).submit(rows)
  }

  /** The step after `turns`, whose tokens are being chosen: undefined where it cannot be known what it is. */
  const goOn = (turns: readonly Turn[]): (() => StepResult) | undefined => {
    if (device.ahead === 0 || turns.some(({ slot, sampling }) => sampling.repetitionPenalty !== 1 || lengths[slot] === length))
      return undefined
    const rows = turns.map(({ slot, sampling, draw }): Row => {
      return { chunk: new Int32Array(1), before: lengths[slot]!, pages: pages[slot]!, draw: sampling, number: draw + 1 }
    })
    return stepOf({ B: rowsOf(rows.length), T: 1, chooses: true, adjusted: undefined, ...plain, follows: true }).submit(rows)
  }

  return {
    slots,
    length,
    held: (slot) => lengths[slot]!,
    prefill({ slot, ids, ...turn }) {
      const all = Int32Array.from(ids)
      if (all.length === 0 || all.length > length) throw new RangeError(`prefill of ${all.length} tokens into a slot of ${length}`)
      newest = undefined
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
    decode(turns) {
      const continues = newest !== undefined && isSame(newest.turns, turns)
      const next = continues ? newest?.next : undefined
      if (next !== undefined)
        for (const { slot, id } of turns) {
          tokens[slot]![lengths[slot]!] = id
          lengths[slot]!++
        }
      const chunks = () => turns.map(({ id, ...turn }) => ({ ...turn, chunk: Int32Array.of(id) }))
      const read = next ?? run(chunks(), 1, true)
      // The device goes on while the host looks at the tokens; what it then does not want is done again in another way.
      const after = continues ? goOn(turns) : undefined
      const { choices } = read()
      newest = { turns: turns.map((turn, i) => ({ ...turn, id: choices[i]!.id, draw: turn.draw + 1 })), next: after }
      return choices
    },
    free() {
      for (const step of steps.values()) step.free()
      for (const name of state.names()) if (GENERATED.test(name)) state.drop(name)
    },
  }
}

/** Whether the second turns are the first, choice for choice. */
const isSame = (a: readonly Turn[], b: readonly Turn[]): boolean =>
  a.length === b.length &&
  a.every(({ slot, id, sampling, draw }, i) => {
    const other = b[i]!
    const isSampledAlike = (Object.keys(sampling) as (keyof Sampling)[]).every((key) => sampling[key] === other.sampling[key])
    return slot === other.slot && id === other.id && draw === other.draw && isSampledAlike
  })

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
