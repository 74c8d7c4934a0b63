/** POST /v1/responses: stateless answers in the form of OpenAI's newer API. */
import { type Choices, startChoices } from "./serve-choices.ts"
import type { Call } from "./serve-context.ts"
import { badField } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import type { Message } from "./serve-fields-chat.ts"
import { type ChatLogprob, chatLogprob } from "./serve-logprobs.ts"
import type { Model } from "./serve-models.ts"
import { type constraintOf, newId, samplingOf, unixTime } from "./serve-request.ts"
import { type Parsed, parseRows } from "./serve-shape.ts"
import { DONE, eventStream, namedEvent } from "./serve-stream.ts"
import { conversationIds } from "./serve-text.ts"
import { ToolReader, type ToolRules, toolRules } from "./serve-tools.ts"

const ROWS = FIELDS["POST /v1/responses"]
type Fields = Parsed<typeof ROWS>

function formatOf({ text }: Fields): ReturnType<typeof constraintOf> {
  const format = text?.format
  if (format?.type === "json_schema") return { constraint: { type: "json_schema", schema: format.schema }, param: "text.format.schema" }
  if (format?.type === "json_object") return { constraint: { type: "json_object" }, param: "text.format" }
  return { constraint: undefined, param: "text.format" }
}

export async function responses(call: Call): Promise<Response> {
  const fields = parseRows(ROWS, await call.json())
  const wantsLogprobs = fields.include !== undefined && fields.include.length > 0
  if (fields.top_logprobs !== undefined && fields.top_logprobs > 0 && !wantsLogprobs) {
    throw badField("top_logprobs", 'needs include: ["message.output_text.logprobs"]')
  }
  if (fields.stream_options !== undefined && !fields.stream) throw badField("stream_options", "needs stream: true")
  const rules = toolRules(fields.tools, fields.tool_choice)
  const asked = formatOf(fields)
  if (asked.constraint !== undefined && rules.mayCall) throw badField("text.format", "excludes tools: an answer follows one of them")
  const lease = await call.context.models.lease(fields.model)
  const { model } = lease
  let choices: Choices
  try {
    const turns: Message[] = [
      ...(fields.instructions === undefined ? [] : [{ role: "system" as const, content: fields.instructions }]),
      ...(typeof fields.input === "string" ? [{ role: "user" as const, content: fields.input }] : fields.input),
    ]
    const { ids, stop, stopIds } = await conversationIds(model, turns, rules.shown, "input")
    choices = await startChoices(call.context, call, {
      lease,
      prompts: [ids],
      n: 1,
      maxTokens: fields.max_output_tokens,
      params: { prompt: "input", maxTokens: "max_output_tokens", constraint: rules.mayCall ? "tools" : asked.param },
      sampling: samplingOf(fields, model),
      stop,
      stopIds,
      topLogprobs: fields.top_logprobs ?? 0,
      promptLogprobs: false,
      ignoreEnd: false,
      constraint: rules.constraint ?? asked.constraint,
      user: fields.safety_identifier ?? fields.user,
    })
  } catch (error) {
    lease.release()
    throw error
  }
  const writer = new ResponseWriter(model, fields, rules, choices)
  if (!fields.stream) {
    for await (const _event of writer.events()) {
      // The writer keeps what the last event tells.
    }
    return Response.json(writer.response())
  }
  return eventStream(writer.events(), {
    onGone: choices.cancel,
    done: DONE,
    onError: ({ body: { error } }) =>
      writer.event("response.failed", { response: writer.failed(error.code ?? "server_error", error.message) }) +
      writer.event("error", { code: error.code, message: error.message, param: error.param }),
  })
}

type Item =
  | {
      id: string
      type: "message"
      role: "assistant"
      status: string
      content: { type: "output_text"; text: string; annotations: []; logprobs: ChatLogprob[] }[]
    }
  | { id: string; type: "function_call"; status: string; call_id: string; name: string; arguments: string }

/** Builds the response object and the events on the way to it. */
class ResponseWriter {
  readonly #id = newId("resp_")
  readonly #created = unixTime()
  readonly #items: Item[] = []
  #sequence = 0
  #status: "in_progress" | "completed" | "incomplete" | "failed" = "in_progress"
  #error: { code: string; message: string } | null = null
  #usage: object | null = null

  constructor(
    readonly model: Model,
    readonly fields: Fields,
    readonly rules: ToolRules,
    readonly choices: Choices,
  ) {}

