/** The HTTP server: starts engine, models and socket; drains and ends them. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Log } from "./base-log.ts"
import type { Environment, ServeConfig } from "./config.ts"
import { DirectoryStore, RunDatabase } from "./db.ts"
import { type Engine, startEngine, startServing } from "./engine.ts"
import { AlertWatch } from "./serve-alerts.ts"
import { createApp } from "./serve-app.ts"
import { checkBind, isLoopback, readKeys } from "./serve-auth.ts"
import type { Context, Route } from "./serve-context.ts"
import { draining } from "./serve-error.ts"
import { RemoteRuns } from "./serve-ingest-store.ts"
import { KeyUsage } from "./serve-limit.ts"
import { serverMetrics } from "./serve-metrics.ts"
import { Models } from "./serve-models.ts"
import { ROUTES } from "./serve-routes.ts"
import { databaseName, ServerRuns, serverDatabase } from "./serve-runs-store.ts"
import { openWebhook } from "./train.ts"

export { KEY_SOURCES, type Scope } from "./serve-auth.ts"
export { FIELDS } from "./serve-fields.ts"
export { ROUTES } from "./serve-routes.ts"

export interface RunningServer {
  /** http://127.0.0.1:8080 */
  readonly url: string
  readonly port: number
  /** All models are loaded; rejects where one cannot be. */
  readonly loaded: Promise<void>
  /** Resolves when the engine is gone though nobody asked. */
  readonly failed: Promise<string>
  /** Whether everything but admin is open, for want of keys. */
  readonly isOpen: boolean
  /** Where runs are kept beside their directories. */
  readonly database: string | undefined
  /** Refuses new requests, lets running ones end for `seconds`, then ends them with an error; resolves when all is closed. */
  drain(seconds: number): Promise<void>
}

/** Time for the last writes to leave after the requests were ended. */
const FLUSH_MS = 200
/** Time for the last rows to reach the database. */
const KEEP_MS = 5000
/** How often a followed run is looked at, and the engine asked whether it lives. */
const LOOK_MS = 1000
/** Seconds a connection may rest between requests and in the middle of one; one that waits for an answer may rest for ever. */
const IDLE_SECONDS = 120

const defaultPort = (environment: Environment): number => {
  const given = environment.get("PORT")?.value
  if (given === undefined || given === "") return 8080
  const port = Number(given)
  if (Number.isInteger(port) && port >= 0 && port <= 65535) return port
  throw new AlphaError("PORT: expected a whole number from 0 to 65535", { code: EXIT.usage })
}

export interface ServerOptions {
  readonly onNote?: (note: string) => void
  /** May hold more than this group's own. */
  readonly routes?: readonly Route[]
  /** A run that this process trains: its last checkpoint answers. The engine is the trainer's, and stays open. */
  readonly training?: { readonly engine: Engine; readonly directory: string; readonly debugGpu: boolean }
}

