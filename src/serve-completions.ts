/** POST /v1/completions: continues prompts; with echo and logprobs it scores them. */
import { type ChoicePiece, type Choices, startChoices } from "./serve-choices.ts"
import type { Call } from "./serve-context.ts"
import { badField } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import type { Input } from "./serve-fields-openai.ts"
import { addLogprob, type CompletionLogprobs, noLogprobs, Offsets, tokenText } from "./serve-logprobs.ts"
import type { Model } from "./serve-models.ts"
import { constraintOf, newId, samplingOf, unixTime, usageJson } from "./serve-request.ts"
import { type Parsed, parseRows } from "./serve-shape.ts"
import { chunkWriter, DONE, dataEvent, eventStream } from "./serve-stream.ts"
import { gapIds, promptIds } from "./serve-text.ts"

const ROWS = FIELDS["POST /v1/completions"]
type Fields = Parsed<typeof ROWS>

function check(fields: Fields): void {
  const { n, best_of = n, stream, stream_options, suffix, echo, prompt } = fields
  if (suffix !== undefined && echo) throw badField("suffix", "excludes echo: the prompt is not in one piece")
  if (suffix !== undefined && (prompt.length !== 1 || typeof prompt[0] !== "string")) throw badField("suffix", "takes one text as prompt")
  if (best_of < n) throw badField("best_of", `must be at least n = ${n}`)
  if (best_of > n && stream) throw badField("best_of", "the best are known at the end only: it excludes stream")
  if (stream_options !== undefined && !stream) throw badField("stream_options", "needs stream: true")
}

export async function completions(call: Call): Promise<Response> {
  const fields = parseRows(ROWS, await call.json())
  check(fields)
  const lease = await call.context.models.lease(fields.model)
  const { model } = lease
  let choices: Choices
  const inputs: Input[] = fields.prompt
  let prompts: Int32Array[]
  try {
    prompts =
      fields.suffix === undefined
        ? await Promise.all(inputs.map((input, i) => promptIds(model, input, inputs.length > 1 ? `prompt[${i}]` : "prompt")))
        : [await gapIds(model, inputs[0] as string, fields.suffix)]
    const { constraint, param } = constraintOf(fields)
    if (constraint !== undefined && model.tokenizer === undefined) throw badField(param, `model ${model.name} has no tokenizer`)
    if (fields.stop.length > 0 && model.tokenizer === undefined) throw badField("stop", `model ${model.name} has no tokenizer`)
    choices = await startChoices(call.context, call, {
      lease,
      prompts,
      n: fields.best_of ?? fields.n,
      maxTokens: fields.max_tokens,
      params: { prompt: "prompt", maxTokens: "max_tokens", constraint: param },
      sampling: samplingOf(fields, model),
      stop: fields.stop,
      stopIds: [],
      topLogprobs: fields.logprobs ?? 0,
      promptLogprobs: fields.echo && fields.logprobs !== undefined,
      ignoreEnd: fields.ignore_eos,
      constraint,
      user: fields.user,
    })
  } catch (error) {
    lease.release()
    throw error
  }
  const head = {
    id: newId("cmpl-"),
    object: "text_completion" as const,
    created: unixTime(),
    model: fields.model ?? model.name,
    system_fingerprint: choices.fingerprint,
  }
  const write = writers(model, fields, inputs, prompts)
  if (!fields.stream) return Response.json({ ...head, ...(await whole(choices, write, fields)) })
  return eventStream(streamed(choices, write, fields, head), { onGone: choices.cancel, done: DONE })
}

/** What one piece adds to a choice. */
interface Addition {
  readonly text: string
  readonly logprobs: CompletionLogprobs | null
  readonly finish_reason: "stop" | "length" | null
  /** Sum of the answer's own log-probabilities, for best_of. */
  readonly sum: number
}

/** Turns pieces of every choice into additions: the echoed prompt first. */
function writers(model: Model, fields: Fields, inputs: readonly Input[], prompts: readonly Int32Array[]) {
  const perPrompt = fields.best_of ?? fields.n
  const states = new Map<number, { offsets: Offsets; echoed: boolean; scored: CompletionLogprobs; shift: number }>()
  const wantsLogprobs = fields.logprobs !== undefined

  return (piece: ChoicePiece): Addition | undefined => {
    const p = Math.floor(piece.index / perPrompt)
    let state = states.get(piece.index)
    if (state === undefined) {
      state = { offsets: new Offsets(), echoed: !fields.echo, scored: noLogprobs(), shift: 0 }
      states.set(piece.index, state)
    }
    const ids = prompts[p]!
    const echo = (): { text: string; logprobs: CompletionLogprobs } => {
      if (state.echoed) return { text: "", logprobs: noLogprobs() }
      state.echoed = true
      const text = echoText(model, inputs[p]!, ids)
      state.shift = text.length
      const logprobs = wantsLogprobs ? state.scored : noLogprobs()
      if (wantsLogprobs && ids.length === 1) addLogprob(logprobs, model, { id: ids[0]!, logprob: undefined, top: undefined, offset: 0 })
      logprobs.text_offset = state.offsets.next(text, echoStarts(model, inputs[p]!, ids, logprobs.tokens.length))
      return { text, logprobs }
    }
    switch (piece.type) {
      case "prompt": {
        const { scored } = state
        if (piece.from === 1) addLogprob(scored, model, { id: ids[0]!, logprob: undefined, top: undefined, offset: 0 })
        piece.logprobs.forEach((logprob, i) => {
          addLogprob(scored, model, { id: ids[piece.from + i]!, logprob, top: piece.top?.[i], offset: 0 })
        })
        return undefined
      }
      case "text": {
        const sum = piece.tokens.reduce((total, token) => total + token.logprob, 0)
        if (!wantsLogprobs && state.echoed) return { text: piece.text, logprobs: null, finish_reason: null, sum }
        const { text, logprobs } = echo()
        const starts = piece.tokens.map(({ start }) => start + state.shift)
        const offsets = state.offsets.next(piece.text, starts)
        if (wantsLogprobs) piece.tokens.forEach((token, i) => addLogprob(logprobs, model, { ...token, offset: offsets[i]! }))
        return { text: text + piece.text, logprobs: wantsLogprobs ? logprobs : null, finish_reason: null, sum }
      }
      case "end": {
        const { text, logprobs } = echo()
        return { text, logprobs: wantsLogprobs ? logprobs : null, finish_reason: piece.finish, sum: 0 }
      }
      default:
        return undefined
    }
  }
}

