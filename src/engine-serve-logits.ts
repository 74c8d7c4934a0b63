/** What one request does to the logits before a token is drawn: its biases and the penalties of what was said, kept as lists that grow. */
import type { RequestSampling } from "./engine-serve-protocol.ts"
import type { Adjustment } from "./gpt.ts"

/** Undefined where the request leaves the logits alone. */
export function logitChanges(sampling: RequestSampling, prompt: Int32Array): LogitChanges | undefined {
  const { repetitionPenalty, frequencyPenalty, presencePenalty, logitBias } = sampling
  if (repetitionPenalty === 1 && frequencyPenalty === 0 && presencePenalty === 0 && logitBias.length === 0) return undefined
  return new LogitChanges(sampling, prompt)
}

export class LogitChanges implements Adjustment {
  readonly ids: number[] = []
  readonly scale: number[] = []
  readonly bias: number[] = []
  /** Place of an id in the lists. */
  readonly #places = new Map<number, number>()
  readonly #sampling: RequestSampling
  /** Ids of the answer. */
  readonly #said = new Set<number>()

  constructor(sampling: RequestSampling, prompt: Int32Array) {
    this.#sampling = sampling
    for (const [id, bias] of sampling.logitBias) this.bias[this.#place(id)]! += bias
    if (sampling.repetitionPenalty !== 1) for (const id of prompt) this.scale[this.#place(id)] = sampling.repetitionPenalty
  }

  #place(id: number): number {
    const known = this.#places.get(id)
    if (known !== undefined) return known
    this.#places.set(id, this.ids.length)
    this.scale.push(1)
    this.bias.push(0)
    return this.ids.push(id) - 1
  }

  /** The answer goes on with `id`. */
  say(id: number): void {
    const { repetitionPenalty, frequencyPenalty, presencePenalty } = this.#sampling
    if (repetitionPenalty === 1 && frequencyPenalty === 0 && presencePenalty === 0) return
    const place = this.#place(id)
    this.scale[place] = repetitionPenalty
    this.bias[place]! -= frequencyPenalty + (this.#said.has(id) ? 0 : presencePenalty)
    this.#said.add(id)
  }
}
