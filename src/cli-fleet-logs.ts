/** `alpha fleet logs` and `download`. */
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { formatBytes, Progress } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { dryRun, machines, overHosts } from "./cli-fleet-hosts.ts"
import { onStop } from "./cli-signal.ts"
import type { FleetDownloadConfig, FleetLogsConfig } from "./config.ts"
import { alphaOnHost, downloadRun, filesWords, logWords, readLog } from "./fleet.ts"

/** One machine's log goes to standard output byte for byte; those of several have the machine's name before each line. */
export async function logs(invocation: Invocation<FleetLogsConfig>): Promise<number> {
  const { config, json } = invocation
  const { run, follow, whole, lines } = config
  const { hosts } = machines(invocation)
  if (json)
    throw new AlphaError("fleet logs: a log is no JSON", { hint: "alpha fleet status --json tells how jobs stand", code: EXIT.usage })
  const from = whole ? 0 : undefined
  if (config.dryRun)
    return dryRun(invocation, hosts, (host) => [{ what: "logs", script: alphaOnHost(host, logWords(config, from, undefined)) }])
  const ended = new AbortController()
  const release = onStop(() => ended.abort())
  const isOne = hosts.length === 1
  try {
    const read = async (name: string, take: (bytes: Uint8Array) => Promise<void>) => {
      const host = hosts.find((one) => one.name === name)!
      const note = (text: string) => void process.stderr.write(`alpha: ${name}: ${text}\n`)
      return await readLog(host, { run, lines, follow, from, take, note, signal: ended.signal })
    }
    if (isOne) {
      await read(hosts[0]!.name, write)
      return 0
    }
    return await overHosts(invocation, hosts, async ({ name }) => {
      let rest = ""
      const decoder = new TextDecoder()
      const state = await read(name, async (bytes) => {
        const parts = (rest + decoder.decode(bytes, { stream: true })).split("\n")
        rest = parts.pop()!
        if (parts.length > 0) await write(new TextEncoder().encode(parts.map((part) => `${name} | ${part}\n`).join("")))
      })
      if (rest !== "") await write(new TextEncoder().encode(`${name} | ${rest}\n`))
      return { message: state ?? "no longer followed", value: {} }
    })
  } finally {
    release()
  }
}

const write = (bytes: Uint8Array): Promise<void> =>
  new Promise((done, fail) => void process.stdout.write(bytes, (error) => (error ? fail(error) : done())))

export async function download(invocation: Invocation<FleetDownloadConfig>): Promise<number> {
  const { config, json } = invocation
  const { run, part } = config
  const { hosts } = machines(invocation)
  if (config.dryRun) return dryRun(invocation, hosts, (host) => [{ what: "download", script: alphaOnHost(host, filesWords(run, part)) }])
  return await overHosts(invocation, hosts, async (host) => {
    let progress: Progress | undefined
    const onProgress = (done: number, total: number) => {
      if (json || hosts.length > 1) return
      progress ??= new Progress({ label: host.name, total, format: formatBytes })
      progress.update(done)
    }
    const note = (text: string) => void process.stderr.write(`alpha: ${host.name}: ${text}\n`)
    const to = hosts.length === 1 ? config.to : join(config.to, host.name)
    const done = await downloadRun(host, { run, part, to, onProgress, note })
    progress?.finish()
    const fetched = done.fetched === done.bytes ? "" : `, ${formatBytes(done.fetched)} of them over the line`
    return { message: `${done.directory}: ${done.files} files, ${formatBytes(done.bytes)}${fetched}, verified`, value: done }
  })
}
