/** The /api endpoints that older clients of this project use. */
import { type Choices, startChoices } from "./serve-choices.ts"
import type { Call } from "./serve-context.ts"
import type { ApiError } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import { constraintOf, newId, PLAIN_SAMPLING, samplingOf, usageJson } from "./serve-request.ts"
import { parseRows } from "./serve-shape.ts"
import { DONE, dataEvent, eventStream } from "./serve-stream.ts"
import { conversationIds, promptIds } from "./serve-text.ts"

type Asked = Partial<typeof PLAIN_SAMPLING> &
  Parameters<typeof constraintOf>[0] & { readonly stop?: readonly string[]; readonly user?: string | undefined }

/** GET /api/models: the models as a list of names. */
export const oldModels = ({ context }: Call): Response =>
  Response.json(context.models.entries().map(({ id, loaded, created }) => ({ name: id, loaded: loaded !== undefined, created })))

/** One answer to a prompt or a conversation. */
async function ask(
  call: Call,
  name: string | undefined,
  source: { readonly prompt: string; readonly param: string } | { readonly messages: Parameters<typeof conversationIds>[1] },
  maxTokens: number | undefined,
  asked: Asked,
): Promise<Choices> {
  const lease = await call.context.models.lease(name)
  const { model } = lease
  try {
    const { ids, stop, stopIds } =
      "messages" in source
        ? await conversationIds(model, source.messages, [], "messages")
        : { ids: await promptIds(model, source.prompt, source.param), stop: [], stopIds: [] }
    const { constraint, param } = constraintOf(asked)
    return await startChoices(call.context, call, {
      lease,
      prompts: [ids],
      n: 1,
      // Older clients ask for more than fits, and mean: as much as there is.
      maxTokens: maxTokens === undefined ? undefined : Math.max(1, Math.min(maxTokens, model.blockSize - ids.length)),
      params: { prompt: "messages" in source ? "messages" : source.param, maxTokens: "max_tokens", constraint: param },
      sampling: samplingOf({ ...PLAIN_SAMPLING, ...asked }, model),
      stop: [...(asked.stop ?? []), ...stop],
      stopIds,
      topLogprobs: 0,
      promptLogprobs: false,
      ignoreEnd: false,
      constraint,
      user: asked.user,
    })
  } catch (error) {
    lease.release()
    throw error
  }
}

/** GET /api/inference: tokens as events. */
export async function inference(call: Call): Promise<Response> {
  const fields = parseRows(FIELDS["GET /api/inference"], call.http.req.query())
  const { temp: temperature, topk: top_k, topp: top_p, seed } = fields
  const choices = await ask(call, fields.model, { prompt: fields.query, param: "query" }, fields.steps, { temperature, top_k, top_p, seed })
  return eventStream(inferenceEvents(choices), { onGone: choices.cancel, done: DONE })
}

async function* inferenceEvents(choices: Choices): AsyncGenerator<string> {
  for await (const piece of choices) {
    if (piece.type === "text" && piece.text !== "") yield dataEvent({ token: piece.text })
    if (piece.type === "end") yield dataEvent({ finish_reason: piece.finish, usage: usageJson(choices.usage()) })
  }
}

/** POST /api/generate: one answer as JSON. */
export async function generate(call: Call): Promise<Response> {
  const fields = parseRows(FIELDS["POST /api/generate"], await call.json())
  const choices = await ask(call, fields.model, { prompt: fields.prompt, param: "prompt" }, fields.max_tokens, fields)
  let text = ""
  let finish_reason: string | null = null
  for await (const piece of choices) {
    if (piece.type === "text") text += piece.text
    if (piece.type === "end") finish_reason = piece.finish
  }
  return Response.json({ text, finish_reason, usage: usageJson(choices.usage()), system_fingerprint: choices.fingerprint })
}

/** POST /api/chat: the message stream that useChat of the AI SDK reads. */
export async function chatUi(call: Call): Promise<Response> {
  const fields = parseRows(FIELDS["POST /api/chat"], await call.json())
  const { temperature, seed } = fields
  const choices = await ask(call, fields.model, { messages: fields.messages }, fields.max_tokens, { temperature, seed })
  return eventStream(chatUiEvents(choices), {
    onGone: choices.cancel,
    done: DONE,
    onError: (error: ApiError) => dataEvent({ type: "error", errorText: error.message }),
    headers: { "x-vercel-ai-ui-message-stream": "v1" },
  })
}

async function* chatUiEvents(choices: Choices): AsyncGenerator<string> {
  const id = newId("text_")
  yield dataEvent({ type: "start", messageId: newId("msg_") })
  yield dataEvent({ type: "start-step" })
  yield dataEvent({ type: "text-start", id })
  for await (const piece of choices) {
    if (piece.type === "text" && piece.text !== "") yield dataEvent({ type: "text-delta", id, delta: piece.text })
    if (piece.type !== "end") continue
    yield dataEvent({ type: "text-end", id })
    yield dataEvent({ type: "finish-step" })
    yield dataEvent({ type: "finish", finishReason: piece.finish })
  }
}
