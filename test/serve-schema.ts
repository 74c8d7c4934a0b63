/** What answers must look like by OpenAI's published document, in our own words, and a check of values against it. */

/** The part of JSON Schema that the shapes below need. Objects may have more keys than are named, unless `exact`. */
export interface Schema {
  readonly type?: "object" | "array" | "string" | "number" | "integer" | "boolean" | "null"
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly Schema[]
  readonly required?: Readonly<Record<string, Schema>>
  readonly optional?: Readonly<Record<string, Schema>>
  readonly exact?: true
  readonly items?: Schema
  readonly values?: Schema
}

/** Every place where `value` leaves the schema: "choices[0].text: expected string". */
export function violations(schema: Schema, value: unknown, path = "$"): string[] {
  if (schema.anyOf !== undefined) {
    const all = schema.anyOf.map((one) => violations(one, value, path))
    return all.some((one) => one.length === 0) ? [] : [`${path}: none of ${all.length} forms: ${all.map((one) => one[0]).join(" / ")}`]
  }
  if ("const" in schema)
    return value === schema.const ? [] : [`${path}: expected ${JSON.stringify(schema.const)}, got ${JSON.stringify(value)}`]
  if (schema.enum !== undefined)
    return schema.enum.includes(value) ? [] : [`${path}: ${JSON.stringify(value)} is not one of ${schema.enum.join(", ")}`]
  if (!hasType(schema.type, value)) return [`${path}: expected ${schema.type}, got ${JSON.stringify(value)?.slice(0, 60)}`]
  if (Array.isArray(value))
    return schema.items === undefined ? [] : value.flatMap((one, i) => violations(schema.items!, one, `${path}[${i}]`))
  if (schema.type !== "object") return []
  const entries = value as Record<string, unknown>
  const { required = {}, optional = {} } = schema
  return [
    ...Object.keys(required)
      .filter((key) => !(key in entries))
      .map((key) => `${path}.${key}: is missing`),
    ...Object.entries(entries).flatMap(([key, one]) => {
      const own = required[key] ?? optional[key] ?? schema.values
      if (own !== undefined) return violations(own, one, `${path}.${key}`)
      return schema.exact ? [`${path}.${key}: is not in the form`] : []
    }),
  ]
}

function hasType(type: Schema["type"], value: unknown): boolean {
  switch (type) {
    case undefined:
      return true
    case "null":
      return value === null
    case "array":
      return Array.isArray(value)
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value)
    case "integer":
      return Number.isInteger(value)
    default:
      return typeof value === type
  }
}

const text: Schema = { type: "string" }
const whole: Schema = { type: "integer" }
const real: Schema = { type: "number" }
const yes: Schema = { type: "boolean" }
const nothing: Schema = { type: "null" }
const orNull = (schema: Schema): Schema => ({ anyOf: [schema, nothing] })
const listOf = (items: Schema): Schema => ({ type: "array", items })
const object = (required: Record<string, Schema>, optional: Record<string, Schema> = {}): Schema => ({ type: "object", required, optional })

export const ERROR: Schema = {
  type: "object",
  exact: true,
  required: { error: { type: "object", exact: true, required: { message: text, type: text, param: orNull(text), code: orNull(text) } } },
}

const USAGE = object(
  { prompt_tokens: whole, completion_tokens: whole, total_tokens: whole },
  { prompt_tokens_details: object({}, { cached_tokens: whole }) },
)

const COMPLETION_LOGPROBS = object({
  text_offset: listOf(whole),
  token_logprobs: listOf(orNull(real)),
  tokens: listOf(text),
  top_logprobs: listOf(orNull({ type: "object", values: real })),
})

const completion = (finish: Schema): Schema =>
  object(
    {
      id: text,
      object: { const: "text_completion" },
      created: whole,
      model: text,
      choices: listOf(object({ index: whole, text, logprobs: orNull(COMPLETION_LOGPROBS), finish_reason: finish })),
    },
    { system_fingerprint: text, usage: orNull(USAGE) },
  )

const ENDS: Schema = { enum: ["stop", "length", "content_filter"] }
export const COMPLETION = completion(ENDS)
/** The document gives streamed completions the same shape; their finish_reason is null until the last. */
export const COMPLETION_CHUNK = completion(orNull(ENDS))

const TOKEN: Record<string, Schema> = { token: text, logprob: real, bytes: orNull(listOf(whole)) }
const TOKEN_LOGPROB = object({ ...TOKEN, top_logprobs: listOf(object(TOKEN)) })
const CHAT_LOGPROBS = orNull(object({ content: orNull(listOf(TOKEN_LOGPROB)), refusal: orNull(listOf(TOKEN_LOGPROB)) }))
const CHAT_ENDS: Schema = { enum: ["stop", "length", "tool_calls", "content_filter", "function_call"] }
const TOOL_CALL = object({ id: text, type: { const: "function" }, function: object({ name: text, arguments: text }) })
const head = (kind: string): Record<string, Schema> => ({ id: text, object: { const: kind }, created: whole, model: text })

