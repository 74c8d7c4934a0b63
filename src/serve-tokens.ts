/** POST /tokenize and /detokenize: text ↔ token ids. */
import type { Call } from "./serve-context.ts"
import { ApiError, badField } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import { tokenText } from "./serve-logprobs.ts"
import { parseRows } from "./serve-shape.ts"
import { conversationIds, plainIds } from "./serve-text.ts"

export async function tokenize(call: Call): Promise<Response> {
  const fields = parseRows(FIELDS["POST /tokenize"], await call.json())
  if ((fields.prompt === undefined) === (fields.messages === undefined)) throw badField("prompt", "give either prompt or messages")
  const lease = await call.context.models.lease(fields.model)
  try {
    const { model } = lease
    const { before, after } = fields.add_special_tokens ? model.around : { before: [], after: [] }
    const tokens =
      fields.messages !== undefined
        ? Array.from((await conversationIds(model, fields.messages, [], "messages")).ids)
        : [
            ...before,
            ...(await plainIds({ ...model, blockSize: Number.POSITIVE_INFINITY }, fields.prompt!, "prompt", fields.add_special_tokens)),
            ...after,
          ]
    return Response.json({
      tokens,
      count: tokens.length,
      max_model_len: model.blockSize,
      token_strs: tokens.map((id) => tokenText(model, id)),
    })
  } finally {
    lease.release()
  }
}

export async function detokenize(call: Call): Promise<Response> {
  const { model: name, tokens } = parseRows(FIELDS["POST /detokenize"], await call.json())
  const lease = await call.context.models.lease(name)
  try {
    const { tokenizer, name: own } = lease.model
    if (tokenizer === undefined) throw new ApiError(400, `model ${own} has no tokenizer`, { param: "model" })
    const bad = tokens.findIndex((id) => id >= tokenizer.vocabSize)
    if (bad >= 0) throw badField(`tokens[${bad}]`, `${tokens[bad]} is not below ${tokenizer.vocabSize}`)
    return Response.json({ prompt: tokenizer.decode(tokens) })
  } finally {
    lease.release()
  }
}
