/** `alpha serve`: answers requests until it is told to stop. */
import { AlphaError, EXIT } from "./base-error.ts"
import { createLog } from "./base-log.ts"
import { colours } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { onStop } from "./cli-signal.ts"
import type { ServeConfig } from "./config.ts"
import { KEY_SOURCES, ROUTES, type RunningServer, startServer } from "./serve.ts"

export async function run({ config, environment, json, print }: Invocation<ServeConfig>): Promise<undefined> {
  if (config.routes) return printRoutes(print)
  const log = createLog({ least: json ? "warn" : "info" })
  const paint = colours(process.stderr)
  const note = (text: string) => void process.stderr.write(`${paint.dim(text)}\n`)
  const server = startServer(config, environment, log, json ? {} : { onNote: note })
  const stopped = Promise.withResolvers<"stop">()
  const release = onStop(() => stopped.resolve("stop"))
  try {
    const first = await Promise.race([server.loaded, stopped.promise])
    if (first === undefined) {
      const { url, port, isOpen, database = null } = server
      print({ url, port, open: isOpen, runs: config.runsDir, database }, () => `alpha serve: ${url}`)
      if (!json) note(`runs: directory ${config.runsDir}${database === null ? "" : `, database ${database}`}`)
      if (!json) for (const caution of cautions(server, config)) note(caution)
      const end = await Promise.race([stopped.promise, server.failed])
      if (end !== "stop") throw new AlphaError(`serve: the engine ended: ${end}`, { code: EXIT.failure })
    }
    if (!json) note(`draining: running requests have ${config.drainTimeout} s; a second signal ends them`)
    await server.drain(config.drainTimeout)
  } catch (error) {
    await server.drain(0)
    throw error
  } finally {
    release()
  }
  return undefined
}

/** What who starts a server should know of it. */
export function cautions({ isOpen }: Pick<RunningServer, "isOpen">, { batchInvariant }: Pick<ServeConfig, "batchInvariant">): string[] {
  return [
    ...(isOpen ? [`no keys are set: everything but ${KEY_SOURCES.admin}'s routes is open to this machine`] : []),
    ...(batchInvariant === "off" ? ["batch-invariant=off: on a GPU the bytes of an answer depend on what runs beside it"] : []),
  ]
}

function printRoutes(print: Invocation["print"]): undefined {
  const rows = ROUTES.map(({ method, path, scope, about }) => ({ method, path: path.replace(/\{.*?\}/g, ""), scope, about }))
  const width = Math.max(...rows.map(({ path }) => path.length))
  print(rows, () =>
    rows.map(({ method, path, scope, about }) => `${method.padEnd(5)}${path.padEnd(width + 2)}${scope.padEnd(7)}${about}`).join("\n"),
  )
  return undefined
}