/** Starts to listen at once; models load meanwhile. */
export function startServer(
  config: ServeConfig,
  environment: Environment,
  log: Log,
  { onNote, routes = ROUTES, training }: ServerOptions = {},
): RunningServer {
  const keys = readKeys(environment, config.publicRead)
  checkBind(config.host, keys)
  const webhook = openWebhook(environment, (problem) => log("warn", "alerts", { problem }))
  const engine = training?.engine ?? startEngine()
  let evict = (_key: string) => {}
  const serving = startServing(
    engine,
    {
      slots: config.slots,
      cacheBytes: config.cache,
      queueRequests: config.queueRequests,
      queueTokens: config.queueTokens,
      memoryBytes: config.memory,
      prefixCache: config.prefixCache,
      batchInvariant: config.batchInvariant === "on",
    },
    // One process opens a device once: the words are those of the trainer.
    { device: config.device, threads: config.threads, ...(training === undefined ? {} : { debugGpu: training.debugGpu }) },
    { onEvicted: (key) => evict(key), ...(onNote === undefined ? {} : { onNote }) },
  )
  const models = new Models(serving, { precision: config.precision, log })
  evict = (key) => models.evicted(key)
  const place = serverDatabase(config.database, environment)
  const runs = new ServerRuns(
    new DirectoryStore(config.runsDir),
    config.runsDir,
    place === undefined ? undefined : () => RunDatabase.open(place),
    log,
  )
  const context: Context = {
    serving,
    models,
    keys,
    usage: new KeyUsage({ concurrency: config.keyConcurrency, tokensPerMinute: config.keyTokensPerMinute }),
    metrics: serverMetrics(),
    log,
    runs,
    runsDir: config.runsDir,
    remote: new RemoteRuns(config.runsDir),
    limits: { queueTokens: config.queueTokens, queueMs: config.queueTimeout * 1000, maxBody: config.maxBody },
    cors: config.cors,
    metricsCompat: config.metricsCompat,
    loopback: isLoopback(config.host),
    startedAt: Date.now(),
    running: new Set(),
    listening: new Set(),
    draining: false,
    failed: undefined,
  }
  const close = () => {
    runs.close()
    if (training === undefined) engine.close()
  }
  let server: Bun.Server<undefined>
  try {
    for (const path of config.model) models.add(path, config.runsDir)
    if (config.follow !== undefined) models.add(config.follow, config.runsDir, "best")
    if (training !== undefined) models.add(training.directory, config.runsDir, "last")
    server = listen(config, config.port ?? defaultPort(environment), createApp(context, routes))
  } catch (error) {
    close()
    throw error
  }
  const alerts = new AlertWatch({
    runs,
    local: runs.local,
    runsDir: config.runsDir,
    webhook,
    log,
    announce: (update) => runs.announce(update),
  })
  const { failed, look } = watch(context)
  const loaded = models.start()
  loaded.catch(() => {})
  const ended = loaded.then(
    () => look(),
    () => {},
  )
  return {
    url: server.url.href.replace(/\/$/, ""),
    port: server.port!,
    loaded,
    failed,
    isOpen: keys.none,
    database: place === undefined ? undefined : databaseName(place.url),
    async drain(seconds) {
      context.draining = true
      const listened = context.listening.size > 0
      for (const leave of [...context.listening]) leave()
      const until = performance.now() + seconds * 1000
      while (context.running.size > 0 && performance.now() < until) await Bun.sleep(20)
      const left = context.running.size > 0
      for (const cancel of [...context.running]) cancel(draining())
      if (left || listened) await Bun.sleep(FLUSH_MS)
      await server.stop(true)
      await Promise.race([alerts.close(), Bun.sleep(KEEP_MS)])
      runs.close()
      await Promise.race([runs.ended, Bun.sleep(KEEP_MS)])
      await Promise.race([serving.stop(), Bun.sleep(2000)]).catch(() => {})
      await Promise.race([ended, Bun.sleep(0)])
      close()
    },
  }
}

function listen(config: ServeConfig, port: number, app: ReturnType<typeof createApp>): Bun.Server<undefined> {
  try {
    return Bun.serve({
      hostname: config.host,
      port,
      idleTimeout: IDLE_SECONDS,
      // The app refuses long bodies itself, in the form that clients read.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      fetch(request, server) {
        const address = server.requestIP(request)?.address ?? "unknown"
        return app.fetch(request, { peer: { address, waits: () => server.timeout(request, 0) } })
      },
    })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code !== "EADDRINUSE") throw new AlphaError(`cannot listen on ${config.host}:${port}: ${message}`, { code: EXIT.failure })
    throw new AlphaError(`port ${port} of ${config.host} is in use`, { hint: "choose another port; 0 takes a free one", code: EXIT.busy })
  }
}

/** Looks after followed runs and the engine's life until the server drains. */
function watch(context: Context): { failed: Promise<string>; look: () => Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<string>()
  const look = async (): Promise<void> => {
    while (!context.draining) {
      try {
        await context.serving.statistics()
      } catch (error) {
        context.failed = (error as Error).message
        return resolve(context.failed)
      }
      await context.models.followOnce()
      await Bun.sleep(LOOK_MS)
    }
  }
  return { failed: promise, look }
}