/** The prompt as it was given, or its ids as text. */
function echoText(model: Model, input: Input, ids: Int32Array): string {
  if (typeof input === "string") return input
  return model.tokenizer === undefined ? "" : model.tokenizer.decode(ids)
}

/** Where the prompt's tokens begin in its text, in UTF-16 units. */
function echoStarts(model: Model, input: Input, ids: Int32Array, count: number): number[] {
  // Tokens that the tokenizer puts before a text are not in it.
  const before = typeof input === "string" ? model.around.before.length : 0
  let bytes = 0
  const encoder = new TextEncoder()
  const ends = Array.from(ids.subarray(0, count), (id, i) => {
    const start = bytes
    if (model.tokenizer !== undefined && i >= before) {
      const own = model.tokenizer.tokenBytes(id)
      bytes += own.length > 0 ? own.length : encoder.encode(tokenText(model, id)).length
    }
    return start
  })
  return unitsOfBytes(echoText(model, input, ids), ends)
}

/** UTF-16 units before each byte position of a text's UTF-8. */
function unitsOfBytes(text: string, positions: readonly number[]): number[] {
  let bytes = 0
  let units = 0
  return positions.map((position) => {
    while (bytes < position && units < text.length) {
      const code = text.codePointAt(units)!
      bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4
      units += code < 0x10000 ? 1 : 2
    }
    return units
  })
}

function append(to: CompletionLogprobs | null, more: CompletionLogprobs | null): CompletionLogprobs | null {
  if (to === null || more === null) return to ?? more
  for (const key of ["tokens", "token_logprobs", "top_logprobs", "text_offset"] as const) (to[key] as unknown[]).push(...more[key])
  return to
}

async function whole(choices: Choices, write: ReturnType<typeof writers>, { n, best_of = n }: Fields) {
  const found = new Map<
    number,
    { text: string; logprobs: CompletionLogprobs | null; finish_reason: string | null; sum: number; tokens: number }
  >()
  for await (const piece of choices) {
    const state = found.get(piece.index) ?? { text: "", logprobs: null, finish_reason: null, sum: 0, tokens: 0 }
    found.set(piece.index, state)
    const addition = write(piece)
    if (piece.type === "text") state.tokens += piece.tokens.length
    if (addition === undefined) continue
    state.text += addition.text
    state.logprobs = append(state.logprobs, addition.logprobs)
    state.finish_reason = addition.finish_reason
    state.sum += addition.sum
  }
  const all = [...found].sort(([a], [b]) => a - b)
  const kept = Array.from({ length: all.length / best_of }, (_, p) => {
    const group = all.slice(p * best_of, (p + 1) * best_of).map(([, choice]) => choice)
    const mean = ({ sum, tokens }: { sum: number; tokens: number }) => (tokens === 0 ? 0 : sum / tokens)
    // Equal ones stay in their order, so that the answer is always the same.
    return best_of === n ? group : group.sort((a, b) => mean(b) - mean(a)).slice(0, n)
  }).flat()
  return {
    choices: kept.map(({ text, logprobs, finish_reason }, index) => ({ index, text, logprobs, finish_reason })),
    usage: usageJson(choices.usage()),
  }
}

async function* streamed(
  choices: Choices,
  write: ReturnType<typeof writers>,
  { stream_options }: Fields,
  head: object,
): AsyncGenerator<string> {
  const usage = stream_options?.include_usage === true ? { usage: null } : {}
  const chunk = chunkWriter(head, usage)
  for await (const pieces of choices.batches()) {
    let events = ""
    for (const piece of pieces) {
      const addition = write(piece)
      if (addition === undefined) continue
      const { text, logprobs, finish_reason } = addition
      events += chunk({ index: piece.index, text, logprobs, finish_reason })
    }
    if (events !== "") yield events
  }
  if (stream_options?.include_usage === true) yield dataEvent({ ...head, choices: [], usage: usageJson(choices.usage()) })
}
