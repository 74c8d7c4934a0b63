/** THE ROUTES: every method and path with the key it needs and what it does. */
import { chatCompletions } from "./serve-chat.ts"
import { completions } from "./serve-completions.ts"
import type { Route } from "./serve-context.ts"
import { dashboard } from "./serve-dash.ts"
import { embeddings } from "./serve-embeddings.ts"
import { chatUi, generate, inference, oldModels } from "./serve-heritage.ts"
import { ingest } from "./serve-ingest.ts"
import { upload, uploadAssemble, uploadChunk } from "./serve-ingest-upload.ts"
import { login, logout } from "./serve-login.ts"
import { docs, loginPage, pageAsset, playground } from "./serve-page.ts"
import { responses } from "./serve-responses.ts"
import { changeRun, domains, listRuns, oneRun, runCheckpoints, runConfig, runEvents, runMetrics, runSamples } from "./serve-runs.ts"
import { live } from "./serve-runs-live.ts"
import { health, listModels, load, metrics, oneModel, ready, slots, unload } from "./serve-status.ts"
import { detokenize, tokenize } from "./serve-tokens.ts"

const route = (method: Route["method"], path: string, scope: Route["scope"], about: string, handle: Route["handle"]): Route => ({
  method,
  path,
  scope,
  about,
  handle,
})

/** One row is sent whole, however long a sample is. */
const ROW_BYTES = 32 << 20

export const ROUTES: readonly Route[] = [
  route("POST", "/v1/completions", "infer", "continue prompts; with echo and logprobs, score them", completions),
  route("POST", "/v1/chat/completions", "infer", "answer a conversation", chatCompletions),
  route("POST", "/v1/responses", "infer", "answer a conversation, in the form of OpenAI's newer API; nothing is stored", responses),
  route("POST", "/v1/embeddings", "infer", "mean of a text's hidden states after the last norm", embeddings),
  route("GET", "/v1/models", "infer", "models and the checkpoints of runs", listModels),
  route("GET", "/v1/models/:id{.+}", "infer", "one model", oneModel),
  route("POST", "/tokenize", "infer", "text → token ids", tokenize),
  route("POST", "/detokenize", "infer", "token ids → text", detokenize),
  route("GET", "/slots", "infer", "what runs now", slots),
  route("GET", "/metrics", "infer", "counters and histograms for Prometheus", metrics),
  route("POST", "/v1/load", "admin", "load a model", load),
  route("POST", "/v1/unload", "admin", "drop a model from memory", unload),
  route("GET", "/api/models", "infer", "models, for older clients", oldModels),
  route("GET", "/api/inference", "infer", "tokens of a continuation as events, for older clients", inference),
  route("POST", "/api/generate", "infer", "one continuation as JSON, for older clients", generate),
  route("POST", "/api/chat", "infer", "message stream for useChat of the AI SDK", chatUi),
  { ...route("POST", "/api/ingest", "ingest", "rows of a trainer's journals, each taken once", ingest), leastBody: ROW_BYTES },
  route("POST", "/api/upload", "ingest", "announce a checkpoint, or go on with one", upload),
  route("POST", "/api/upload/chunk", "ingest", "bytes of a checkpoint's file at an offset", uploadChunk),
  route("POST", "/api/upload/assemble", "ingest", "check the hashes and publish the checkpoint", uploadAssemble),
  route("GET", "/api/training/live", "read", "rows and states of runs as events", live),
  route("GET", "/api/runs", "read", "runs, newest first", listRuns),
  route("GET", "/api/runs/:id", "read", "one run", oneRun),
  route("GET", "/api/runs/:id/metrics", "read", "curves in buckets with their extremes; ?format=csv or jsonl gives all rows", runMetrics),
  route("GET", "/api/runs/:id/checkpoints", "read", "checkpoints of a run", runCheckpoints),
  route("GET", "/api/runs/:id/samples", "read", "texts that the run drew", runSamples),
  route("GET", "/api/runs/:id/events", "read", "what happened in the run", runEvents),
  route("GET", "/api/runs/:id/config", "read", "the run's settings with their origins", runConfig),
  route("PATCH", "/api/runs/:id", "admin", "change notes and tags", changeRun),
  route("GET", "/api/domains", "read", "what runs are trained on", domains),
  route("GET", "/health", "open", "200 while the process lives", health),
  route("GET", "/ready", "open", "200 when requests can be answered, 503 while loading or draining", ready),
  route("GET", "/", "open", "playground", playground),
  route("GET", "/docs", "open", "this API, from the field table", docs),
  route("GET", "/training", "open", "dashboard: what trains now", dashboard),
  route("GET", "/runs", "open", "dashboard: all runs", dashboard),
  route("GET", "/runs/:id", "open", "dashboard: one run", dashboard),
  route("GET", "/compare", "open", "dashboard: runs side by side", dashboard),
  route("GET", "/checkpoints", "open", "dashboard: what runs saved", dashboard),
  route("GET", "/models", "open", "dashboard: models that are served", dashboard),
  route("GET", "/domains", "open", "dashboard: kinds of data", dashboard),
  route("GET", "/assets/:name", "open", "scripts and styles of the pages", pageAsset),
  route("GET", "/login", "open", "form that takes a key", loginPage),
  route("POST", "/login", "open", "keeps a key in a cookie", login),
  route("POST", "/logout", "open", "forgets it", logout),
]
