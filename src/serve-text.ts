/** Texts and conversations → token ids, and token ids → texts, without holding the event loop. */
import { type ChatMessage, chatSpecials, encodeChat } from "./data.ts"
import { badField } from "./serve-error.ts"
import type { Message } from "./serve-fields-chat.ts"
import type { Tool } from "./serve-fields-sampling.ts"
import { type ChatTemplate, PLAIN_STOP, plainConversation, renderJinja, toolSystemText } from "./serve-template.ts"
import type { Tokenizer } from "./token.ts"

/** Bytes encoded at once: a few milliseconds at most. */
const PIECE = 8192

const breathe = () => new Promise<void>((resolve) => setImmediate(resolve))

/** Ids of a text, piece by piece; ends early once there are more than `most`. */
export async function encodeText(tokenizer: Tokenizer, text: string, special: boolean, most: number): Promise<number[]> {
  if (text.length <= PIECE) return Array.from(tokenizer.encode(text, { special }))
  const bytes = new TextEncoder().encode(text)
  const ids: number[] = []
  for (let from = 0; from < bytes.length && ids.length <= most; ) {
    const to = tokenizer.cut(bytes, Math.min(bytes.length, from + PIECE))
    for (const id of tokenizer.encode(bytes.subarray(from, to), { special })) ids.push(id)
    from = to
    await breathe()
  }
  return ids
}

/** What a model needs to read prompts and write answers. */
export interface TextModel {
  readonly name: string
  readonly tokenizer: Tokenizer | undefined
  readonly template: ChatTemplate
  readonly around: { readonly before: readonly number[]; readonly after: readonly number[] }
  /** The id an empty prompt stands for. */
  readonly begin: number | undefined
  readonly vocabSize: number
  readonly blockSize: number
}

function tokenizerOf(model: TextModel, param: string): Tokenizer {
  if (model.tokenizer !== undefined) return model.tokenizer
  throw badField(param, `model ${model.name} has no tokenizer: give token ids`, "unsupported_value")
}

/** Ids of a completion's prompt. */
export async function promptIds(model: TextModel, prompt: string | readonly number[], param: string): Promise<Int32Array> {
  const ids = typeof prompt === "string" ? await textIds(model, prompt, param) : prompt
  const bad = ids.find((id) => id >= model.vocabSize)
  if (bad !== undefined) throw badField(param, `token id ${bad} is not below ${model.vocabSize}, the vocabulary of ${model.name}`)
  if (ids.length > 0) return Int32Array.from(ids)
  if (model.begin !== undefined) return Int32Array.of(model.begin)
  throw badField(param, `is empty, and model ${model.name} has no token that begins a text`)
}

async function textIds(model: TextModel, text: string, param: string): Promise<number[]> {
  const { before, after } = model.around
  return [...before, ...(await plainIds(model, text, param, true)), ...after]
}

/** Ids of a text alone. */
export async function plainIds(model: TextModel, text: string, param: string, special: boolean): Promise<number[]> {
  const tokenizer = tokenizerOf(model, param)
  try {
    return await encodeText(tokenizer, text, special, model.blockSize)
  } catch (error) {
    throw badField(param, (error as Error).message)
  }
}

/** Special tokens around prefix, suffix and gap, as models write them: Qwen and StableCode, StarCoder and Granite. */
const GAP_TOKENS = [
  ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
  ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
] as const

/** Ids of a text with a gap, in the order prefix, suffix, middle. */
export async function gapIds(model: TextModel, prefix: string, suffix: string): Promise<Int32Array> {
  const { special } = tokenizerOf(model, "suffix")
  const marks = GAP_TOKENS.map((names) => names.map((name) => special.get(name))).find((ids) => ids.every((id) => id !== undefined))
  if (marks === undefined) throw badField("suffix", `model ${model.name} has no fill-in-the-middle tokens`, "unsupported_value")
  const [before, after, middle] = marks as [number, number, number]
  const own = await plainIds(model, prefix, "prompt", true)
  return Int32Array.from([before, ...own, after, ...(await plainIds(model, suffix, "suffix", true)), middle])
}

export interface Conversation {
  readonly ids: Int32Array
  /** Texts that end the answer, besides those asked for. */
  readonly stop: readonly string[]
  readonly stopIds: readonly number[]
}

/** Ids of a conversation and the opening of the assistant's answer. */
export async function conversationIds(
  model: TextModel,
  messages: readonly Message[],
  tools: readonly Tool[],
  param: string,
): Promise<Conversation> {
  const tokenizer = tokenizerOf(model, param)
  const { template } = model
  const { kind } = template
  if (kind === "broken") {
    throw badField("model", `the chat template of ${model.name} cannot be read: ${template.reason}`, "unsupported_value")
  }
  if (kind !== "jinja" || !template.knowsNames) {
    const named = messages.findIndex((message) => message.name !== undefined)
    if (named >= 0)
      throw badField(`${param}[${named}].name`, `the chat template of ${model.name} has no place for names`, "unsupported_value")
  }
  const turns = kind === "jinja" && template.knowsTools ? messages : toolSystemText(messages, tools)
  try {
    if (kind === "ours") {
      return { ids: Int32Array.from(await ownChatIds(model, tokenizer, turns.map(simple))), ...template.stops }
    }
    const text = kind === "jinja" ? renderJinja(template, turns, tools) : plainConversation(turns.map(simple))
    const ids = await encodeText(tokenizer, text, kind === "jinja", model.blockSize)
    return { ids: Int32Array.from(ids), ...(kind === "jinja" ? template.stops : { stop: [PLAIN_STOP], stopIds: [] }) }
  } catch (error) {
    throw badField(param, `model ${model.name} cannot read this conversation: ${(error as Error).message}`)
  }
}

/** Ids by our own template; piece by piece where its marks are tokens, as they are in models made for chat. */
async function ownChatIds(model: TextModel, tokenizer: Tokenizer, messages: readonly ChatMessage[]): Promise<ArrayLike<number>> {
  const mark = (name: string) => tokenizer.special.get(name)
  if (chatSpecials.some((name) => mark(name) === undefined)) return encodeChat(tokenizer, messages, { prompt: true }).ids
  const ids: number[] = []
  for (const { role, content } of messages) {
    if (ids.length > model.blockSize) break
    ids.push(mark(`<|${role}|>`)!)
    for (const id of await encodeText(tokenizer, content, false, model.blockSize)) ids.push(id)
    ids.push(mark("<|end|>")!)
  }
  ids.push(mark("<|assistant|>")!)
  return ids
}

/** Roles that every template has. */
function simple({ role, content, tool_calls }: Message): ChatMessage {
  const calls = (tool_calls ?? []).map(
    ({ function: { name, arguments: given } }) => `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": ${given}}\n</tool_call>`,
  )
  const text = [content, ...calls].filter((part) => part !== "").join("\n")
  switch (role) {
    case "tool":
      return { role: "user", content: `<tool_response>\n${text}\n</tool_response>` }
    case "developer":
      return { role: "system", content: text }
    default:
      return { role, content: text }
  }
}
