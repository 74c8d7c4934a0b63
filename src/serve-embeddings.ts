/** POST /v1/embeddings: the mean of a text's hidden states after the last norm. */
import { engineId, failure } from "./serve-answer.ts"
import type { Call } from "./serve-context.ts"
import { ApiError, badField, draining } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import { PLAIN_SAMPLING, samplingOf } from "./serve-request.ts"
import { parseRows } from "./serve-shape.ts"
import { promptIds } from "./serve-text.ts"

const ROWS = FIELDS["POST /v1/embeddings"]

export async function embeddings(call: Call): Promise<Response> {
  const fields = parseRows(ROWS, await call.json())
  const { context } = call
  if (context.draining) throw draining()
  const lease = await context.models.lease(fields.model)
  const { model } = lease
  const cancels: (() => void)[] = []
  let ticket: { end(used: number): void } | undefined
  try {
    const { nEmbd } = model.facts
    if (fields.dimensions !== undefined && fields.dimensions !== nEmbd) {
      throw badField("dimensions", `must be ${nEmbd}, the width of ${model.name}`, "unsupported_value")
    }
    const several = fields.input.length > 1
    const prompts = await Promise.all(
      fields.input.map(async (input, i) => {
        const where = several ? `input[${i}]` : "input"
        if (input.length === 0) throw badField(where, "is empty")
        const ids = await promptIds(model, input, where)
        if (ids.length <= model.blockSize) return ids
        throw new ApiError(400, `${where} has more than the ${model.blockSize} tokens of ${model.name}'s context`, {
          param: where,
          code: "context_length_exceeded",
        })
      }),
    )
    const tokens = prompts.reduce((sum, ids) => sum + ids.length, 0)
    if (tokens > context.limits.queueTokens)
      throw badField("input", `${tokens} tokens are more than the ${context.limits.queueTokens} that may wait`)
    ticket = context.usage.admit(call.client, tokens)
    const client = fields.user === undefined ? call.client : `${call.client}/${fields.user}`
    const abort = () => {
      for (const cancel of cancels) cancel()
    }
    call.signal.addEventListener("abort", abort, { once: true })
    context.metrics.promptTokens.add({ model: model.facts.key }, tokens)
    const vectors = await Promise.all(prompts.map((prompt) => embed(call, lease.model, prompt, client, cancels)))
    ticket.end(tokens)
    return Response.json({
      object: "list",
      data: vectors.map((values, index) => ({
        object: "embedding",
        index,
        embedding:
          fields.encoding_format === "base64"
            ? Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64")
            : Array.from(values),
      })),
      model: fields.model ?? model.name,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    })
  } catch (error) {
    for (const cancel of cancels) cancel()
    ticket?.end(0)
    throw error
  } finally {
    lease.release()
  }
}

function embed(
  { context }: Call,
  model: Parameters<typeof samplingOf>[1],
  prompt: Int32Array,
  client: string,
  cancels: (() => void)[],
): Promise<Float32Array> {
  const id = engineId()
  return new Promise((resolve, reject) => {
    const stop = (error: ApiError) => {
      context.serving.cancel(id)
      reject(error)
    }
    context.running.add(stop)
    cancels.push(() => stop(new ApiError(499, "the client is gone", { code: "cancelled" })))
    context.serving.submit(
      {
        id,
        model: model.facts.key,
        kind: "embed",
        prompt,
        maxTokens: 0,
        sampling: samplingOf(PLAIN_SAMPLING, model),
        topLogprobs: 0,
        promptLogprobs: false,
        stopIds: [],
        ignoreEnd: false,
        constraint: undefined,
        client,
        queueMs: context.limits.queueMs,
      },
      (event) => {
        if (event.type === "embedding") resolve(event.values)
        if (event.type === "failed") reject(failure(event))
        if (event.type === "failed" || event.type === "finished") context.running.delete(stop)
      },
    )
  })
}
