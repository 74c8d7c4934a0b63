/** One prompt continued as text: samples during training. */
import type { ModelConfig } from "./config.ts"
import type { Precision } from "./gpt-forward.ts"
import { createGenerator, type Sampling } from "./gpt-generate.ts"
import type { Device, State } from "./program.ts"
import { StreamDecoder, type Tokenizer } from "./token.ts"

/** Continues one prompt and returns the new text; ends early at one of `ends`, or with what `onToken` throws. */
export function generateText(
  device: Device,
  state: State,
  model: ModelConfig,
  tokenizer: Tokenizer,
  prompt: string,
  options: { precision: Precision; maxTokens: number; sampling: Sampling; ends: readonly number[]; onToken?: () => void },
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
      const [choice] = draw === 0 ? [generator.prefill({ ...turn, ids: start })] : generator.decode([{ ...turn, id }], count - draw - 1)
      id = choice!.id
      if (ends.includes(id)) break
      text += decoder.push(id)
      options.onToken?.()
    }
  } finally {
    generator.free()
  }
  return text + decoder.finish()
}
