/** Chat templates: the model's own in Jinja, the one that `alpha train` writes, or the plain one that stands in for none. */
import { Template } from "@huggingface/jinja"
import { type ChatMessage, chatTemplate } from "./data.ts"
import type { Message } from "./serve-fields-chat.ts"
import type { Tool } from "./serve-fields-sampling.ts"
import type { Tokenizer } from "./token.ts"

/** What ends a turn: texts, and special tokens by id. */
export interface Stops {
  readonly stop: readonly string[]
  readonly stopIds: readonly number[]
}

export type ChatTemplate =
  | {
      readonly kind: "jinja"
      readonly template: Template
      /** bos_token and its like, as the template may write them. */
      readonly special: Readonly<Record<string, string>>
      readonly knowsTools: boolean
      readonly knowsNames: boolean
      readonly stops: Stops
    }
  | { readonly kind: "ours"; readonly stops: Stops }
  | { readonly kind: "plain" }
  /** Beyond us; conversations are refused with the reason, other requests are not. */
  | { readonly kind: "broken"; readonly reason: string }

/** Reads a model's template; `config` is its tokenizer_config.json. */
export function readTemplate(
  text: string | undefined,
  config: Readonly<Record<string, unknown>>,
  tokenizer: Tokenizer | undefined,
): ChatTemplate {
  if (text === undefined) return { kind: "plain" }
  if (text === chatTemplate) return { kind: "ours", stops: stopsOf("<|end|>", tokenizer) }
  const special = Object.fromEntries(
    ["bos_token", "eos_token", "pad_token", "unk_token"].flatMap((name) => {
      const token = config[name] as string | { content?: string } | null | undefined
      const content = typeof token === "string" ? token : token?.content
      return content === undefined ? [] : [[name, content]]
    }),
  )
  let template: Template
  try {
    template = new Template(text)
  } catch (error) {
    return { kind: "broken", reason: (error as Error).message }
  }
  return {
    kind: "jinja",
    template,
    special,
    knowsTools: /\btools\b/.test(text),
    knowsNames: /message\.name\b|message\[["']name["']\]|\.get\(["']name["']\)/.test(text),
    stops: stopsOf(endOfTurn(template, special), tokenizer),
  }
}

const MARK = "\u0001answer\u0001"

/** What the template writes after an assistant's words; "" where that cannot be seen. */
function endOfTurn(template: Template, special: Readonly<Record<string, string>>): string {
  const messages = [
    { role: "user", content: "question" },
    { role: "assistant", content: MARK },
  ]
  try {
    const text = template.render({ messages, add_generation_prompt: false, ...special })
    return text.split(MARK)[1]?.trim() ?? ""
  } catch {
    return ""
  }
}

/** A special token stops by its id, other text as text. */
function stopsOf(text: string, tokenizer: Tokenizer | undefined): Stops {
  if (text === "") return { stop: [], stopIds: [] }
  for (const [special, id] of tokenizer?.special ?? []) {
    if (text.startsWith(special)) return { stop: [], stopIds: [id] }
  }
  return { stop: [text.split("\n")[0]!], stopIds: [] }
}

/** Text of a conversation by the model's template, with the variables that transformers gives it. */
export function renderJinja(
  { template, special }: Extract<ChatTemplate, { kind: "jinja" }>,
  messages: readonly Message[],
  tools: readonly Tool[],
): string {
  const turns = messages.map(({ role, tool_calls, ...rest }) => ({
    ...rest,
    role: role === "developer" ? "system" : role,
    ...(tool_calls === undefined ? {} : { tool_calls: tool_calls.map(withObject) }),
  }))
  const list = tools.map((tool) => ({ type: "function", function: described(tool) }))
  return template.render({ messages: turns, ...(list.length === 0 ? {} : { tools: list }), add_generation_prompt: true, ...special })
}

/** Templates write arguments as an object. */
function withObject(call: NonNullable<Message["tool_calls"]>[number]): unknown {
  let given: unknown = call.function.arguments
  try {
    given = JSON.parse(call.function.arguments)
  } catch {
    // Left as the text it is.
  }
  return { ...call, function: { ...call.function, arguments: given } }
}

const described = ({ name, description, parameters }: Tool) => ({
  name,
  ...(description === undefined ? {} : { description }),
  parameters: parameters ?? { type: "object", properties: {} },
})

/** For templates without a place for tools: the system message lists them. */
export function toolSystemText(messages: readonly Message[], tools: readonly Tool[]): readonly Message[] {
  if (tools.length === 0) return messages
  const text = [
    "You may call one of these functions:",
    ...tools.map((tool) => JSON.stringify(described(tool))),
    'To call one, answer with <tool_call>\\n{"name": NAME, "arguments": ARGUMENTS}\\n</tool_call> alone.',
  ].join("\n")
  const [first, ...rest] = messages
  if (first?.role === "system" || first?.role === "developer") return [{ ...first, content: `${first.content}\n\n${text}` }, ...rest]
  return [{ role: "system", content: text }, ...messages]
}

/** What begins a user's turn in the plain conversation, and so ends the answer. */
export const PLAIN_STOP = "\n\nUser:"

/** For models without a template: "System text\n\nUser: Hi\n\nAssistant:". */
export function plainConversation(messages: readonly ChatMessage[]): string {
  const turns = messages.map(({ role, content }) =>
    role === "system" ? content : role === "user" ? `User: ${content}` : `Assistant: ${content}`,
  )
  return `${turns.join("\n\n")}\n\nAssistant:`
}
