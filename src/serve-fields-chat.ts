/** The messages of a conversation as requests write them. */
import { badField } from "./serve-error.ts"
import { either, field, flag, isString, list, mapped, neutral, object, refused, string, word } from "./serve-shape.ts"

/** One call of a tool that the assistant asked for. */
export interface ToolCall {
  readonly id: string
  readonly type: "function"
  readonly function: { readonly name: string; readonly arguments: string }
}

/** One turn, its content parts joined. */
export interface Message {
  readonly role: "system" | "developer" | "user" | "assistant" | "tool"
  readonly content: string
  readonly name?: string
  readonly tool_calls?: readonly ToolCall[]
  readonly tool_call_id?: string
}

const TEXT_PART = object({
  type: field(word("text"), "models here read text only", { required: true }),
  text: field(string(), "the text", { required: true }),
  prompt_cache_breakpoint: refused("the cache finds shared beginnings by itself"),
})

const CONTENT = mapped(either(string(), isString, list(TEXT_PART, { min: 1 })), (value) =>
  typeof value === "string" ? value : value.map(({ text }) => text).join(""),
)

const CALL = object({
  id: field(string({ min: 1, max: 200 }), "its id", { required: true }),
  type: field(word("function"), "only functions", { required: true }),
  function: field(
    object({
      name: field(string({ min: 1, max: 64 }), "the function", { required: true }),
      arguments: field(string(), "its arguments as JSON text", { required: true }),
    }),
    "what is called",
    { required: true },
  ),
})

/** Rows of one message. */
export const MESSAGE = {
  role: field(word("system", "developer", "user", "assistant", "tool"), "who speaks; developer = system", { required: true }),
  content: field(CONTENT, "text, or an array of text parts"),
  name: field(string({ min: 1, max: 64 }), "name of who speaks, where the model's template has a place for it"),
  tool_calls: field(list(CALL, { max: 128 }), "assistant: the calls it asked for"),
  tool_call_id: field(string({ min: 1, max: 200 }), "tool: the call that is answered"),
  refusal: neutral(word(""), "an assistant here never refuses"),
  audio: refused("models here read text only"),
  function_call: refused("use tool_calls"),
  annotations: neutral(list(flag, { max: 0 }), "assistant: there are none"),
}

/** A message; what its role requires must be there. */
const ONE_MESSAGE = mapped(object(MESSAGE), ({ role, content, name, tool_calls, tool_call_id }, path): Message => {
  const missing = (key: string) => badField(`${path}.${key}`, `is required for role ${role}`, "missing_required_parameter")
  const misplaced = (key: string, of: string) => badField(`${path}.${key}`, `belongs to role ${of}, not ${role}`)
  if (tool_calls !== undefined && role !== "assistant") throw misplaced("tool_calls", "assistant")
  if (tool_call_id !== undefined && role !== "tool") throw misplaced("tool_call_id", "tool")
  if (role === "tool" && tool_call_id === undefined) throw missing("tool_call_id")
  if (content === undefined && !(role === "assistant" && tool_calls !== undefined)) throw missing("content")
  return {
    role,
    content: content ?? "",
    ...(name === undefined ? {} : { name }),
    ...(tool_calls === undefined || tool_calls.length === 0 ? {} : { tool_calls }),
    ...(tool_call_id === undefined ? {} : { tool_call_id }),
  }
})

export const MESSAGES = list(ONE_MESSAGE, { min: 1 })
