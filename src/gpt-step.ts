/** One step of generation: chunks of tokens for some sequences through the model and its cache, and the choice of the next ones. */
import type { ModelConfig } from "./config.ts"
import { type Cache, gptHidden, gptLogits, type Precision } from "./gpt-forward.ts"
import * as op from "./op.ts"
import { type Device, type Executable, type Plan, plan, type State, trace, writeTo } from "./program.ts"

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

/** A chosen token, and ln of its probability under the model itself (no temperature, nothing cut off). */
export interface Choice {
  readonly id: number
  readonly logprob: number
}

/** Positions per page of the cache. */
export const PAGE = 64

/** Names of the states that steps add to the model's: the cache and the newest logits. */
export const GENERATED = /^(cache|generate)\./

/** One sequence's part of a step. */
export interface Row {
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
export class Step {
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
      const logits = t.state(`generate.logits.${B}`, "f32", [B, model.vocabSize])
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
