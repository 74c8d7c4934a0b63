/** Fields of /v1/responses. */
import { badField } from "./serve-error.ts"
import type { Message } from "./serve-fields-chat.ts"
import { FLAT_TOOL_CHOICE, FLAT_TOOLS, METADATA, MODEL, SAMPLING, SCHEMA, STREAM, USER } from "./serve-fields-sampling.ts"
import {
  anyObject,
  either,
  field,
  flag,
  isObject,
  isString,
  list,
  mapped,
  neutral,
  object,
  refused,
  type Shape,
  string,
  whole,
  word,
} from "./serve-shape.ts"

const TEXT_PART = object({
  type: field(word("input_text", "output_text"), "models here read text only", { required: true }),
  text: field(string(), "the text", { required: true }),
  annotations: field(list(anyObject), "of an earlier answer; the model does not see them"),
  logprobs: field(list(anyObject), "of an earlier answer; the model does not see them"),
})

const CONTENT = mapped(either(string(), isString, list(TEXT_PART)), (value) =>
  typeof value === "string" ? value : value.map(({ text }) => text).join(""),
)

const ID = string({ min: 1, max: 200 })
const STATUS = word("in_progress", "completed", "incomplete")

const MESSAGE_ITEM = mapped(
  object({
    type: field(word("message"), "a message", { default: "message" }),
    role: field(word("system", "developer", "user", "assistant"), "who speaks; developer = system", { required: true }),
    content: field(CONTENT, "text, or an array of text parts", { required: true }),
    id: field(ID, "of an earlier answer"),
    status: field(STATUS, "of an earlier answer"),
    phase: refused("answers here have no phases"),
  }),
  ({ role, content }): Message => ({ role, content }),
)

const CALL_ITEM = mapped(
  object({
    type: field(word("function_call"), "a call that the model asked for", { required: true }),
    call_id: field(ID, "its id", { required: true }),
    name: field(string({ min: 1, max: 64 }), "the function", { required: true }),
    arguments: field(string(), "its arguments as JSON text", { required: true }),
    id: field(ID, "of the item"),
    status: field(STATUS, "of the item"),
  }),
  ({ call_id, name, arguments: given }): Message => ({
    role: "assistant",
    content: "",
    tool_calls: [{ id: call_id, type: "function", function: { name, arguments: given } }],
  }),
)

const OUTPUT_ITEM = mapped(
  object({
    type: field(word("function_call_output"), "what a function returned", { required: true }),
    call_id: field(ID, "the call", { required: true }),
    output: field(CONTENT, "text, or an array of text parts", { required: true }),
    id: field(ID, "of the item"),
    status: field(STATUS, "of the item"),
  }),
  ({ call_id, output }): Message => ({ role: "tool", content: output, tool_call_id: call_id }),
)

const ITEM: Shape<Message> = {
  words: "a message, function_call or function_call_output",
  schema: { anyOf: [MESSAGE_ITEM.schema, CALL_ITEM.schema, OUTPUT_ITEM.schema] },
  parse(value, path) {
    const type = isObject(value) ? (value.type ?? "message") : undefined
    if (type === "function_call") return CALL_ITEM.parse(value, path)
    if (type === "function_call_output") return OUTPUT_ITEM.parse(value, path)
    if (type === "message") return MESSAGE_ITEM.parse(value, path)
    throw badField(type === undefined ? path : `${path}.type`, `expected ${ITEM.words}`)
  },
}

const FORMAT = mapped(
  object({
    type: field(word("text", "json_object", "json_schema"), "as response_format of chat", { required: true }),
    name: field(string({ pattern: /^[a-zA-Z0-9_-]{1,64}$/ }), "name of the schema"),
    description: field(string(), "what the answer is for; the model does not see it"),
    schema: field(SCHEMA, "JSON Schema that the answer is held to"),
    strict: field(flag, "the schema always holds, also with false"),
  }),
  (format, path) => {
    if (format.type !== "json_schema") return format
    if (format.schema === undefined) throw badField(`${path}.schema`, "is required with type json_schema", "missing_required_parameter")
    if (format.name === undefined) throw badField(`${path}.name`, "is required with type json_schema", "missing_required_parameter")
    return format
  },
)

const { temperature, top_p, top_k, min_p, frequency_penalty, presence_penalty, repetition_penalty, logit_bias, seed } = SAMPLING
const extension = <R extends object>(row: R): R => ({ ...row, extension: true })

export const RESPONSE_FIELDS = {
  ...MODEL,
  input: field(either(string(), isString, list(ITEM, { min: 1 })), "text, or the items of the conversation so far", { required: true }),
  instructions: field(string(), "a system message before the others"),
  max_output_tokens: field(whole(1), "longest answer in tokens; default: what is left of the context"),
  temperature,
  top_p,
  top_k,
  min_p,
  repetition_penalty,
  frequency_penalty: extension(frequency_penalty),
  presence_penalty: extension(presence_penalty),
  logit_bias: extension(logit_bias),
  seed: extension(seed),
  text: field(
    object({
      format: field(FORMAT, "what the answer must look like"),
      verbosity: neutral(word("medium"), "models here have one verbosity"),
    }),
    "format of the answer",
  ),
  tools: field(FLAT_TOOLS, "functions that the model may call"),
  tool_choice: field(FLAT_TOOL_CHOICE, "none, auto (default with tools), required, or one function"),
  parallel_tool_calls: neutral(word(false, true), "an answer holds at most one call, as either value allows"),
  max_tool_calls: field(whole(1), "an answer holds at most one call, so that any number is kept"),
  include: field(
    list(word("message.output_text.logprobs"), { max: 1 }),
    "message.output_text.logprobs: log-probabilities of the answer's tokens",
  ),
  top_logprobs: field(whole(0, 20), "and of this many of the most likely ones; needs the include"),
  stream: STREAM.stream,
  stream_options: field(object({ include_obfuscation: neutral(word(false), "no padding is sent") }), "only with stream: true"),
  metadata: field(METADATA, "given back in the response", { default: {} }),
  truncation: neutral(word("disabled"), "what does not fit the context is an error"),
  store: neutral(word(false), "nothing is stored: send the whole conversation each time"),
  background: neutral(word(false), "nothing is stored"),
  service_tier: neutral(word("auto", "default"), "there is one tier"),
  reasoning: neutral(
    object({ effort: neutral(word("none"), "none"), summary: refused("there is nothing to sum up") }),
    "models here have no separate reasoning",
  ),
  prompt_cache_key: field(string({ max: 512 }), "a hint where to look for a cached beginning; there is one cache, so any key finds it"),
  prompt_cache_retention: neutral(word("in_memory", "in-memory"), "the cache is in memory"),
  prompt_cache_options: refused("the cache finds shared beginnings by itself"),
  ...USER,
  safety_identifier: field(string({ max: 512 }), "newer name of user"),
  previous_response_id: refused("nothing is stored: send the whole conversation each time"),
  conversation: refused("nothing is stored: send the whole conversation each time"),
  context_management: refused("what does not fit the context is an error"),
  prompt: refused("there are no stored prompts"),
  moderation: refused("there is no moderation"),
}
