/** Request fields that several endpoints share: which model, how tokens are chosen, where an answer ends. */
import { badField } from "./serve-error.ts"
import {
  anyObject,
  either,
  field,
  flag,
  isString,
  list,
  mapped,
  neutral,
  number,
  object,
  record,
  type ShapeOf,
  string,
  whole,
  word,
} from "./serve-shape.ts"

export const MODEL = {
  model: field(string({ min: 1, max: 500 }), "name of a model of /v1/models, or RUN@STEP for one checkpoint of a run; default: the first"),
}

const TOKEN_ID = { pattern: /^\d{1,9}$/, words: "a token id" }

/** How a token is chosen. */
export const SAMPLING = {
  temperature: field(number(0, 2), "divides the logits; 0 = the most likely token", { default: 1 }),
  top_p: field(number(0, 1), "keep the most likely tokens that together reach this probability; 1 = all", { default: 1 }),
  top_k: field(whole(0), "keep this many of the most likely tokens; 0 = all", { default: 0, extension: true }),
  min_p: field(number(0, 1), "keep tokens at least this fraction as likely as the most likely one; 0 = all", {
    default: 0,
    extension: true,
  }),
  frequency_penalty: field(number(-2, 2), "subtracted from a token's logit for each time the answer holds it", { default: 0 }),
  presence_penalty: field(number(-2, 2), "subtracted from the logit of every token that the answer holds", { default: 0 }),
  repetition_penalty: field(number(0.01, 100), "divides positive and multiplies negative logits of tokens in prompt and answer; 1 = off", {
    default: 1,
    extension: true,
  }),
  logit_bias: field(record(TOKEN_ID, number(-100, 100), 1024), "added to the logits of these token ids; -100 bans a token", {
    default: {},
  }),
  seed: field(whole(-(2 ** 53) + 1), "of the random choices; the same request with the same seed has the same answer, byte for byte", {
    default: 0,
  }),
}

/** Texts that end an answer. */
export const STOP = {
  stop: field(
    mapped(either(string({ min: 1, max: 1000 }), isString, list(string({ min: 1, max: 1000 }), { max: 4 })), (value): readonly string[] =>
      [value].flat(),
    ),
    "up to 4 texts; the answer ends before the first of them, also where it spans tokens",
    { default: [] },
  ),
}

/** Goes on past the end that the model chose: for measurements with answers of equal length. */
export const IGNORE_EOS = {
  ignore_eos: field(flag, "go on past the model's own end-of-text tokens, to max_tokens", { default: false, extension: true }),
}

/** What the answer must look like. */
export const CONSTRAINT = {
  regex: field(string({ min: 1, max: 10_000 }), "regular expression that the whole answer matches", { extension: true }),
  grammar: field(string({ min: 1, max: 100_000 }), "GBNF grammar that the whole answer follows", { extension: true }),
}

export const STREAM = {
  stream: field(flag, "send the answer as server-sent events while it grows", { default: false }),
  stream_options: field(
    object({
      include_usage: field(flag, "one more event with the usage before [DONE]", { default: false }),
      include_obfuscation: neutral(word(false), "no padding is sent"),
    }),
    "only with stream: true",
  ),
}

/** Who asks. */
export const USER = {
  user: field(string({ max: 512 }), "name of your user: users share the server fairly"),
}

const METADATA_KEY = { pattern: /^[\s\S]{1,64}$/, words: "a text of at most 64 characters" }
export const METADATA = record(METADATA_KEY, string({ max: 512 }), 16)

/** Deeper or larger schemas would keep other requests waiting while they are compiled. */
const SCHEMA_LIMITS = { depth: 100, values: 10_000 }

/** A JSON Schema of a size that can be compiled at once. */
export const SCHEMA = mapped(anyObject, (schema, path) => {
  let values = 0
  const visit = (value: unknown, depth: number): void => {
    if (depth > SCHEMA_LIMITS.depth) throw badField(path, `nests deeper than ${SCHEMA_LIMITS.depth} levels`)
    if (++values > SCHEMA_LIMITS.values) throw badField(path, `holds more than ${SCHEMA_LIMITS.values} values`)
    if (typeof value === "object" && value !== null) for (const one of Object.values(value)) visit(one, depth + 1)
  }
  visit(schema, 0)
  return schema
})

/** The name of a schema or function. */
const NAME = string({ pattern: /^[a-zA-Z0-9_-]{1,64}$/ })

export const RESPONSE_FORMAT = mapped(
  object({
    type: field(
      word("text", "json_object", "json_schema"),
      "text: anything; json_object: one JSON object; json_schema: what the schema allows",
      {
        required: true,
      },
    ),
    json_schema: field(
      object({
        name: field(NAME, "name of the schema", { required: true }),
        description: field(string(), "what the answer is for; the model does not see it"),
        schema: field(SCHEMA, "JSON Schema that the answer is held to; default: any object"),
        strict: field(flag, "the schema always holds, also with false"),
      }),
      "with type json_schema",
    ),
  }),
  (format, path) => {
    if (format.type === "json_schema" && format.json_schema === undefined) {
      throw badField(`${path}.json_schema`, "is required with type json_schema", "missing_required_parameter")
    }
    return format
  },
)

const FUNCTION = {
  name: field(NAME, "name of the function", { required: true }),
  description: field(string(), "what it does"),
  parameters: field(SCHEMA, "JSON Schema of its arguments; default: an empty object"),
  strict: field(flag, "arguments always follow the schema, also with false"),
}

export const TOOLS = list(
  object({
    type: field(word("function"), "only functions", { required: true }),
    function: field(object(FUNCTION), "the function", { required: true }),
  }),
  { max: 128 },
)
export type Tool = ShapeOf<typeof TOOLS>[number]["function"]

/** The flat form of /v1/responses. */
export const FLAT_TOOLS = list(object({ type: field(word("function"), "only functions", { required: true }), ...FUNCTION }), { max: 128 })

const CHOICE_WORD = word("none", "auto", "required")

export const TOOL_CHOICE = either(
  CHOICE_WORD,
  isString,
  object({
    type: field(word("function"), "a function", { required: true }),
    function: field(object({ name: field(NAME, "its name", { required: true }) }), "which", { required: true }),
  }),
)

export const FLAT_TOOL_CHOICE = either(
  CHOICE_WORD,
  isString,
  object({ type: field(word("function"), "a function", { required: true }), name: field(NAME, "its name", { required: true }) }),
)
