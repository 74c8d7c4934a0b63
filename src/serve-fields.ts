/** THE TABLE: every request field of every endpoint, whether it is honoured, and what it must look like. */

import { CHAT_UI_FIELDS, GENERATE_FIELDS, INFERENCE_FIELDS } from "./serve-fields-heritage.ts"
import { CHAT_FIELDS, COMPLETION_FIELDS, EMBEDDING_FIELDS } from "./serve-fields-openai.ts"
import { RESPONSE_FIELDS } from "./serve-fields-response.ts"
import { DETOKENIZE_FIELDS, LOAD_FIELDS, TOKENIZE_FIELDS, UNLOAD_FIELDS } from "./serve-fields-tools.ts"
import type { Rows } from "./serve-shape.ts"

/** Fields by "METHOD path"; a request to one of these is checked by it, and /docs shows it. */
export const FIELDS = {
  "POST /v1/completions": COMPLETION_FIELDS,
  "POST /v1/chat/completions": CHAT_FIELDS,
  "POST /v1/responses": RESPONSE_FIELDS,
  "POST /v1/embeddings": EMBEDDING_FIELDS,
  "POST /tokenize": TOKENIZE_FIELDS,
  "POST /detokenize": DETOKENIZE_FIELDS,
  "POST /v1/load": LOAD_FIELDS,
  "POST /v1/unload": UNLOAD_FIELDS,
  "GET /api/inference": INFERENCE_FIELDS,
  "POST /api/generate": GENERATE_FIELDS,
  "POST /api/chat": CHAT_UI_FIELDS,
} satisfies Record<string, Rows>
