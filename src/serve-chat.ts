/** POST /v1/chat/completions: answers conversations, with tools and formats. */
import { type ChoicePiece, type Choices, startChoices } from "./serve-choices.ts"
import type { Call } from "./serve-context.ts"
import { badField } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import { type ChatLogprob, chatLogprob } from "./serve-logprobs.ts"
import type { Model } from "./serve-models.ts"
import { constraintOf, newId, samplingOf, unixTime, usageJson } from "./serve-request.ts"
import { type Parsed, parseRows } from "./serve-shape.ts"
import { chunkWriter, DONE, dataEvent, eventStream } from "./serve-stream.ts"
import { conversationIds } from "./serve-text.ts"
import { type ToolDelta, ToolReader, type ToolRules, toolRules } from "./serve-tools.ts"

const ROWS = FIELDS["POST /v1/chat/completions"]
type Fields = Parsed<typeof ROWS>

function check(fields: Fields): { maxTokens: number | undefined } {
  const { max_tokens, max_completion_tokens, logprobs, top_logprobs, stream, stream_options } = fields
  if (max_tokens !== undefined && max_completion_tokens !== undefined && max_tokens !== max_completion_tokens) {
    throw badField("max_tokens", `differs from max_completion_tokens = ${max_completion_tokens}`)
  }
  if (top_logprobs !== undefined && !logprobs) throw badField("top_logprobs", "needs logprobs: true")
  if (stream_options !== undefined && !stream) throw badField("stream_options", "needs stream: true")
  return { maxTokens: max_completion_tokens ?? max_tokens }
}

export async function chatCompletions(call: Call): Promise<Response> {
  const fields = parseRows(ROWS, await call.json())
  const { maxTokens } = check(fields)
  const { tool_choice } = fields
  const rules = toolRules(
    fields.tools?.map((tool) => tool.function),
    typeof tool_choice === "object" ? tool_choice.function : tool_choice,
  )
  const asked = constraintOf(fields)
  if (asked.constraint !== undefined && rules.mayCall) throw badField(asked.param, "excludes tools: an answer follows one of them")
  const lease = await call.context.models.lease(fields.model)
  const { model } = lease
  let choices: Choices
  try {
    const { ids, stop, stopIds } = await conversationIds(model, fields.messages, rules.shown, "messages")
    choices = await startChoices(call.context, call, {
      lease,
      prompts: [ids],
      n: fields.n,
      maxTokens,
      params: {
        prompt: "messages",
        maxTokens: fields.max_completion_tokens === undefined ? "max_tokens" : "max_completion_tokens",
        constraint: rules.mayCall ? "tools" : asked.param,
      },
      sampling: samplingOf(fields, model),
      stop: [...fields.stop, ...stop],
      stopIds,
      topLogprobs: fields.top_logprobs ?? 0,
      promptLogprobs: false,
      ignoreEnd: fields.ignore_eos,
      constraint: rules.constraint ?? asked.constraint,
      user: fields.safety_identifier ?? fields.user,
    })
  } catch (error) {
    lease.release()
    throw error
  }
  const head = { id: newId("chatcmpl-"), created: unixTime(), model: fields.model ?? model.name, system_fingerprint: choices.fingerprint }
  const read = readers(model, fields, rules)
  if (fields.stream) {
    return eventStream(streamed(choices, read, fields, { ...head, object: "chat.completion.chunk" }), {
      onGone: choices.cancel,
      done: DONE,
    })
  }
  return Response.json({ ...head, object: "chat.completion", ...(await whole(choices, read)) })
}

interface Addition {
  readonly deltas: readonly ToolDelta[]
  readonly logprobs: readonly ChatLogprob[]
  readonly finish: "stop" | "length" | "tool_calls" | null
}