  event(type: string, rest: object): string {
    return namedEvent(type, { type, sequence_number: this.#sequence++, ...rest })
  }

  response(): object {
    const { fields } = this
    return {
      id: this.#id,
      object: "response",
      created_at: this.#created,
      completed_at: this.#status === "completed" ? unixTime() : null,
      status: this.#status,
      background: false,
      error: this.#error,
      incomplete_details: this.#status === "incomplete" ? { reason: "max_output_tokens" } : null,
      instructions: fields.instructions ?? null,
      max_output_tokens: fields.max_output_tokens ?? null,
      max_tool_calls: fields.max_tool_calls ?? null,
      model: fields.model ?? this.model.name,
      output: this.#items,
      parallel_tool_calls: fields.parallel_tool_calls ?? true,
      previous_response_id: null,
      prompt_cache_key: fields.prompt_cache_key ?? null,
      reasoning: { effort: null, summary: null },
      safety_identifier: fields.safety_identifier ?? null,
      service_tier: "default",
      store: false,
      temperature: fields.temperature,
      text: { format: fields.text?.format ?? { type: "text" }, verbosity: "medium" },
      tool_choice: fields.tool_choice ?? "auto",
      tools: (fields.tools ?? []).map((tool) => ({ strict: true, parameters: null, description: null, ...defined(tool) })),
      top_logprobs: fields.top_logprobs ?? 0,
      top_p: fields.top_p,
      presence_penalty: fields.presence_penalty,
      frequency_penalty: fields.frequency_penalty,
      truncation: "disabled",
      usage: this.#usage,
      user: fields.user ?? null,
      metadata: fields.metadata,
      system_fingerprint: this.choices.fingerprint,
    }
  }

  failed(code: string, message: string): object {
    this.#status = "failed"
    this.#error = { code, message }
    return this.response()
  }

  async *events(): AsyncGenerator<string> {
    yield this.event("response.created", { response: this.response() })
    yield this.event("response.in_progress", { response: this.response() })
    const reader = new ToolReader(this.rules)
    const logprobs = (this.fields.include?.length ?? 0) > 0
    for await (const piece of this.choices) {
      if (piece.type === "text") {
        const scored = logprobs ? piece.tokens.map((token) => chatLogprob(this.model, token, this.fields.top_logprobs ?? 0)) : []
        yield* this.#add(reader.push(piece.text), scored)
      } else if (piece.type === "end") {
        yield* this.#add(reader.finish(piece.finish === "stop"), [])
        if (this.#items.length === 0) yield* this.#openText()
        this.#status = piece.finish === "stop" ? "completed" : "incomplete"
      }
    }
    const { promptTokens, answerTokens, cachedTokens } = this.choices.usage()
    this.#usage = {
      input_tokens: promptTokens,
      input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: promptTokens - cachedTokens },
      output_tokens: answerTokens,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: promptTokens + answerTokens,
    }
    yield* this.#close()
    yield this.event(`response.${this.#status}`, { response: this.response() })
  }

  *#add(deltas: ReturnType<ToolReader["push"]>, logprobs: ChatLogprob[]): Generator<string> {
    for (const delta of deltas) {
      const last = this.#items.at(-1)
      if (delta.type === "content") {
        if (last === undefined) yield* this.#openText()
        const part = (this.#items.at(-1) as Extract<Item, { type: "message" }>).content[0]!
        part.text += delta.text
        part.logprobs.push(...logprobs)
        yield this.event("response.output_text.delta", { ...this.#at(), content_index: 0, delta: delta.text, logprobs })
      } else if (delta.type === "call") {
        const item: Item = {
          id: newId("fc_"),
          type: "function_call",
          status: "in_progress",
          call_id: delta.id,
          name: delta.name,
          arguments: "",
        }
        this.#items.push(item)
        yield this.event("response.output_item.added", { output_index: this.#items.length - 1, item })
      } else if (last?.type === "function_call") {
        last.arguments += delta.text
        yield this.event("response.function_call_arguments.delta", { ...this.#at(), delta: delta.text })
      }
    }
  }

  /** Where the last item stands. */
  #at(): { item_id: string; output_index: number } {
    return { item_id: this.#items.at(-1)!.id, output_index: this.#items.length - 1 }
  }

  *#openText(): Generator<string> {
    const item: Item = { id: newId("msg_"), type: "message", role: "assistant", status: "in_progress", content: [] }
    this.#items.push(item)
    yield this.event("response.output_item.added", { output_index: this.#items.length - 1, item })
    item.content.push({ type: "output_text", text: "", annotations: [], logprobs: [] })
    yield this.event("response.content_part.added", { ...this.#at(), content_index: 0, part: item.content[0] })
  }

  *#close(): Generator<string> {
    const item = this.#items.at(-1)!
    item.status = this.#status
    if (item.type === "message") {
      const part = item.content[0]!
      const where = { ...this.#at(), content_index: 0 }
      yield this.event("response.output_text.done", { ...where, text: part.text, logprobs: part.logprobs })
      yield this.event("response.content_part.done", { ...where, part })
    } else yield this.event("response.function_call_arguments.done", { ...this.#at(), name: item.name, arguments: item.arguments })
    yield this.event("response.output_item.done", { output_index: this.#items.length - 1, item })
  }
}

const defined = (value: object): object => Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined))
