/** `alpha train --serve`: the server in the trainer's process, on the same engine. */
import { dirname, resolve } from "node:path"
import { createLog } from "./base-log.ts"
import { cautions } from "./cli-serve.ts"
import type { TrainView } from "./cli-train-console.ts"
import { type Environment, finishServe, loadConfig, SERVE, type TrainInput } from "./config.ts"
import type { Engine } from "./engine.ts"
import { startServer } from "./serve.ts"

export interface TrainingServer {
  /** Running requests end first. */
  close(): Promise<void>
}

/** Listens at once; throws where that is not allowed or the port is taken. What the trainer sets wins; the rest is read from the environment. */
export function serveTraining(
  { serve, device, threads, precision, debugGpu }: TrainInput,
  environment: Environment,
  { engine, directory, view, json }: { engine: Engine; directory: string; view: TrainView; json: boolean },
): TrainingServer {
  const own = {
    port: serve,
    device,
    precision,
    debugGpu,
    runsDir: dirname(resolve(directory)),
    runsOnly: true,
    model: "[]",
    routes: false,
    ...(threads === undefined ? {} : { threads }),
  }
  const flags = Object.entries(own).map(([name, raw]) => ({ name, raw: String(raw), layer: "flag" as const, from: `--${name}` }))
  const { values } = finishServe(loadConfig(SERVE, { flags, environment }))
  const config = { ...values, follow: undefined }
  const server = startServer(config, environment, createLog({ least: "warn" }), { training: { engine, directory, debugGpu } })
  if (json)
    process.stdout.write(
      `${JSON.stringify({ type: "serve", url: server.url, port: server.port, open: server.isOpen, database: server.database ?? null })}\n`,
    )
  else {
    view.note(
      `serving ${server.url}: /v1 answers with the last checkpoint, /training and /runs show the run${server.database === undefined ? "" : `, which database ${server.database} keeps`}`,
    )
    for (const caution of cautions(server, config)) view.note(caution)
  }
  return { close: () => server.drain(config.drainTimeout) }
}
