/** The fields of `alpha serve`, and the secrets that are read from the environment alone. */
import { AlphaError, EXIT } from "./base-error.ts"
import { bool, choice, float, inGroup, int, list, type Resolved, text, type Values } from "./config-field.ts"
import type { Loaded } from "./config-merge.ts"
import { COMPUTE, FILES } from "./config-shared.ts"

/** What `alpha serve` reads. */
export const SERVE = {
  ...inGroup("Models", {
    model: list("runs, checkpoints or Hugging Face model directories; the first answers where a request names none", { default: [] }),
    follow: text("run whose new best checkpoint, or last while there is no best, replaces the one served, with no request lost", {}),
    memory: int("all models with their caches; the one used least recently gives way; none = no limit", {
      optional: true,
      min: 1_000_000,
      unit: "bytes",
    }),
  }),
  ...inGroup("Network", {
    host: text("address to listen on; others than loopback need a key", { default: "127.0.0.1" }),
    port: int("port to listen on; 0 = a free one", { derive: "$PORT, else 8080", min: 0, max: 65535 }),
    cors: list("origins whose pages may call the server, such as https://example.org", { default: [] }),
    publicRead: bool("data of runs may be read without a key", { default: false }),
    maxBody: int("longest request body", { default: 2 ** 20, min: 1024, max: 2 ** 30, unit: "bytes" }),
    drainTimeout: float("after SIGTERM running requests have this long", { default: 30, min: 0, max: 3600, unit: "seconds" }),
  }),
  ...inGroup("Scheduler", {
    slots: int("sequences of one model that run together", { default: 32, min: 1, max: 1024 }),
    cache: int("keys and values of one model", { derive: "room for slots × 2048 tokens, at most 1 GiB on the CPU", min: 1, unit: "bytes" }),
    prefixCache: bool("beginnings that earlier requests computed are used again; answers do not change", { default: true }),
    batchInvariant: choice(
      "on: the bytes of an answer do not depend on load, batch or cache; off: a GPU may split sums of few rows and take all layers in one launch, which is faster; the CPU knows no faster way",
      ["on", "off"],
      { default: "on", spellings: { true: "on", false: "off" } },
    ),
    queueRequests: int("requests that wait; further ones are answered 429", { default: 256, min: 0 }),
    queueTokens: int("prompt and answer tokens that waiting requests may come to", { default: 1_000_000, min: 1, unit: "tokens" }),
    queueTimeout: float("a request that has not started by then is answered 429", { default: 60, above: 0, max: 86_400, unit: "seconds" }),
    keyConcurrency: int("requests of one key that run or wait; none = no limit", { optional: true, min: 1 }),
    keyTokensPerMinute: int("prompt and answer tokens of one key in a minute; none = no limit", { optional: true, min: 1, unit: "tokens" }),
  }),
  ...inGroup("Show", {
    runsOnly: bool("serve the data of runs alone, without a model", { default: false }),
    metricsCompat: choice("also give the metrics under the names of another server", ["none", "vllm"], { default: "none" }),
    routes: bool("print every route with the key it needs, and stop", { default: false }),
  }),
  ...COMPUTE,
  ...inGroup("Run", {
    database: text("database that the runs are kept in too: a file, or the URL of a Turso or sqld server", {
      derive: "TURSO_DATABASE_URL, else alpha.db where it exists",
    }),
    ...FILES,
  }),
}
export type ServeConfig = Omit<Resolved<typeof SERVE>, "threads" | "cache" | "port" | "database"> &
  Pick<Values<typeof SERVE>, "threads" | "cache" | "port" | "database">

/** Keys of the server, and what else is secret: from the environment alone, since other users of a machine can read command lines. */
export const SECRETS = inGroup("Secrets", {
  apiKeys: text("keys for inference, separated by commas", {}),
  readKeys: text("keys for reading the data of runs, separated by commas", {}),
  adminKey: text("key for loading and unloading models", {}),
  remoteUrl: text("server that alpha train ships its runs to, such as https://example.org", {}),
  remoteSecret: text("the UPLOAD_SECRET of that server", {}),
  alertWebhook: text("address that alerts of runs are posted to as JSON", {}),
})

/** Something must be served: a model, or the data of runs. */
export function finishServe(loaded: Loaded<typeof SERVE>): Loaded<typeof SERVE> & { values: ServeConfig } {
  const { model, follow, routes, runsOnly } = loaded.values
  if (model.length === 0 && follow === undefined && !routes && !runsOnly) {
    throw new AlphaError("serve: no model is given", {
      hint: "alpha serve --model=RUN, a checkpoint or a Hugging Face directory; or --follow=RUN; --runsOnly for the data of runs alone",
      code: EXIT.usage,
    })
  }
  return loaded as Loaded<typeof SERVE> & { values: ServeConfig }
}
