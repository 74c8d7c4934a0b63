/** Fields of the /api endpoints that older clients of this project use. */

import { badField } from "./serve-error.ts"
import { CONSTRAINT, MODEL, STOP, USER } from "./serve-fields-sampling.ts"
import { anyObject, field, list, mapped, number, object, type Shape, string, whole, word } from "./serve-shape.ts"

const OLD = { extension: true } as const

const SETTINGS = {
  temp: field(number(0, 2), "as temperature", { default: 0.7, ...OLD }),
  topk: field(whole(0), "as top_k", { default: 40, ...OLD }),
  topp: field(number(0, 1), "as top_p", { default: 1, ...OLD }),
  seed: field(whole(0), "of the random choices", { default: 0, ...OLD }),
}

export const GENERATE_FIELDS = {
  ...MODEL,
  prompt: field(string(), "text to continue", { required: true, ...OLD }),
  max_tokens: field(whole(1, 20_000), "longest continuation in tokens", { default: 200, ...OLD }),
  temperature: field(number(0, 2), "divides the logits; 0 = the most likely token", { default: 0.7, ...OLD }),
  top_k: field(whole(0), "keep this many of the most likely tokens; 0 = all", { default: 40, ...OLD }),
  top_p: field(number(0, 1), "keep the most likely tokens that together reach this probability", { default: 1, ...OLD }),
  seed: field(whole(0), "of the random choices", { default: 0, ...OLD }),
  ...STOP,
  ...CONSTRAINT,
  ...USER,
}

/** A number as a query string carries it. */
function fromQuery(shape: Shape<number>): Shape<number> {
  return {
    ...shape,
    parse: (value, path) => shape.parse(typeof value === "string" && /^-?[\d.]+(e-?\d+)?$/i.test(value) ? Number(value) : value, path),
  }
}

export const INFERENCE_FIELDS = {
  ...MODEL,
  query: field(string(), "text to continue", { required: true, ...OLD }),
  steps: field(fromQuery(whole(1, 500)), "longest continuation in tokens", { default: 200, ...OLD }),
  temp: { ...SETTINGS.temp, shape: fromQuery(SETTINGS.temp.shape) },
  topk: { ...SETTINGS.topk, shape: fromQuery(SETTINGS.topk.shape) },
  topp: { ...SETTINGS.topp, shape: fromQuery(SETTINGS.topp.shape) },
  seed: { ...SETTINGS.seed, shape: fromQuery(SETTINGS.seed.shape) },
}

const PART = mapped(anyObject, (part, path) => {
  if (part.type === "text" && typeof part.text === "string") return part.text
  // What useChat adds to an answer's own parts carries no text.
  if (part.type === "step-start") return ""
  throw badField(`${path}.type`, "models here read text only")
})

/** A message of the AI SDK's useChat: parts, or the content of older versions. */
const UI_MESSAGE = mapped(
  object({
    id: field(string({ max: 200 }), "kept by the client", OLD),
    role: field(word("system", "user", "assistant"), "who speaks", { required: true, ...OLD }),
    parts: field(list(PART), "text parts", OLD),
    content: field(string(), "text, in older versions of the SDK", OLD),
    metadata: field(anyObject, "kept by the client", OLD),
    createdAt: field(string({ max: 100 }), "kept by the client", OLD),
  }),
  ({ role, parts, content }) => ({ role, content: parts?.join("") ?? content ?? "" }),
)

export const CHAT_UI_FIELDS = {
  ...MODEL,
  id: field(string({ max: 200 }), "of the chat; kept by the client", OLD),
  messages: field(list(UI_MESSAGE, { min: 1 }), "the conversation, as useChat sends it", { required: true, ...OLD }),
  trigger: field(word("submit-message", "regenerate-message"), "why useChat asks", OLD),
  messageId: field(string({ max: 200 }), "of the message that is written again; kept by the client", OLD),
  max_tokens: field(whole(1, 20_000), "longest answer in tokens; default: what is left of the context", OLD),
  temperature: field(number(0, 2), "divides the logits", { default: 0.7, ...OLD }),
  seed: field(whole(0), "of the random choices", { default: 0, ...OLD }),
}
