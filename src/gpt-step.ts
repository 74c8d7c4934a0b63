/** One step of generation: chunks of tokens for some sequences through the model and its cache; choice of the next ones, scores, hidden states. */
import type { ModelConfig } from "./config.ts"
import { type Cache, gptHidden, gptLogits, type Precision } from "./gpt-forward.ts"
import * as op from "./op.ts"
import { type Device, type Executable, type Plan, plan, type RunInputs, type RunOutputs, type State, trace, writeTo } from "./program.ts"

/** How one token is drawn from its logits. */
export interface Draw {
  /** Divides the logits; 0 = the most likely token. */
  readonly temperature: number
  /** Undefined keeps all. */
  readonly topK: number | undefined
  readonly topP: number
  readonly minP: number
  readonly seed: number
}

/** Most likely tokens of a position, by falling probability. */
export interface Alternatives {
  readonly ids: Int32Array
  readonly logprobs: Float32Array
}

/** A chosen token, and ln of its probability under the model itself (no temperature, nothing cut off or added). */
export interface Choice {
  readonly id: number
  readonly logprob: number
  /** As many as the step was asked for. */
  readonly top?: Alternatives | undefined
}

/** Changes to the logits before one token is drawn: lists of equal length, each id once; a bit per id where only some may be chosen. */
export interface Adjustment {
  readonly ids: ArrayLike<number>
  /** Divides positive and multiplies negative logits. */
  readonly scale: ArrayLike<number>
  /** Added after that. */
  readonly bias: ArrayLike<number>
  readonly mask?: Int32Array | undefined
}

/** Names of the states that steps add to the model's: the cache and the newest logits. */
export const GENERATED = /^(cache|generate)\./

/** One sequence's part of a step. */
export interface Row {
  /** New tokens. */
  readonly chunk: Int32Array
  /** Tokens in the cache before them. */
  readonly before: number
  /** Pages of all its tokens in order, those of the chunk included. */
  readonly pages: Int32Array
  /** How the token after the chunk is chosen; every row of a step that chooses needs it. */
  readonly draw?: Draw | undefined
  /** Number of the random draw, so that a sequence's choices depend on its seed alone. */
  readonly number?: number
  readonly adjust?: Adjustment | undefined
  /** Where the step scores: the token that follows each of the chunk's, −1 = none. */
  readonly targets?: Int32Array | undefined
}

/** What a compiled step computes. */
export interface StepShape {
  /** Rows of the program, a power of two; those without a sequence are empty. */
  readonly B: number
  /** Tokens per row. */
  readonly T: number
  readonly chooses: boolean
  /** Longest list of an adjustment; undefined: logits stay as they are, and every id may be chosen. */
  readonly adjusted: number | undefined
  /** Alternatives per token. */
  readonly top: number
  readonly scores: boolean
  readonly hidden: boolean
  /** Each row's one token is the one that the last step of B rows chose for it: the host need not know it yet. */
  readonly follows?: boolean
}

/** The cache and the model that steps share. */
export interface StepModel {
  readonly model: ModelConfig
  readonly precision: Precision
  /** Ids from here on are never chosen. */
  readonly vocabulary: number
  readonly pageSize: number
  readonly pageCount: number
  /** Pages that a row of the table names: at least those of the longest sequence. */
  readonly maxPages: number
  /** What products may do for speed, as linear has it: undefined keeps evaluation's bits in every company. */
  readonly order?: "any" | "layers" | undefined
}

/** What a step found, row by row; valid until its next run where it says so. */
export interface StepResult {
  readonly choices: readonly Choice[]
  /** Per row: of the targets. */
  readonly scores: readonly { readonly logprobs: Float32Array; readonly top: readonly Alternatives[] | undefined }[]
  /** (B·T, C): valid until the next run. */
  readonly hidden: Float32Array | undefined
}

/** A compiled step with its input buffers, which are written anew for every run. */
export class Step {
  readonly #model: StepModel
  readonly #shape: StepShape
  readonly #run: Executable
  readonly #ints: Readonly<
    Record<"tokens" | "positions" | "pages" | "lengths" | "counts" | "last" | "topK" | "seed" | "draw" | "targets", Int32Array>
  >
  readonly #floats: Readonly<Record<"temperature" | "topP" | "minP", Float32Array>>
  /** Rows whose mask allows everything. */
  readonly #isOpen: boolean[]
  readonly #adjust: { ids: Int32Array; scale: Float32Array; bias: Float32Array; listed: Int32Array; mask: Int32Array }

