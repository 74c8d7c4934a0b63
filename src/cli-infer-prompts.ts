/** Where the prompts of `alpha infer` come from: the flag, a file, standard input. */
import { AlphaError, EXIT } from "./base-error.ts"
import { firstInvalidUtf8, readText } from "./base-file.ts"
import type { InferConfig } from "./config.ts"
import { parseRow } from "./data.ts"
import type { Jobs } from "./engine.ts"

export type Prompt = Jobs["generate"]["input"]["prompts"][number]

/** Prompts in their order, at least one. `stdin` is asked only where neither flag nor file gives a prompt. */
export async function readPrompts({ prompt, promptFile }: Pick<InferConfig, "prompt" | "promptFile">, stdin: Input): Promise<Prompt[]> {
  if (promptFile !== undefined) return parsePrompts(readText(promptFile), promptFile)
  if (prompt !== undefined && prompt !== "-") return [parsePrompt(prompt)]
  if (prompt === undefined && stdin.isTTY) {
    throw new AlphaError("infer: no prompt is given", { hint: "add --prompt=TEXT, --promptFile=FILE or --chat", code: EXIT.usage })
  }
  const bytes = await stdin.read()
  const bad = firstInvalidUtf8(bytes)
  if (bad < bytes.length) {
    throw new AlphaError(`infer: standard input is not UTF-8 text (first bad byte at offset ${bad} of ${bytes.length})`, {
      code: EXIT.data,
    })
  }
  // The line end that echo and editors put last is not meant.
  return [{ text: new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes).replace(/\r?\n$/, "") }]
}

export interface Input {
  readonly isTTY: boolean
  read(): Promise<Uint8Array>
}

/** `ids:1,2,3` are token ids, anything else is text. */
export function parsePrompt(text: string): Prompt {
  return /^ids:\s*\d+(\s*,\s*\d+)*\s*$/.test(text) ? { ids: text.slice(4).split(",").map(Number) } : { text }
}

/** One prompt per line that is not empty; of a .jsonl file one object with prompt, messages or ids per line. */
export function parsePrompts(content: string, path: string): Prompt[] {
  const isJson = /\.(jsonl|ndjson)$/i.test(path)
  const prompts = content
    .split(/\r?\n/)
    .flatMap((line, i) => (line.trim() === "" ? [] : [isJson ? parseObject(line, `${path}:${i + 1}`) : parsePrompt(line)]))
  if (prompts.length > 0) return prompts
  throw new AlphaError(`prompts ${path}: the file has no prompt`, { hint: "write one per line", code: EXIT.data })
}

function parseObject(line: string, where: string): Prompt {
  const fail = (message: string, hint?: string) => new AlphaError(`prompts ${where}: ${message}`, { hint, code: EXIT.data })
  let row: { prompt?: unknown; ids?: unknown; messages?: unknown } | null
  try {
    row = JSON.parse(line)
  } catch (cause) {
    throw fail(`not valid JSON (${(cause as Error).message})`)
  }
  const given = (["prompt", "messages", "ids"] as const).filter((name) => row?.[name] !== undefined)
  if (row === null || given.length !== 1) {
    throw fail(
      `expected one of the fields prompt, messages and ids, found ${given.join(" and ") || "none"}`,
      '{"prompt": "Once upon a time"}',
    )
  }
  if (typeof row.prompt === "string" && row.prompt.isWellFormed()) return { text: row.prompt }
  if (Array.isArray(row.ids) && row.ids.every(Number.isSafeInteger)) return { ids: row.ids }
  if (row.messages === undefined) throw fail(row.ids === undefined ? "prompt is not a text" : "ids is not a list of whole numbers")
  try {
    return parseRow(JSON.stringify({ messages: row.messages })) as Prompt
  } catch (error) {
    throw error instanceof AlphaError ? fail(error.message, error.hint) : error
  }
}
