/** Starts the ranks of one host where no launcher does, and ends with them. */
import { createServer } from "node:net"
import { isCompiled } from "./base-build.ts"
import { EXIT } from "./base-error.ts"
import type { Launch } from "./dist.ts"

/** After a rank has failed, one that does not end is killed. */
const END_MS = 30_000

/** Names the process that has started a rank; its end is the rank's. */
const PARENT = "LAUNCHER_PID"
const LOOK_MS = 500

/** Calls `onEnd` when the process that has started this rank is gone; returns what ends the watch. Nothing where another launcher has. */
export function watchParent(onEnd: () => void): () => void {
  const parent = process.env[PARENT]
  if (parent === undefined) return () => {}
  const timer = setInterval(() => {
    if (String(process.ppid) === parent) return
    clearInterval(timer)
    onEnd()
  }, LOOK_MS)
  timer.unref()
  return () => clearInterval(timer)
}

/** The variables of one rank, torchrun's. */
export function rankVariables(launch: Launch, local: number, port: number): Record<string, string> {
  return {
    RANK: String(launch.rank + local),
    WORLD_SIZE: String(launch.size),
    LOCAL_RANK: String(local),
    LOCAL_WORLD_SIZE: String(launch.spawns),
    MASTER_ADDR: launch.master?.host ?? "127.0.0.1",
    MASTER_PORT: String(port),
    [PARENT]: String(process.pid),
  }
}

/** Signals that go on to the ranks. A rank that is interrupted twice ends at once: a terminal's SIGINT reaches it anyway, and goes on as SIGTERM. */
const FORWARDED = { SIGINT: "SIGTERM", SIGTERM: "SIGTERM", SIGHUP: "SIGHUP", SIGUSR1: "SIGUSR1" } as const

/** Runs `launch.spawns` processes of the same command line; the exit code of the first that failed, else 0. */
export async function spawnRanks(launch: Launch, argv: readonly string[], note: (text: string) => void): Promise<number> {
  const port = launch.master?.port || (await freePort())
  const command = [process.execPath, ...(isCompiled ? [] : [Bun.main]), ...argv]
  note(`${launch.spawns} ranks on this host (${launch.source})`)
  const children = Array.from({ length: launch.spawns }, (_, local) => {
    const env = { ...process.env, ...rankVariables(launch, local, port) }
    return Bun.spawn(command, { env, stdin: "ignore", stdout: "inherit", stderr: "inherit" })
  })
  const handlers = Object.entries(FORWARDED).map(([signal, sent]) => {
    const handler = () => {
      for (const child of children) child.kill(sent)
    }
    process.on(signal, handler)
    return () => process.off(signal, handler)
  })
  let failed: number | undefined
  let killer: NodeJS.Timeout | undefined
  await Promise.all(
    children.map(async (child) => {
      const code = await child.exited
      if (code === EXIT.ok || failed !== undefined) return
      failed = child.signalCode === null ? code : EXIT.failure
      // The others hear of it from each other; who does not is not waited for.
      killer = setTimeout(() => {
        for (const each of children) each.kill("SIGKILL")
      }, END_MS)
    }),
  )
  clearTimeout(killer)
  for (const off of handlers) off()
  return failed ?? EXIT.ok
}

/** A port that nobody listens on now. */
async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}
