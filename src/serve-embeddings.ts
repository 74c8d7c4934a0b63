/** POST /v1/embeddings: the mean of a text's hidden states after the last norm. */
import { engineId, failure } from "./serve-answer.ts"
import type { Call } from "./serve-context.ts"
import { ApiError, badField, draining } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import { launchAll, type Outcome } from "./serve-many.ts"
import type { Model } from "./serve-models.ts"
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
    context.metrics.promptTokens.add({ model: model.key.split("@")[0]! }, tokens)
    const vectors = await embedAll(call, model, prompts, client)
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
    ticket?.end(0)
    throw error
  } finally {
    lease.release()
  }
}

/** One vector per prompt. */
function embedAll({ context, signal }: Call, model: Model, prompts: readonly Int32Array[], client: string): Promise<Float32Array[]> {
  const vectors: Float32Array[] = []
  let open = prompts.length
  const { promise, resolve, reject } = Promise.withResolvers<Float32Array[]>()
  const launch = (index: number, outcome: Outcome) => {
    const id = engineId()
    context.serving.submit(
      {
        id,
        model: model.facts.key,
        kind: "embed",
        prompt: prompts[index]!,
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
        if (event.type === "embedding") vectors[index] = event.values
        if (event.type === "failed") outcome.failed(failure(event))
        if (event.type !== "finished") return
        outcome.done()
        if (--open === 0) resolve(vectors)
      },
    )
    return () => context.serving.cancel(id)
  }
  const stopAll = launchAll(prompts.length, context.limits.queueMs, launch, reject)
  const stop = (error: ApiError) => {
    stopAll()
    reject(error)
  }
  context.running.add(stop)
  signal.addEventListener("abort", () => stop(new ApiError(499, "the client is gone", { code: "cancelled" })), { once: true })
  return promise.finally(() => context.running.delete(stop))
}
