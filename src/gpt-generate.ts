/** Generation: prompts are prefilled in chunks into a paged cache of keys and values, then every row grows by one token a step. */
import type { ModelConfig } from "./config.ts"
import { type Cache, gptHidden, gptLogits, type Precision } from "./gpt-forward.ts"
import * as op from "./op.ts"
import { type Device, type Executable, type Plan, plan, type State, trace, writeTo } from "./program.ts"
import { StreamDecoder, type Tokenizer } from "./token.ts"

/** How one row chooses its tokens. */
export interface Sampling {
  /** Divides the logits; 0 = the most likely token. */
  readonly temperature: number
  /** Undefined keeps all. */
  readonly topK: number | undefined
  readonly topP: number
  readonly minP: number
  readonly repetitionPenalty: number
  readonly seed: number
}

export const GREEDY: Sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }

export interface GeneratorOptions {
  readonly precision: Precision
  /** Rows that run together. */
  readonly batch: number
  /** Most tokens of a row, prompt included. */
  readonly length: number
}

export interface Generator {
  /** Starts every row anew with its prompt (1 … length tokens). */
  prefill(prompts: readonly ArrayLike<number>[]): void
  /** Chooses the next token of every row; ln of its probability under the unmodified model. */
  sample(sampling: readonly Sampling[]): { ids: Int32Array; logprobs: Float32Array }
  /** Appends one token to every row (undefined: the row is finished and stays as it is). */
  feed(ids: readonly (number | undefined)[]): void
  free(): void
}

const PAGE = 64
/** Longest prefill chunk, tokens per row. */
const CHUNK = 256

/** Compiles the programs of a batch; the state holds the model's weights. */
export function createGenerator(
  device: Device,
  state: State,
  model: ModelConfig,
  { precision, batch: B, length }: GeneratorOptions,
): Generator {
  const maxPages = Math.ceil(length / PAGE)
  const pages = Int32Array.from({ length: B * maxPages }, (_, i) => i)
  const lengths = new Int32Array(B)
  const draws = new Int32Array(B)
  const history: number[][] = Array.from({ length: B }, () => [])
  const forwards = new Map<number, Executable>()
  const forward = (T: number): Executable => {
    const known = forwards.get(T) ?? device.compile(forwardPlan(model, precision, B, T, maxPages), state)
    forwards.set(T, known)
    return known
  }
  const sampler = device.compile(samplePlan(model, B, maxPages * PAGE), state)
  /** Runs a chunk: tokens of row b are chunk[b], at most T. */
  const run = (chunk: readonly ArrayLike<number>[], T: number) => {
    const tokens = new Int32Array(B * T)
    const counts = Int32Array.from(chunk, (row) => row.length)
    chunk.forEach((row, b) => tokens.set(row, b * T))
    const positions = Int32Array.from({ length: B * T }, (_, i) => Math.min((lengths[Math.floor(i / T)] as number) + (i % T), length - 1))
    const last = Int32Array.from(chunk, (row, b) => b * T + Math.max(0, row.length - 1))
    forward(T).submit({ tokens, positions, pages, lengths, counts, last })
    chunk.forEach((row, b) => {
      lengths[b] = (lengths[b] as number) + row.length
      for (let i = 0; i < row.length; i++) history[b]?.push(row[i] as number)
    })
  }
  return {
    prefill(prompts) {
      lengths.fill(0)
      draws.fill(0)
      for (const row of history) row.length = 0
      const longest = Math.max(...prompts.map((p) => p.length))
      const T = Math.min(CHUNK, 2 ** Math.ceil(Math.log2(longest)))
      const chunks = Math.ceil(longest / T)
      for (let c = chunks; c > 0; c--) {
        // Chunks count from the end, so that every row's last token is in the last one.
        run(
          prompts.map((p) => Array.prototype.slice.call(p, Math.max(0, p.length - c * T), Math.max(0, p.length - (c - 1) * T)) as number[]),
          T,
        )
      }
    },
    sample(sampling) {
      const out = sampler.submit({ ...samplerInputs(sampling, draws, history, maxPages * PAGE), lengths })
      for (let b = 0; b < B; b++) draws[b] = (draws[b] as number) + 1
      return { ids: (out.read("token") as Int32Array).slice(), logprobs: (out.read("logprob") as Float32Array).slice() }
    },
    feed: (ids) =>
      run(
        ids.map((id) => (id === undefined ? [] : [id])),
        1,
      ),
    free() {
      for (const run of [...forwards.values(), sampler]) run.free()
    },
  }
}

/** A chunk of T tokens per row through the model; the logits of each row's last token go to the state "generate.logits" (B, V). */
function forwardPlan(model: ModelConfig, precision: Precision, B: number, T: number, maxPages: number): Plan {
  return plan(
    trace(`generate.${T}`, (t) => {
      const cache: Cache = {
        pageSize: PAGE,
        maxPages,
        pageCount: B * maxPages,
        pages: t.input("pages", "i32", [B, maxPages]),
        lengths: t.input("lengths", "i32", [B]),
        counts: t.input("counts", "i32", [B]),
      }
      const pass = { precision, T, cache, positions: t.input("positions", "i32", [B * T]) }
      const hidden = gptHidden(model, t.input("tokens", "i32", [B * T]), pass) // (B·T, C)
      const rows = T === 1 ? hidden : op.takeRows({ x: hidden, rows: t.input("last", "i32", [B]) }).y // (B, C)
      writeTo(gptLogits(model, rows, pass), t.state("generate.logits", "f32", [B, model.vocabSize]))
      if (T === 1) t.input("last", "i32", [B])
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
  const ids = tokenizer.encode(prompt, { special: true })
  const start = ids.length === 0 ? Int32Array.of(options.ends[0] ?? 0) : ids.subarray(-Math.max(1, model.blockSize - options.maxTokens))
  const count = Math.min(options.maxTokens, model.blockSize - start.length)
  const generator = createGenerator(device, state, model, { precision: options.precision, batch: 1, length: start.length + count })
  const decoder = new StreamDecoder(tokenizer)
  let text = ""
  try {
    generator.prefill([start])
    for (let i = 0; i < count; i++) {
      const id = generator.sample([options.sampling]).ids[0] as number
      if (options.ends.includes(id)) break
      text += decoder.push(id)
      if (i + 1 < count) generator.feed([id])
    }
  } finally {
    generator.free()
  }
  return text + decoder.finish()
}
