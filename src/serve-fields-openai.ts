/** Fields of completions, chat completions and embeddings. */

import { badField } from "./serve-error.ts"
import { MESSAGES } from "./serve-fields-chat.ts"
import {
  CONSTRAINT,
  IGNORE_EOS,
  METADATA,
  MODEL,
  RESPONSE_FORMAT,
  SAMPLING,
  STOP,
  STREAM,
  TOOL_CHOICE,
  TOOLS,
  USER,
} from "./serve-fields-sampling.ts"
import { either, field, flag, isObject, isString, list, mapped, neutral, refused, type Shape, string, whole, word } from "./serve-shape.ts"

/** One prompt: a text, or token ids. */
export type Input = string | readonly number[]

const ID = whole(0, 2 ** 31 - 1)
const isIds = (value: unknown) => Array.isArray(value) && typeof value[0] === "number"

/** A text, texts, token ids, or arrays of token ids → the prompts. */
export const INPUTS = (max: number): Shape<Input[]> =>
  mapped(
    either(
      string(),
      isString,
      either(list(ID, { min: 1 }), isIds, list(either<string, number[]>(string(), isString, list(ID, { min: 1 })), { min: 1, max })),
    ),
    (value, path): Input[] => {
      if (typeof value === "string") return [value]
      if (typeof value[0] === "number") return [value as number[]]
      const kinds = new Set((value as Input[]).map((one) => typeof one))
      if (kinds.size > 1) throw badField(path, "texts and token ids in one array")
      return value as Input[]
    },
  )

export const COMPLETION_FIELDS = {
  ...MODEL,
  prompt: field(INPUTS(128), "text, texts, token ids, or arrays of token ids to continue", { required: true }),
  max_tokens: field(whole(0), "longest continuation in tokens", { default: 16 }),
  ...SAMPLING,
  ...STOP,
  ...IGNORE_EOS,
  n: field(whole(1, 128), "continuations of each prompt; the i-th uses random stream i of the seed", { default: 1 }),
  best_of: field(whole(1, 20), "continuations to compute, of which the n with the highest mean log-probability are returned; default: n"),
  echo: field(flag, "the answer begins with the prompt; with logprobs its tokens are scored too", { default: false }),
  logprobs: field(whole(0, 20), "log-probabilities of the chosen token and this many of the most likely ones, under the model itself"),
  suffix: field(string({ min: 1 }), "text that follows the gap; only for models with fill-in-the-middle tokens, and one text as prompt"),
  ...STREAM,
  ...CONSTRAINT,
  response_format: field(RESPONSE_FORMAT, "as for chat", { extension: true }),
  ...USER,
}

export const CHAT_FIELDS = {
  ...MODEL,
  messages: field(MESSAGES, "the conversation so far", { required: true }),
  max_completion_tokens: field(whole(1), "longest answer in tokens; default: what is left of the context"),
  max_tokens: field(whole(1), "older name of max_completion_tokens; an error where both differ"),
  ...SAMPLING,
  ...STOP,
  ...IGNORE_EOS,
  n: field(whole(1, 128), "answers; the i-th uses random stream i of the seed", { default: 1 }),
  logprobs: field(flag, "log-probabilities of the answer's tokens, under the model itself", { default: false }),
  top_logprobs: field(whole(0, 20), "and of this many of the most likely ones; needs logprobs: true"),
  response_format: field(RESPONSE_FORMAT, "what the answer must look like; every token that would leave it is masked"),
  ...CONSTRAINT,
  tools: field(TOOLS, "functions that the model may call"),
  tool_choice: field(
    TOOL_CHOICE,
    "none, auto (default with tools), required, or one function; arguments always follow the function's schema",
  ),
  parallel_tool_calls: neutral(word(false, true), "an answer holds at most one call, as either value allows"),
  ...STREAM,
  ...USER,
  safety_identifier: field(string({ max: 512 }), "newer name of user"),
  metadata: neutral(mapped(METADATA, needEmpty), "nothing is stored"),
  store: neutral(word(false), "nothing is stored"),
  service_tier: neutral(word("auto", "default"), "there is one tier"),
  modalities: neutral(list(word("text"), { min: 1, max: 1 }), "models here write text only"),
  reasoning_effort: neutral(word("none"), "models here have no separate reasoning"),
  verbosity: neutral(word("medium"), "models here have one verbosity"),
  prompt_cache_key: field(string({ max: 512 }), "a hint where to look for a cached beginning; there is one cache, so any key finds it"),
  prompt_cache_retention: neutral(word("in_memory", "in-memory"), "the cache is in memory"),
  prompt_cache_options: refused("the cache finds shared beginnings by itself"),
  audio: refused("models here write text only"),
  prediction: refused("predicted outputs are not supported"),
  web_search_options: refused("there is no web search"),
  moderation: refused("there is no moderation"),
  functions: refused("use tools"),
  function_call: refused("use tool_choice"),
}

function needEmpty<T extends object>(value: T, path: string): T {
  if (isObject(value) && Object.keys(value).length > 0) throw badField(path, "not stored")
  return value
}

export const EMBEDDING_FIELDS = {
  ...MODEL,
  input: field(INPUTS(2048), "text, texts, token ids, or arrays of token ids; none of them empty", { required: true }),
  encoding_format: field(word("float", "base64"), "numbers, or their little-endian f32 bytes in base64", { default: "float" }),
  dimensions: field(whole(1), "must be the model's own width"),
  ...USER,
}
