/** Calls of tools: the constraint that keeps them valid, and the answer's text taken apart as it grows. */
import type { Constraint } from "./engine.ts"
import { badField } from "./serve-error.ts"
import type { ToolCall } from "./serve-fields-chat.ts"
import type { Tool } from "./serve-fields-sampling.ts"
import { newId } from "./serve-request.ts"

/** Which tools may, must or cannot be called. */
export interface ToolRules {
  /** What the model is told of. */
  readonly shown: readonly Tool[]
  readonly constraint: Constraint | undefined
  /** Whether an answer may be a call. */
  readonly mayCall: boolean
}

const OPEN = "<tool_call>"
const SUFFIX = "}\n</tool_call>"
const prefixOf = (name: string): string => `${OPEN}\n{"name": ${JSON.stringify(name)}, "arguments": `

type Choice = "none" | "auto" | "required" | { readonly name: string } | undefined

/** Reads tools and tool_choice. A call is always `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`, whole answer, arguments by their schema. */
export function toolRules(tools: readonly Tool[] | undefined, choice: Choice): ToolRules {
  const named = typeof choice === "object" ? choice.name : undefined
  if (tools === undefined || tools.length === 0) {
    if (choice === undefined || choice === "none") return { shown: [], constraint: undefined, mayCall: false }
    throw badField("tool_choice", "needs tools")
  }
  const twice = tools.find((tool, i) => tools.some((other, j) => j < i && other.name === tool.name))
  if (twice !== undefined) throw badField("tools", `two functions are called ${twice.name}`)
  if (choice === "none") return { shown: [], constraint: undefined, mayCall: false }
  const allowed = named === undefined ? tools : tools.filter((tool) => tool.name === named)
  if (allowed.length === 0) throw badField("tool_choice", `there is no function ${named} in tools`)
  const calls = oneOf(allowed.map(callConstraint))
  if (named !== undefined || choice === "required") return { shown: tools, constraint: calls, mayCall: true }
  return { shown: tools, constraint: { type: "choice", items: [{ type: "regex", pattern: notBeginning(OPEN) }, calls] }, mayCall: true }
}

const oneOf = (items: readonly Constraint[]): Constraint => (items.length === 1 ? items[0]! : { type: "choice", items })

const callConstraint = ({ name, parameters }: Tool): Constraint => ({
  type: "sequence",
  items: [
    { type: "literal", text: prefixOf(name) },
    parameters === undefined ? { type: "json_object" } : { type: "json_schema", schema: parameters },
    { type: "literal", text: SUFFIX },
  ],
})

/** Regular expression of all texts that do not begin with `start`; no look-ahead is needed. */
export function notBeginning(start: string): string {
  const plain = (text: string) => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")
  const inClass = (letter: string) => letter.replace(/[\\^\]-]/g, "\\$&")
  const parts = [...start].map((letter, i) => `${plain(start.slice(0, i))}[^${inClass(letter)}][\\s\\S]*`)
  const shorter = [...start].map((_, i) => plain(start.slice(0, i)))
  return `(${[...parts, ...shorter].join("|")})`
}

/** What a piece of text adds: words, or a part of a call. */
export type ToolDelta =
  | { readonly type: "content"; readonly text: string }
  | { readonly type: "call"; readonly id: string; readonly name: string }
  | { readonly type: "arguments"; readonly text: string }

/** Takes an answer apart: plain text, or one call whose arguments come as they are written. */
export class ToolReader {
  #state: "undecided" | "content" | "head" | "arguments" = "undecided"
  #held = ""
  readonly #mayCall: boolean
  call: ToolCall | undefined

  constructor({ mayCall }: ToolRules) {
    this.#mayCall = mayCall
  }

  push(text: string): ToolDelta[] {
    this.#held += text
    const deltas: ToolDelta[] = []
    if (this.#state === "undecided") {
      if (!this.#mayCall || !OPEN.startsWith(this.#held.slice(0, OPEN.length))) this.#state = "content"
      else if (this.#held.length >= OPEN.length) this.#state = "head"
    }
    if (this.#state === "head") {
      const head = /^<tool_call>\n\{"name": ("(?:[^"\\]|\\.)*"), "arguments": /.exec(this.#held)
      if (head === null) return deltas
      const name = JSON.parse(head[1]!) as string
      this.call = { id: newId("call_"), type: "function", function: { name, arguments: "" } }
      this.#held = this.#held.slice(head[0].length)
      this.#state = "arguments"
      deltas.push({ type: "call", id: this.call.id, name })
    }
    if (this.#state === "content") return [...deltas, ...this.#give("content", this.#held.length)]
    // The end of the call is no part of its arguments; as much is held back.
    if (this.#state === "arguments") return [...deltas, ...this.#give("arguments", this.#held.length - SUFFIX.length)]
    return deltas
  }

  /** The rest. `whole`: the answer is complete, so that a call has its end. */
  finish(whole: boolean): ToolDelta[] {
    if (this.#state === "arguments") {
      if (whole && this.#held.endsWith(SUFFIX)) this.#held = this.#held.slice(0, -SUFFIX.length)
      return this.#give("arguments", this.#held.length)
    }
    return this.#give("content", this.#held.length)
  }

  #give(type: "content" | "arguments", length: number): ToolDelta[] {
    if (length <= 0) return []
    const text = this.#held.slice(0, length)
    this.#held = this.#held.slice(length)
    if (type === "arguments" && this.call !== undefined) {
      const { name, arguments: before } = this.call.function
      this.call = { ...this.call, function: { name, arguments: before + text } }
    }
    return [{ type, text }]
  }
}