export const CHAT = object(
  {
    ...head("chat.completion"),
    choices: listOf(
      object({
        index: whole,
        finish_reason: CHAT_ENDS,
        logprobs: CHAT_LOGPROBS,
        message: object({ role: { const: "assistant" }, content: orNull(text), refusal: orNull(text) }, { tool_calls: listOf(TOOL_CALL) }),
      }),
    ),
  },
  { usage: USAGE, system_fingerprint: text },
)

export const CHAT_CHUNK = object(
  {
    ...head("chat.completion.chunk"),
    choices: listOf(
      object(
        {
          index: whole,
          finish_reason: orNull(CHAT_ENDS),
          delta: object(
            {},
            {
              role: { enum: ["developer", "system", "user", "assistant", "tool"] },
              content: orNull(text),
              refusal: orNull(text),
              tool_calls: listOf(
                object({ index: whole }, { id: text, type: { const: "function" }, function: object({}, { name: text, arguments: text }) }),
              ),
            },
          ),
        },
        { logprobs: CHAT_LOGPROBS },
      ),
    ),
  },
  { usage: orNull(USAGE), system_fingerprint: text },
)

export const EMBEDDINGS = object({
  object: { const: "list" },
  model: text,
  data: listOf(object({ object: { const: "embedding" }, index: whole, embedding: { anyOf: [listOf(real), text] } })),
  usage: object({ prompt_tokens: whole, total_tokens: whole }),
})

export const MODEL = object({ id: text, object: { const: "model" }, created: whole, owned_by: text })
export const MODELS = object({ object: { const: "list" }, data: listOf(MODEL) })

const ITEM_STATUS: Schema = { enum: ["in_progress", "completed", "incomplete"] }
const LOGPROB = object({
  token: text,
  logprob: real,
  bytes: listOf(whole),
  top_logprobs: listOf(object({ token: text, logprob: real, bytes: listOf(whole) })),
})
const PART = object({ type: { const: "output_text" }, text, annotations: listOf({ type: "object" }), logprobs: listOf(LOGPROB) })
const ITEM: Schema = {
  anyOf: [
    object({ id: text, type: { const: "message" }, role: { const: "assistant" }, status: ITEM_STATUS, content: listOf(PART) }),
    object({ type: { const: "function_call" }, call_id: text, name: text, arguments: text }, { id: text, status: ITEM_STATUS }),
  ],
}

export const RESPONSE = object(
  {
    id: text,
    object: { const: "response" },
    created_at: real,
    error: orNull(object({ code: text, message: text })),
    incomplete_details: orNull(object({}, { reason: { enum: ["max_output_tokens", "content_filter"] } })),
    instructions: orNull(text),
    metadata: orNull({ type: "object", values: text }),
    model: text,
    output: listOf(ITEM),
    parallel_tool_calls: yes,
    temperature: orNull(real),
    tool_choice: { anyOf: [{ enum: ["none", "auto", "required"] }, object({ type: { const: "function" }, name: text })] },
    tools: listOf(object({ type: { const: "function" }, name: text, parameters: orNull({ type: "object" }), strict: orNull(yes) })),
    top_p: orNull(real),
  },
  {
    status: { enum: ["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"] },
    usage: orNull(
      object({
        input_tokens: whole,
        input_tokens_details: object({ cached_tokens: whole, cache_write_tokens: whole }),
        output_tokens: whole,
        output_tokens_details: object({ reasoning_tokens: whole }),
        total_tokens: whole,
      }),
    ),
  },
)

const event = (type: string, required: Record<string, Schema>): [string, Schema] => [
  type,
  object({ type: { const: type }, sequence_number: whole, ...required }),
]
const at = { item_id: text, output_index: whole }
const inPart = { ...at, content_index: whole }

/** Events of a streamed response by their type. */
export const RESPONSE_EVENTS: ReadonlyMap<string, Schema> = new Map([
  event("response.created", { response: RESPONSE }),
  event("response.in_progress", { response: RESPONSE }),
  event("response.completed", { response: RESPONSE }),
  event("response.incomplete", { response: RESPONSE }),
  event("response.failed", { response: RESPONSE }),
  event("response.output_item.added", { output_index: whole, item: ITEM }),
  event("response.output_item.done", { output_index: whole, item: ITEM }),
  event("response.content_part.added", { ...inPart, part: PART }),
  event("response.content_part.done", { ...inPart, part: PART }),
  event("response.output_text.delta", { ...inPart, delta: text, logprobs: listOf(LOGPROB) }),
  event("response.output_text.done", { ...inPart, text, logprobs: listOf(LOGPROB) }),
  event("response.function_call_arguments.delta", { ...at, delta: text }),
  event("response.function_call_arguments.done", { ...at, name: text, arguments: text }),
  event("error", { code: orNull(text), message: text, param: orNull(text) }),
])
