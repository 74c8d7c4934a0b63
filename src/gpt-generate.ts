/** Generation: sequences live in slots of a paged cache of keys and values; a step appends tokens to some of them and chooses the next ones. */
import type { ModelConfig } from "./config.ts"
import { type Cache, gptHidden, gptLogits, type Precision } from "./gpt-forward.ts"
import * as op from "./op.ts"
import { type Device, type Executable, type Plan, plan, type State, trace, writeTo } from "./program.ts"
import { StreamDecoder, type Tokenizer } from "./token.ts"

/** How one sequence chooses its tokens. */
export interface Sampling {
  /** Divides the logits; 0 = the most likely token. */
  readonly temperature: number
  /** Undefined keeps all. */
  readonly topK: number | undefined
  readonly topP: number
  readonly minP: number
  /** Of all tokens the slot holds; 1 = off. */
  readonly repetitionPenalty: number
  readonly seed: number
}

export interface GeneratorOptions {
  readonly precision: Precision
  /** Sequences that can run together. */
  readonly slots: number
  /** Most tokens a slot holds; at most the positions of the model. */
  readonly length: number
  /** Ids from here on are never chosen: a model may have more rows than its tokenizer has tokens. */
  readonly vocabulary: number
}

/** A chosen token, and ln of its probability under the model itself (no temperature, nothing cut off). */
export interface Choice {
  readonly id: number
  readonly logprob: number
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
  decode(turns: readonly Turn[]): Choice[]
  /** Tokens the slot holds. */
  held(slot: number): number
  /** Gives programs and cache back; the weights stay. */
  free(): void
}

/** Positions per page of the cache. */
const PAGE = 64
/** Longest prefill chunk, in tokens. */
const CHUNK = 256
/** Chunks up to this size cost about as much as one token: reading the weights dominates. */
const CHEAP = 32

/** Prepares generation with the model whose weights `state` holds; programs are compiled when they are first needed. */
export function createGenerator(device: Device, state: State, model: ModelConfig, options: GeneratorOptions): Generator {
  const { slots, length } = options
  const maxPages = Math.ceil(length / PAGE)
  const tokens = Array.from({ length: slots }, () => new Int32Array(length))
  const lengths = new Int32Array(slots)
  const steps = new Map<string, Step>()

  /** Appends to each slot its chunk (at most T tokens); chooses the next tokens, or only fills the cache. */
  const run = (rows: readonly Row[], T: number, chooses: boolean): Choice[] => {
    const choice = !chooses ? "none" : rows.some((row) => row.sampling.repetitionPenalty !== 1) ? "penalised" : "plain"
    const shape = { model, ...options, B: 2 ** Math.ceil(Math.log2(rows.length)), T, maxPages, choice } as const
    const key = `${shape.B} ${T} ${choice}`
    const step = steps.get(key) ?? new Step(device, state, shape)
    steps.set(key, step)
    for (const { slot, chunk } of rows) {
      tokens[slot]!.set(chunk, lengths[slot]!)
      lengths[slot]! += chunk.length
    }
    return step.run(rows, tokens, lengths)
  }

  return {
    slots,
    length,
    held: (slot) => lengths[slot]!,
    prefill({ slot, ids, ...turn }) {
      const all = Int32Array.from(ids)
      if (all.length === 0 || all.length > length) throw new RangeError(`prefill of ${all.length} tokens into a slot of ${length}`)
      // The last token always runs again: its logits are not kept.
      lengths[slot] = commonStart(tokens[slot]!.subarray(0, lengths[slot]), all.subarray(0, -1))
      const computed = all.length - lengths[slot]!
      for (;;) {
        const left = all.subarray(lengths[slot])
        const T = chunkSize(left.length)
        const [choice] = run([{ slot, chunk: left.subarray(0, T), ...turn }], T, left.length <= T)
        if (choice !== undefined) return { ...choice, computed }
      }
    },
    decode: (turns) =>
      run(
        turns.map(({ id, ...turn }) => ({ ...turn, chunk: Int32Array.of(id) })),
        1,
        true,
      ),
    free() {
      for (const step of steps.values()) step.free()
      for (const name of state.names()) if (name.startsWith(CACHE) || name.startsWith(LOGITS)) state.drop(name)
    },
  }
}

