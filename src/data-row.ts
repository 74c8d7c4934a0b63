/** One jsonl row → a text or a conversation. */

import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { type ChatMessage, chatRoles } from "./data-chat.ts"

/** What a row holds: plain text, or messages. */
export type Row = { text: string } | { messages: ChatMessage[] }

/**
 * Parses {"text": …}, {"messages": [{"role", "content"}, …]} or {"instruction", "input", "output"} (user: instruction, a blank line,
 * input; assistant: output). Throws AlphaError saying what was expected; the caller adds file and line.
 */
export function parseRow(line: string): Row {
  let row: unknown
  try {
    row = JSON.parse(line)
  } catch (cause) {
    throw bad(`not valid JSON (${(cause as Error).message})`)
  }
  if (!isRecord(row)) throw bad("expected a JSON object")
  if ("messages" in row) return { messages: parseMessages(row.messages) }
  if ("text" in row) return { text: text(row.text, "text") }
  if ("instruction" in row) {
    const input = row.input === undefined ? "" : text(row.input, "input")
    const question = text(row.instruction, "instruction") + (input === "" ? "" : `\n\n${input}`)
    return {
      messages: [
        { role: "user", content: question },
        { role: "assistant", content: text(row.output, "output") },
      ],
    }
  }
  throw bad(`expected a field text, messages or instruction, found ${Object.keys(row).join(", ") || "none"}`)
}

function parseMessages(value: unknown): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0) throw bad("messages: expected a list of at least one message")
  return value.map((message: unknown, index) => {
    const where = `messages[${index}]`
    if (!isRecord(message)) throw bad(`${where}: expected an object with role and content`)
    const role = chatRoles.find((known) => known === message.role)
    if (role === undefined) {
      const near = typeof message.role === "string" ? nearest(message.role, chatRoles) : undefined
      throw bad(`${where}: role ${JSON.stringify(message.role)}, expected ${chatRoles.join(", ")}`, near && `did you mean ${near}?`)
    }
    return { role, content: text(message.content, `${where}.content`) }
  })
}

/** A string that can be written as UTF-8. */
function text(value: unknown, field: string): string {
  if (typeof value !== "string") throw bad(`${field}: expected a string, found ${value === null ? "null" : typeof value}`)
  if (!value.isWellFormed()) throw bad(`${field}: holds half of a surrogate pair, which is no character`)
  return value
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}

function bad(message: string, hint?: string): AlphaError {
  return new AlphaError(message, { hint, code: EXIT.data })
}