  constructor(device: Device, state: State, model: StepModel, shape: StepShape) {
    const { B, T } = shape
    const words = Math.ceil(model.model.vocabSize / 32)
    const ints = (size: number) => new Int32Array(size)
    const floats = (size = B) => new Float32Array(size)
    this.#model = model
    this.#shape = shape
    this.#run = device.compile(stepPlan(model, shape), state)
    this.#ints = {
      tokens: ints(B * T),
      positions: ints(B * T),
      pages: ints(B * model.maxPages),
      lengths: ints(B),
      counts: ints(B),
      last: ints(B),
      topK: ints(B),
      seed: ints(B),
      draw: ints(B),
      targets: ints(B * T),
    }
    this.#floats = { temperature: floats(), topP: floats(), minP: floats() }
    const listed = B * (shape.adjusted ?? 0)
    this.#adjust = {
      ids: ints(listed),
      scale: floats(listed),
      bias: floats(listed),
      listed: ints(B),
      mask: ints(shape.adjusted === undefined ? 0 : B * words).fill(-1),
    }
    this.#isOpen = Array.from({ length: B }, () => true)
  }

  run(rows: readonly Row[]): StepResult {
    return this.submit(rows)()
  }

  /** Gives the device the work, rows without a sequence left empty; the result is waited for when it is called for. */
  submit(rows: readonly (Row | undefined)[]): () => StepResult {
    const out = this.#run.submit(this.#inputs(rows))
    return () => this.#read(out, rows)
  }

  /** Gives the device several steps as one piece, where it is given work ahead; results outlive `kept` more steps. */
  submitAll(steps: readonly (readonly (Row | undefined)[])[], kept: number): (() => StepResult)[] {
    const outs = this.#run.submitAll!(steps.length, (i) => this.#inputs(steps[i]!), kept)
    return outs.map((out, i) => () => this.#read(out, steps[i]!))
  }

  #inputs(rows: readonly (Row | undefined)[]): RunInputs {
    const { B, chooses } = this.#shape
    for (let b = 0; b < B; b++) {
      this.#place(b, rows[b])
      if (chooses) this.#choose(b, rows[b])
    }
    return { ...this.#ints, ...this.#floats, ...this.#adjust }
  }

  #place(b: number, row: Row | undefined): void {
    const { T } = this.#shape
    const { maxPages } = this.#model
    const i = this.#ints
    const [count, before] = [row?.chunk.length ?? 0, row?.before ?? 0]
    i.counts[b] = count
    i.lengths[b] = before
    i.last[b] = b * T + Math.max(0, count - 1)
    // Rows of padding get positions too, and these must exist.
    for (let t = 0; t < T; t++) i.positions[b * T + t] = before + Math.min(t, Math.max(0, count - 1))
    i.tokens.fill(0, b * T, (b + 1) * T)
    if (row === undefined) return
    i.tokens.set(row.chunk, b * T)
    i.pages.set(row.pages, b * maxPages)
    if (!this.#shape.scores) return
    i.targets.fill(-1, b * T, (b + 1) * T)
    if (row.targets !== undefined) i.targets.set(row.targets, b * T)
  }

  #choose(b: number, row: Row | undefined): void {
    const [i, f, a] = [this.#ints, this.#floats, this.#adjust]
    const { adjusted } = this.#shape
    f.temperature[b] = row?.draw?.temperature ?? 0
    f.topP[b] = row?.draw?.topP ?? 1
    f.minP[b] = row?.draw?.minP ?? 0
    i.topK[b] = row?.draw?.topK ?? this.#model.model.vocabSize
    i.seed[b] = row?.draw?.seed ?? 0
    i.draw[b] = row?.number ?? 0
    if (adjusted === undefined) return
    const { ids, scale, bias, mask } = row?.adjust ?? { ids: [], scale: [], bias: [], mask: undefined }
    a.listed[b] = ids.length
    a.ids.set(ids, b * adjusted)
    a.scale.set(scale, b * adjusted)
    a.bias.set(bias, b * adjusted)
    const words = a.mask.length / this.#shape.B
    if (mask !== undefined) a.mask.set(mask, b * words)
    else if (!this.#isOpen[b]) a.mask.fill(-1, b * words, (b + 1) * words)
    this.#isOpen[b] = mask === undefined
  }

  #read(out: RunOutputs, rows: readonly (Row | undefined)[]): StepResult {
    const { T, chooses, scores, hidden, top } = this.#shape
    const alternatives = (name: string) => {
      if (top === 0) return undefined
      const [ids, logprobs] = [out.read(`${name}.topIds`) as Int32Array, out.read(`${name}.topLogprobs`) as Float32Array]
      return (r: number): Alternatives => ({
        ids: ids.slice(r * top, (r + 1) * top),
        logprobs: logprobs.slice(r * top, (r + 1) * top),
      })
    }
    const read = { choices: [] as Choice[], scores: [] as StepResult["scores"][number][], hidden: undefined as Float32Array | undefined }
    if (chooses) {
      const [ids, logprobs, best] = [out.read("token"), out.read("choice.logprob"), alternatives("choice")]
      read.choices = rows.map((_, b) => ({ id: ids[b]!, logprob: logprobs[b]!, ...(best && { top: best(b) }) }))
    }
    if (scores) {
      const [logprobs, best] = [out.read("score.logprob") as Float32Array, alternatives("score")]
      read.scores = rows.map((row, b) => ({
        logprobs: logprobs.slice(b * T, b * T + (row?.chunk.length ?? 0)),
        top: best && Array.from(row?.chunk ?? [], (_, t) => best(b * T + t)),
      }))
    }
    if (hidden) read.hidden = out.read("hidden") as Float32Array
    return read
  }

  /** Memory for its temporaries. */
  get bytes(): number {
    return this.#run.plan.arenaBytes
  }

  free(): void {
    this.#run.free()
  }
}

