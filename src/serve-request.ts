/** From parsed fields to what the engine is asked: sampling, constraints, usage. */
import type { Constraint, RequestSampling } from "./engine.ts"
import type { Usage } from "./serve-choices.ts"
import { badField } from "./serve-error.ts"
import type { RESPONSE_FORMAT } from "./serve-fields-sampling.ts"
import type { Model } from "./serve-models.ts"
import type { ShapeOf } from "./serve-shape.ts"

interface SamplingFields {
  readonly temperature: number
  readonly top_p: number
  readonly top_k: number
  readonly min_p: number
  readonly repetition_penalty: number
  readonly frequency_penalty: number
  readonly presence_penalty: number
  readonly logit_bias: Readonly<Record<string, number>>
  readonly seed: number
}

/** What a field has that does nothing. */
export const PLAIN_SAMPLING: SamplingFields = {
  temperature: 1,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  repetition_penalty: 1,
  frequency_penalty: 0,
  presence_penalty: 0,
  logit_bias: {},
  seed: 0,
}

/** The engine's form of the sampling fields; a bias of a token that does not exist is an error. */
export function samplingOf(fields: SamplingFields, model: Model): RequestSampling {
  const bias = Object.entries(fields.logit_bias).map(([id, value]): [number, number] => {
    if (Number(id) >= model.vocabSize)
      throw badField(`logit_bias.${id}`, `is not below ${model.vocabSize}, the vocabulary of ${model.name}`)
    return [Number(id), value]
  })
  return {
    temperature: fields.temperature,
    topK: fields.top_k === 0 ? undefined : fields.top_k,
    // 0 keeps the most likely token alone, as the smallest probability does.
    topP: Math.max(fields.top_p, Number.MIN_VALUE),
    minP: fields.min_p,
    repetitionPenalty: fields.repetition_penalty,
    frequencyPenalty: fields.frequency_penalty,
    presencePenalty: fields.presence_penalty,
    logitBias: bias,
    seed: fields.seed,
  }
}

interface ConstraintFields {
  readonly response_format?: ShapeOf<typeof RESPONSE_FORMAT> | undefined
  readonly regex?: string | undefined
  readonly grammar?: string | undefined
}

/** The one constraint of a request, and the field it came from. */
export function constraintOf({ response_format, regex, grammar }: ConstraintFields): { constraint: Constraint | undefined; param: string } {
  const format = response_format?.type === "text" ? undefined : response_format
  const given = Object.entries({ response_format: format, regex, grammar }).filter(([, value]) => value !== undefined)
  if (given.length > 1) throw badField(given[1]![0], `excludes ${given[0]![0]}: an answer follows one of them`)
  if (regex !== undefined) return { constraint: { type: "regex", pattern: regex }, param: "regex" }
  if (grammar !== undefined) return { constraint: { type: "grammar", text: grammar }, param: "grammar" }
  if (format?.type === "json_object") return { constraint: { type: "json_object" }, param: "response_format" }
  if (format?.type === "json_schema") {
    const { schema } = format.json_schema!
    const constraint: Constraint = schema === undefined ? { type: "json_object" } : { type: "json_schema", schema }
    return { constraint, param: "response_format.json_schema.schema" }
  }
  return { constraint: undefined, param: "response_format" }
}

/** The usage object of completions and chat. */
export const usageJson = ({ promptTokens, answerTokens, cachedTokens }: Usage) => ({
  prompt_tokens: promptTokens,
  completion_tokens: answerTokens,
  total_tokens: promptTokens + answerTokens,
  prompt_tokens_details: { cached_tokens: cachedTokens },
})

/** "cmpl-" and 24 letters nobody guesses. */
export const newId = (prefix: string): string => `${prefix}${crypto.randomUUID().replaceAll("-", "").slice(0, 24)}`
export const unixTime = (): number => Math.floor(Date.now() / 1000)
