/** Fields of tokenize, detokenize, load and unload. */
import { MESSAGES } from "./serve-fields-chat.ts"
import { MODEL } from "./serve-fields-sampling.ts"
import { field, flag, list, string, whole } from "./serve-shape.ts"

export const TOKENIZE_FIELDS = {
  ...MODEL,
  prompt: field(string(), "text to encode; or give messages", { extension: true }),
  messages: field(MESSAGES, "conversation to encode by the model's chat template", { extension: true }),
  add_special_tokens: field(flag, "with the tokens that the model's tokenizer puts around a text, as completions have them", {
    default: true,
    extension: true,
  }),
}

export const DETOKENIZE_FIELDS = {
  ...MODEL,
  tokens: field(list(whole(0, 2 ** 31 - 1)), "token ids", { required: true, extension: true }),
}

export const LOAD_FIELDS = {
  model: field(string({ min: 1, max: 500 }), "a model of /v1/models, or RUN@STEP of any run under runsDir", {
    required: true,
    extension: true,
  }),
}

export const UNLOAD_FIELDS = {
  model: field(string({ min: 1, max: 500 }), "the model to drop from memory; it is loaded again when it is asked for", {
    required: true,
    extension: true,
  }),
}
