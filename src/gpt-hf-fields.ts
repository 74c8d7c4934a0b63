/** Typed access to the fields of a Hugging Face config.json, with errors that name the file and the field. */

import { AlphaError, EXIT } from "./base-error.ts"
import { checkModel, MODEL, type ModelConfig, parseValue } from "./config.ts"

/** Larger sizes are damage, not models. */
const MAX_SIZE = 2 ** 31 - 1

const ROPE_KEYS = new Set([
  "rope_theta",
  "rope_type",
  "type",
  "factor",
  "low_freq_factor",
  "high_freq_factor",
  "original_max_position_embeddings",
  "partial_rotary_factor",
])

export class HfFields {
  readonly json: Record<string, unknown>

  constructor(
    json: unknown,
    readonly path: string,
  ) {
    if (typeof json !== "object" || json === null || Array.isArray(json))
      throw new AlphaError(`${path}: not a JSON object`, { code: EXIT.data })
    this.json = json as Record<string, unknown>
  }

  fail(what: string, hint?: string): never {
    throw new AlphaError(`${this.path}: ${what}`, { hint, code: EXIT.data })
  }

  /** A positive integer; `fallback` where the field is absent or null. */
  size(name: string, fallback?: number): number {
    const value = this.json[name] ?? fallback
    if (typeof value === "number" && Number.isInteger(value) && value > 0 && value <= MAX_SIZE) return value
    return this.fail(
      value === undefined ? `${name} is missing` : `${name} is ${JSON.stringify(value)}, not a whole number from 1 to ${MAX_SIZE}`,
    )
  }

  number(name: string, fallback: number): number {
    const value = this.json[name] ?? fallback
    return typeof value === "number" && Number.isFinite(value) && value >= 0
      ? value
      : this.fail(`${name} is ${JSON.stringify(value)}, not a number of at least 0`)
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.json[name] ?? fallback
    return typeof value === "boolean" ? value : this.fail(`${name} is ${JSON.stringify(value)}, not true or false`)
  }

  /** Refuses a field that is present with any value but the one whose function we have. */
  mustBe(name: string, wanted: string | number | boolean | null): void {
    const value = this.json[name]
    if (value !== undefined && value !== null && value !== wanted)
      this.fail(`${name} is ${JSON.stringify(value)}, only ${JSON.stringify(wanted)} is supported`)
  }

  tokenId(name: string): number | undefined {
    const value = this.json[name] ?? undefined
    // -1 is an old spelling of "none" in pad_token_id.
    if (value === undefined || value === -1) return undefined
    return Number.isSafeInteger(value) && (value as number) >= 0
      ? (value as number)
      : this.fail(`${name} is ${JSON.stringify(value)}, not a token id`)
  }

  tokenIds(name: string): number | number[] | undefined {
    const value = this.json[name]
    if (!Array.isArray(value)) return this.tokenId(name)
    return value.every((id) => Number.isSafeInteger(id) && id >= 0)
      ? (value as number[])
      : this.fail(`${name} is ${JSON.stringify(value)}, not a list of token ids`)
  }

  /** RoPE base and scaling from rope_parameters (transformers 5) or rope_theta and rope_scaling (older); where both stand they must agree. */
  rope(): { theta: number; scaling: string } {
    const current = this.ropeOf("rope_parameters")
    const older = this.ropeOf("rope_scaling")
    const topTheta = this.json.rope_theta === undefined ? undefined : this.number("rope_theta", 10000)
    const theta = current?.theta ?? older?.theta ?? topTheta ?? 10000
    if (topTheta !== undefined && theta !== topTheta) this.fail(`rope_theta is ${topTheta} but rope_parameters says ${theta}`)
    if (current !== undefined && older !== undefined && current.scaling !== older.scaling)
      this.fail(`rope_scaling says ${older.scaling} but rope_parameters says ${current.scaling}`)
    if (theta <= 0) this.fail(`rope_theta is ${theta}, not above 0`)
    return { theta, scaling: current?.scaling ?? older?.scaling ?? "none" }
  }

  private ropeOf(name: "rope_parameters" | "rope_scaling"): { theta: number | undefined; scaling: string } | undefined {
    const value = this.json[name] ?? undefined
    if (value === undefined) return undefined
    const inner = new HfFields(value, `${this.path}: ${name}`)
    const unknown = Object.keys(inner.json).find((key) => !ROPE_KEYS.has(key))
    if (unknown !== undefined) inner.fail(`${unknown} is not supported`)
    inner.mustBe("partial_rotary_factor", 1)
    const theta = inner.json.rope_theta === undefined ? undefined : inner.number("rope_theta", 0)
    const type = inner.json.rope_type ?? inner.json.type ?? "default"
    const need = (key: string) => (inner.json[key] === undefined ? inner.fail(`${key} is missing`) : inner.number(key, 0))
    if (type === "default") return { theta, scaling: "none" }
    if (type === "linear") return { theta, scaling: `linear:${need("factor")}` }
    if (type === "llama3")
      return {
        theta,
        scaling: ["llama3", ...["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"].map(need)].join(":"),
      }
    return inner.fail(`rope_type ${JSON.stringify(type)} is not one of default, linear, llama3`)
  }
}

/**
 * A whole ModelConfig from values of any type: each field checked against its row of the MODEL table, then for contradictions.
 * Errors name `source` ("m/config.json: alpha") and the field.
 */
export function checkedModel(values: Record<string, unknown>, source: string): ModelConfig {
  const fail = (what: string): never => {
    throw new AlphaError(`${source}: ${what}`, { code: EXIT.data })
  }
  const unknown = Object.keys(values).find((name) => !Object.hasOwn(MODEL, name))
  if (unknown !== undefined) fail(`${unknown} is not a field of a model`)
  const missing = Object.entries(MODEL).find(([name, field]) => field.presence !== "optional" && (values[name] ?? undefined) === undefined)
  if (missing !== undefined) fail(`${missing[0]} is missing`)
  try {
    const model = Object.fromEntries(
      Object.entries(MODEL).map(([name, field]) => [name, values[name] === undefined ? undefined : parseValue(field, values[name], name)]),
    ) as ModelConfig
    const size = Math.max(model.vocabSize, model.blockSize, model.nHead, model.nKvHead, model.nEmbd, model.headDim, model.ffnDim)
    if (size > MAX_SIZE) fail(`${size} is not the size of a model`)
    if (model.nHead % model.nKvHead !== 0) fail(`nHead ${model.nHead} is not divisible by nKvHead ${model.nKvHead}`)
    checkModel(model)
    return model
  } catch (error) {
    if (error instanceof AlphaError) return fail(error.message)
    throw error
  }
}