/** B chunks of T tokens through the model and its cache; the logits after each row's last token go to a state (B, V), and one token per row is chosen. */
function stepPlan({ model, precision, vocabulary, pageSize, pageCount, maxPages, order }: StepModel, shape: StepShape): Plan {
  const { B, T, chooses, adjusted, top, scores } = shape
  return plan(
    trace(`generate ${B}×${T}`, (t) => {
      const perRow = (name: string, dtype: "i32" | "f32" = "i32") => t.input(name, dtype, [B])
      const cache: Cache = {
        pageSize,
        maxPages,
        pageCount,
        pages: t.input("pages", "i32", [B, maxPages]),
        lengths: perRow("lengths"),
        counts: perRow("counts"),
      }
      const pass = { precision, T, order, cache, positions: t.input("positions", "i32", [B * T]) }
      const chosen = () => t.state(`generate.token.${B}`, "i32", [B])
      const hidden = gptHidden(model, shape.follows === true ? chosen() : t.input("tokens", "i32", [B * T]), pass) // (B·T, C)
      if (shape.hidden) t.output("hidden", precision === "f32" ? hidden : op.cast({ x: hidden }, { to: "f32" }).y)
      const tell = (name: string, found: ReturnType<typeof op.logprobs>) => {
        for (const [key, value] of Object.entries(found)) if (value !== undefined) t.output(`${name}.${key}`, value)
      }
      if (scores) {
        const logits = gptLogits(model, hidden, pass) // (B·T, V)
        tell("score", op.logprobs({ logits, targets: t.input("targets", "i32", [B * T]) }, { top, vocabulary }))
      }
      if (!chooses) return
      const last = T === 1 ? hidden : op.takeRows({ x: hidden, rows: perRow("last") }).y // (B, C)
      const logits = t.state(`generate.logits.${B}`, "f32", [B, model.vocabSize])
      writeTo(gptLogits(model, last, pass), logits)
      const list = (name: string, dtype: "i32" | "f32") => t.input(name, dtype, [B, adjusted ?? 0])
      const choosable =
        adjusted === undefined
          ? logits
          : op.logitAdjust({
              logits,
              ids: list("ids", "i32"),
              scale: list("scale", "f32"),
              bias: list("bias", "f32"),
              counts: perRow("listed"),
              mask: t.input("mask", "i32", [B, Math.ceil(model.vocabSize / 32)]),
            }).y
      const sampled = op.sample(
        {
          logits: choosable,
          temperature: perRow("temperature", "f32"),
          topK: perRow("topK"),
          topP: perRow("topP", "f32"),
          minP: perRow("minP", "f32"),
          seed: perRow("seed"),
          draw: perRow("draw"),
        },
        { vocabulary },
      )
      const token = chosen()
      writeTo(sampled.token, token)
      t.output("token", token)
      tell("choice", op.logprobs({ logits, targets: token }, { top, vocabulary }))
    }),
  )
}