/** Turns pieces of every choice into additions. */
function readers(model: Model, fields: Fields, rules: ToolRules) {
  const tools = new Map<number, ToolReader>()
  const readerOf = (index: number): ToolReader => {
    const reader = tools.get(index) ?? new ToolReader(rules)
    tools.set(index, reader)
    return reader
  }
  const read = (piece: ChoicePiece): Addition | undefined => {
    const reader = readerOf(piece.index)
    if (piece.type === "text") {
      const logprobs = fields.logprobs ? piece.tokens.map((token) => chatLogprob(model, token, fields.top_logprobs ?? 0)) : []
      return { deltas: reader.push(piece.text), logprobs, finish: null }
    }
    if (piece.type !== "end") return undefined
    const deltas = reader.finish(piece.finish === "stop")
    return { deltas, logprobs: [], finish: reader.call !== undefined && piece.finish === "stop" ? "tool_calls" : piece.finish }
  }
  return { read, readerOf, wantsLogprobs: fields.logprobs }
}
type Readers = ReturnType<typeof readers>

async function whole(choices: Choices, { read, readerOf, wantsLogprobs }: Readers) {
  const found = new Map<number, { text: string; logprobs: ChatLogprob[]; finish: string | null }>()
  for await (const piece of choices) {
    const addition = read(piece)
    if (addition === undefined) continue
    const state = found.get(piece.index) ?? { text: "", logprobs: [], finish: null }
    found.set(piece.index, state)
    for (const delta of addition.deltas) if (delta.type === "content") state.text += delta.text
    state.logprobs.push(...addition.logprobs)
    state.finish = addition.finish
  }
  return {
    choices: [...found]
      .sort(([a], [b]) => a - b)
      .map(([index, { text, logprobs, finish }]) => {
        const { call } = readerOf(index)
        const said = call === undefined ? { content: text } : { content: text === "" ? null : text, tool_calls: [call] }
        return {
          index,
          message: { role: "assistant", refusal: null, ...said },
          logprobs: wantsLogprobs ? { content: logprobs, refusal: null } : null,
          finish_reason: finish,
        }
      }),
    usage: usageJson(choices.usage()),
  }
}

/** A delta as chunks write it. */
function chunkDelta(delta: ToolDelta): object {
  switch (delta.type) {
    case "content":
      return { content: delta.text }
    case "call":
      return { tool_calls: [{ index: 0, id: delta.id, type: "function", function: { name: delta.name, arguments: "" } }] }
    case "arguments":
      return { tool_calls: [{ index: 0, function: { arguments: delta.text } }] }
  }
}

async function* streamed(
  choices: Choices,
  { read, wantsLogprobs }: Readers,
  { stream_options }: Fields,
  head: object,
): AsyncGenerator<string> {
  const usage = stream_options?.include_usage === true ? { usage: null } : {}
  const begun = new Set<number>()
  const write = chunkWriter(head, usage)
  const chunk = (index: number, delta: object, finish_reason: string | null, logprobs: readonly ChatLogprob[] = []) =>
    write({ index, delta, logprobs: wantsLogprobs && logprobs.length > 0 ? { content: logprobs, refusal: null } : null, finish_reason })
  const eventsOf = (piece: ChoicePiece): string => {
    let events = ""
    if (!begun.has(piece.index)) {
      begun.add(piece.index)
      events += chunk(piece.index, { role: "assistant", content: "" }, null)
    }
    const addition = read(piece)
    if (addition === undefined) return events
    const { deltas, logprobs, finish } = addition
    // Log-probabilities go with the first delta of their piece, or alone while its text is held back.
    const parts = deltas.length === 0 && logprobs.length > 0 ? [{}] : deltas.map(chunkDelta)
    for (const [i, delta] of parts.entries()) events += chunk(piece.index, delta, null, i === 0 ? logprobs : [])
    if (finish !== null) events += chunk(piece.index, {}, finish)
    return events
  }
  for await (const pieces of choices.batches()) {
    const events = pieces.map(eventsOf).join("")
    if (events !== "") yield events
  }
  if (stream_options?.include_usage === true) yield dataEvent({ ...head, choices: [], usage: usageJson(choices.usage()) })
}