/** Prefixes of the states that generation adds. */
const CACHE = "cache."
const LOGITS = "generate.logits."

/** Length of the longest common beginning. */
function commonStart(a: Int32Array, b: Int32Array): number {
  const end = Math.min(a.length, b.length)
  for (let i = 0; i < end; i++) if (a[i] !== b[i]) return i
  return end
}

/** Power of two for the next chunk of `left` tokens: the whole rest, unless a quarter or more of it would be padding. */
function chunkSize(left: number): number {
  const whole = 2 ** Math.ceil(Math.log2(left))
  return Math.min(CHUNK, whole <= CHEAP || left > 0.75 * whole ? whole : whole / 2)
}

/** One sequence's part of a step. */
interface Row {
  readonly slot: number
  readonly chunk: Int32Array
  readonly sampling: Sampling
  readonly draw: number
}

interface StepShape {
  readonly model: ModelConfig
  readonly precision: Precision
  readonly slots: number
  readonly vocabulary: number
  /** Rows of the program, a power of two; those without a sequence are empty. */
  readonly B: number
  /** Tokens per row. */
  readonly T: number
  readonly maxPages: number
  readonly choice: "none" | "plain" | "penalised"
}

/** A compiled step with its input buffers, which are written anew for every run. */
class Step {
  readonly #shape: StepShape
  readonly #run: Executable
  readonly #ints: Readonly<
    Record<"tokens" | "positions" | "pages" | "lengths" | "counts" | "last" | "topK" | "seed" | "draw" | "history" | "seen", Int32Array>
  >
  readonly #floats: Readonly<Record<"temperature" | "topP" | "minP" | "repetitionPenalty", Float32Array>>

  constructor(device: Device, state: State, shape: StepShape) {
    const { B, T, maxPages } = shape
    const ints = (size: number) => new Int32Array(size)
    const floats = () => new Float32Array(B)
    this.#shape = shape
    this.#run = device.compile(stepPlan(shape), state)
    this.#ints = {
      tokens: ints(B * T),
      positions: ints(B * T),
      pages: ints(B * maxPages),
      lengths: ints(B),
      counts: ints(B),
      last: ints(B),
      topK: ints(B),
      seed: ints(B),
      draw: ints(B),
      history: ints(shape.choice === "penalised" ? B * maxPages * PAGE : 0),
      seen: ints(B),
    }
    this.#floats = { temperature: floats(), topP: floats(), minP: floats(), repetitionPenalty: floats() }
  }

  /** `tokens` and `lengths` are those of the slots, the chunks included. */
  run(rows: readonly Row[], tokens: readonly Int32Array[], lengths: Int32Array): Choice[] {
    const { B, T, maxPages, choice, model } = this.#shape
    const [i, f] = [this.#ints, this.#floats]
    for (let b = 0; b < B; b++) {
      const row = rows[b]
      const count = row?.chunk.length ?? 0
      const before = row === undefined ? 0 : lengths[row.slot]! - count
      i.counts[b] = count
      i.lengths[b] = before
      i.last[b] = b * T + Math.max(0, count - 1)
      // Rows of padding get positions too, and these must exist.
      for (let t = 0; t < T; t++) i.positions[b * T + t] = before + Math.min(t, Math.max(0, count - 1))
      for (let p = 0; p < maxPages; p++) i.pages[b * maxPages + p] = row === undefined ? 0 : row.slot * maxPages + p
      i.tokens.fill(0, b * T, (b + 1) * T)
      if (row === undefined) continue
      i.tokens.set(row.chunk, b * T)
      const { temperature, topK, topP, minP, repetitionPenalty, seed } = row.sampling
      f.temperature[b] = temperature
      f.topP[b] = topP
      f.minP[b] = minP
      f.repetitionPenalty[b] = repetitionPenalty
      i.topK[b] = topK ?? model.vocabSize
      i.seed[b] = seed
      i.draw[b] = row.draw
      i.seen[b] = lengths[row.slot]!
      if (choice === "penalised") i.history.set(tokens[row.slot]!.subarray(0, i.seen[b]), b * maxPages * PAGE)
    }
    const out = this.#run.submit({ ...i, ...f })
    if (choice === "none") return []
    const [ids, logprobs] = [out.read("token"), out.read("logprob")]
    return rows.map((_, b) => ({ id: ids[b]!, logprob: logprobs[b]! }))
  }

  free(): void {
    this.#run.free()
  }
}

