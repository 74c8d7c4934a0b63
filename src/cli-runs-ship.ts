/** `alpha runs ship`: sends a run that has ended, or what an outage left of it, to the server that ALPHA_REMOTE_URL names. */
import { realpathSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Invocation } from "./cli-command.ts"
import { remoteServer } from "./cli-train-remote.ts"
import { type RunsShipConfig, runDirectory } from "./config.ts"
import { DirectoryStore, type RunState } from "./db.ts"
import { startShipper } from "./train.ts"

/** A server that gives nothing but failures for so long is given up. */
const PATIENCE = { ms: Number.POSITIVE_INFINITY, failingMs: 30_000 }

export async function run({ config, environment, json, print }: Invocation<RunsShipConfig>): Promise<undefined> {
  const server = remoteServer(environment)
  if (server === undefined)
    throw new AlphaError("runs ship: no server is named", { hint: "set ALPHA_REMOTE_URL and ALPHA_REMOTE_SECRET", code: EXIT.usage })
  if (config.run === undefined) throw new AlphaError("runs ship: no run is given", { hint: "alpha runs ship NAME", code: EXIT.usage })
  const { directory, name } = runDirectory(config.runsDir, config.run)
  const store = new DirectoryStore(dirname(directory))
  const run = await store.run(name)
  if (run === undefined)
    throw new AlphaError(`no run ${config.run} in ${config.runsDir}`, { hint: "alpha runs ls shows those there are", code: EXIT.data })
  if (run.state === "running" || run.state === "stalled")
    throw new AlphaError(`run ${directory} is being trained: its trainer ships it`, { hint: "wait until it ends", code: EXIT.busy })
  const saved = await store.checkpoints(name)
  const shipper = startShipper({ ...server, directory, onNote: (note) => void (json || process.stderr.write(`${note}\n`)) })
  for (const { path, step, best } of saved)
    if (best || step === lastStep(directory)) shipper.checkpoint({ path: join(directory, "checkpoints", basename(path)), step, best })
  const { done, rows } = await shipper.end(run.state as Exclude<RunState, "running" | "stalled">, PATIENCE)
  if (!done)
    throw new AlphaError(`runs ship: ${server.url} does not answer: ${rows} rows are not there yet`, {
      hint: "the same command goes on where this one stopped",
      code: EXIT.failure,
    })
  print({ run: run.id, name, state: run.state }, () => `${name} is at ${server.url}`)
  return undefined
}

/** Step of the checkpoint that `last` names. */
function lastStep(directory: string): number | undefined {
  try {
    return Number(/(\d+)$/.exec(realpathSync(join(directory, "last")))?.[1])
  } catch {
    return undefined // none was written yet
  }
}
