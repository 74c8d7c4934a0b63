/** Log-probabilities of tokens in the two forms of OpenAI's API. */
import type { Alternatives } from "./engine.ts"
import type { Token } from "./serve-answer.ts"
import type { TextModel } from "./serve-text.ts"
import type { Tokenizer } from "./token.ts"

/** The lowest number that is sent; JSON has no infinity. */
const FLOOR = -9999

const floored = (logprob: number): number => Math.max(FLOOR, logprob)

const named = new WeakMap<Tokenizer, Map<number, string>>()
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** A token as text: its characters, "bytes:\xe2\x96" where they are not whole, "token_id:7" without a tokenizer. */
export function tokenText({ tokenizer }: Pick<TextModel, "tokenizer">, id: number): string {
  if (tokenizer === undefined || id >= tokenizer.vocabSize) return `token_id:${id}`
  let names = named.get(tokenizer)
  if (names === undefined) {
    names = new Map([...tokenizer.special].map(([text, special]) => [special, text]))
    named.set(tokenizer, names)
  }
  let text = names.get(id)
  if (text === undefined) {
    const bytes = tokenizer.tokenBytes(id)
    try {
      text = strict.decode(bytes)
    } catch {
      text = `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`
    }
    names.set(id, text)
  }
  return text
}

/** The alternatives with the token itself, which is always among them; most likely first. */
function withChosen(id: number, logprob: number, top: Alternatives | undefined): { id: number; logprob: number }[] {
  const all = Array.from(top?.ids ?? [], (one, i) => ({ id: one, logprob: top!.logprobs[i]! }))
  return all.some((one) => one.id === id) ? all : [...all, { id, logprob }]
}

/** The form of /v1/completions: four lists of one length. */
export interface CompletionLogprobs {
  tokens: string[]
  token_logprobs: (number | null)[]
  top_logprobs: (Record<string, number> | null)[]
  text_offset: number[]
}

export const noLogprobs = (): CompletionLogprobs => ({ tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] })

/** Adds one token; `offset`: code points of the answer's text before it. `logprob` undefined: the first token of a prompt. */
export function addLogprob(
  to: CompletionLogprobs,
  model: TextModel,
  { id, logprob, top, offset }: { id: number; logprob: number | undefined; top: Alternatives | undefined; offset: number },
): void {
  to.tokens.push(tokenText(model, id))
  to.text_offset.push(offset)
  to.token_logprobs.push(logprob === undefined ? null : floored(logprob))
  if (logprob === undefined) return void to.top_logprobs.push(null)
  const row: Record<string, number> = {}
  for (const one of withChosen(id, logprob, top)) {
    const text = tokenText(model, one.id)
    row[Object.hasOwn(row, text) ? `token_id:${one.id}` : text] = floored(one.logprob)
  }
  to.top_logprobs.push(row)
}

/** Counts code points over text that arrives in pieces; tokens know UTF-16 units. */
export class Offsets {
  #units = 0
  #points = 0

  /** Offsets of places (in units from the beginning, rising) that lie in the next piece, which begins where the last ended. */
  next(text: string, starts: readonly number[]): number[] {
    let at = 0
    let points = this.#points
    const offsets = starts.map((start) => {
      const to = Math.max(at, Math.min(text.length, start - this.#units))
      points += [...text.slice(at, to)].length
      at = to
      return points
    })
    this.#points = points + [...text.slice(at)].length
    this.#units += text.length
    return offsets
  }
}

interface ChatEntry {
  readonly token: string
  readonly logprob: number
  readonly bytes: number[] | null
}
export type ChatLogprob = ChatEntry & { readonly top_logprobs: ChatEntry[] }

/** The form of chat and responses. `count`: alternatives asked for; the token itself is always listed where any are. */
export function chatLogprob(model: TextModel, { id, logprob, top }: Token, count: number): ChatLogprob {
  const entry = (one: { id: number; logprob: number }): ChatEntry => ({
    token: tokenText(model, one.id),
    logprob: floored(one.logprob),
    bytes: bytesOf(model, one.id),
  })
  return { ...entry({ id, logprob }), top_logprobs: count === 0 ? [] : withChosen(id, logprob, top).map(entry) }
}

function bytesOf({ tokenizer }: TextModel, id: number): number[] | null {
  if (tokenizer === undefined || id >= tokenizer.vocabSize) return null
  const bytes = tokenizer.tokenBytes(id)
  return bytes.length > 0 ? [...bytes] : [...new TextEncoder().encode(tokenText({ tokenizer }, id))]
}
