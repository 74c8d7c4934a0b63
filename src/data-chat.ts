/** The chat template: messages → text or ids, with the loss on assistant messages. */

import type { Tokenizer } from "./token.ts"

/** One turn of a conversation. */
export interface ChatMessage {
  role: "system" | "user" | "assistant"
  content: string
}

/** Who may speak. */
export const chatRoles = ["system", "user", "assistant"] as const

/** Special tokens of the template; a tokenizer for chat should reserve them, otherwise they are ordinary text. */
export const chatSpecials = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"] as const

/** The same template for tokenizer_config.json (Jinja, as Hugging Face reads it). */
export const chatTemplate =
  "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"

/** Ids of a conversation; counts[i] = 1 where the loss is taken. */
export interface EncodedChat {
  ids: Int32Array
  counts: Uint8Array
}

/**
 * Ids of "<|user|>Hi<|end|><|assistant|>Hello<|end|>"; with `prompt` the text ends in an open "<|assistant|>".
 * The loss is on what an assistant writes: its content and its <|end|>. Contents never become special tokens, whatever they hold.
 */
export function encodeChat(tokenizer: Tokenizer, messages: readonly ChatMessage[], { prompt = false } = {}): EncodedChat {
  const parts: Part[] = []
  for (const { role, content } of messages) {
    const counts = role === "assistant"
    parts.push({ text: `<|${role}|>`, isMarker: true, counts: false })
    parts.push({ text: content, isMarker: false, counts })
    parts.push({ text: "<|end|>", isMarker: true, counts })
  }
  if (prompt) parts.push({ text: "<|assistant|>", isMarker: true, counts: false })
  return encodeParts(tokenizer, parts)
}

interface Part {
  text: string
  /** Written by the template: a special token where the tokenizer has it. */
  isMarker: boolean
  counts: boolean
}

/**
 * Encodes special tokens by their id and, for BPE, each run of plain text as one text: ids equal those of the whole rendered text.
 * The other tokenizers have no merges across parts, and their unknown token hides how many bytes it stands for.
 */
function encodeParts(tokenizer: Tokenizer, parts: readonly Part[]): EncodedChat {
  const ids: number[] = []
  const counts: number[] = []
  let run: Part[] = []
  const flush = () => {
    const text = run.map((part) => part.text).join("")
    // A token counts when the part that holds its first byte does.
    let partEnd = 0
    let part = -1
    let at = 0
    for (const id of tokenizer.encode(text)) {
      while (at >= partEnd && part < run.length - 1) partEnd += Buffer.byteLength(run[++part]!.text)
      ids.push(id)
      counts.push(run[part]!.counts ? 1 : 0)
      at += tokenizer.tokenBytes(id).length
    }
    run = []
  }
  for (const part of parts) {
    const special = part.isMarker ? tokenizer.special.get(part.text) : undefined
    if (special === undefined) {
      run.push(part)
      if (tokenizer.kind !== "bpe") flush()
      continue
    }
    flush()
    ids.push(special)
    counts.push(part.counts ? 1 : 0)
  }
  flush()
  return { ids: Int32Array.from(ids), counts: Uint8Array.from(counts) }
}