/** B chunks of T tokens through the model; the logits after each row's last token go to a state (B, V), and one token per row is chosen. */
function stepPlan({ model, precision, slots, vocabulary, B, T, maxPages, choice }: StepShape): Plan {
  return plan(
    trace(`generate ${B}×${T}`, (t) => {
      const perRow = (name: string, dtype: "i32" | "f32" = "i32") => t.input(name, dtype, [B])
      const cache: Cache = {
        pageSize: PAGE,
        maxPages,
        pageCount: slots * maxPages,
        pages: t.input("pages", "i32", [B, maxPages]),
        lengths: perRow("lengths"),
        counts: perRow("counts"),
      }
      const pass = { precision, T, cache, positions: t.input("positions", "i32", [B * T]) }
      const hidden = gptHidden(model, t.input("tokens", "i32", [B * T]), pass) // (B·T, C)
      if (choice === "none") return
      const last = T === 1 ? hidden : op.takeRows({ x: hidden, rows: perRow("last") }).y // (B, C)
      const logits = t.state(`${LOGITS}${B}`, "f32", [B, model.vocabSize])
      writeTo(gptLogits(model, last, pass), logits)
      const history = choice === "penalised" ? { history: t.input("history", "i32", [B, maxPages * PAGE]), lengths: perRow("seen") } : {}
      const { token, logprob } = op.sample(
        {
          logits,
          temperature: perRow("temperature", "f32"),
          topK: perRow("topK"),
          topP: perRow("topP", "f32"),
          minP: perRow("minP", "f32"),
          repetitionPenalty: perRow("repetitionPenalty", "f32"),
          seed: perRow("seed"),
          draw: perRow("draw"),
          ...history,
        },
        { vocabulary },
      )
      t.output("token", token)
      t.output("logprob", logprob)
    }),
  )
}

/** Continues one prompt and returns the new text; ends early at one of `ends`. For samples during training. */
export function generateText(
  device: Device,
  state: State,
  model: ModelConfig,
  tokenizer: Tokenizer,
  prompt: string,
  options: { precision: Precision; maxTokens: number; sampling: Sampling; ends: readonly number[] },
): string {
  const { precision, sampling, ends } = options
  const ids = tokenizer.encode(prompt, { special: true })
  const room = Math.max(1, model.blockSize - options.maxTokens)
  const start = ids.length === 0 ? Int32Array.of(ends[0] ?? 0) : ids.subarray(-room)
  const count = Math.min(options.maxTokens, model.blockSize - start.length)
  const generator = createGenerator(device, state, model, {
    precision,
    slots: 1,
    length: start.length + count,
    vocabulary: tokenizer.vocabSize,
  })
  const decoder = new StreamDecoder(tokenizer)
  let text = ""
  try {
    for (let draw = 0, id = -1; draw < count; draw++) {
      const turn = { slot: 0, sampling, draw }
      const [choice] = draw === 0 ? [generator.prefill({ ...turn, ids: start })] : generator.decode([{ ...turn, id }])
      id = choice!.id
      if (ends.includes(id)) break
      text += decoder.push(id)
    }
  } finally {
    generator.free()
  }
  return text + decoder.finish()
}
