/** What a journal and a server cost training, alternating in one run: bun perf/ship-cost.ts [ROUNDS [STEPS [LOG-INTERVAL [TRAIN-FLAG …]]]]. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { median } from "../src/train-metrics.ts"
import { sampleText } from "../test/support.ts"

const [rounds = "20", steps = "1500", interval = "10", ...more] = process.argv.slice(2)
const STEPS = Number(steps)
/** 3 ms a step on one thread. */
const MODEL = ["--nLayer=2", "--nHead=2", "--nEmbd=64", "--context=64", "--batch=4", "--threads=1", `--steps=${STEPS}`]
const ALL = [
  ...["train", "--device=cpu", "--tokenizer=char", "--evalInterval=none", "--sampleInterval=none", "--checkpointInterval=none", "--json"],
  ...["--data=text.txt", ...MODEL, ...more],
]
const SECRET = "upload-secret-1"
const SLOW_MS = 10_000
const cli = [process.execPath, join(import.meta.dir, "../src/cli.ts")]
const folder = mkdtempSync(join(tmpdir(), "alpha-ship-"))
writeFileSync(join(folder, "text.txt"), sampleText(200_000))

const server = Bun.spawn([...cli, "serve", "--json", "--port=0", "--runsOnly", `--runsDir=${join(folder, "server")}`], {
  cwd: folder,
  env: { ...process.env, UPLOAD_SECRET: SECRET },
  stdout: "pipe",
  stderr: "inherit",
})
const { url } = JSON.parse(new TextDecoder().decode((await server.stdout.getReader().read()).value)) as { url: string }
const slow = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  idleTimeout: 60,
  async fetch(request) {
    const body = await request.arrayBuffer()
    await Bun.sleep(SLOW_MS)
    return fetch(url + new URL(request.url).pathname, { method: request.method, headers: request.headers, body })
  },
})

interface Arm {
  readonly every: string
  readonly remote?: string
}
const ARMS = {
  without: { every: String(STEPS) },
  journal: { every: interval },
  "server up": { every: interval, remote: url },
  // Nobody listens at the discard port.
  "server down": { every: interval, remote: "http://127.0.0.1:9" },
  "server slow": { every: interval, remote: `http://127.0.0.1:${slow.port}` },
} as const satisfies Record<string, Arm>
type Name = keyof typeof ARMS
const names = Object.keys(ARMS) as Name[]

interface Taken {
  /** Tokens/s of the whole run, by the median step, and per processor time of the whole process. */
  readonly wall: number
  readonly step: number
  readonly cpu: number
  /** Seconds of processor time. */
  readonly seconds: number
}

async function run(name: Name, round: number): Promise<Taken> {
  const { every, remote }: Arm = ARMS[name]
  const flags = [...ALL, `--logInterval=${every}`, `--run=${name.replace(" ", "-")}-${round}`]
  const { ALPHA_REMOTE_URL: _, ...own } = process.env
  const env = remote === undefined ? own : { ...own, ALPHA_REMOTE_URL: remote, ALPHA_REMOTE_SECRET: SECRET }
  const child = Bun.spawn([...cli, ...flags], { cwd: folder, env, stdout: "pipe", stderr: "ignore" })
  let cpu = 0
  let told: { tokens_per_s: number; ms_per_step: number } | undefined
  let rest = ""
  for await (const bytes of child.stdout as ReadableStream<Uint8Array>) {
    rest += new TextDecoder().decode(bytes)
    const lines = rest.split("\n")
    rest = lines.pop() as string
    const last = lines.findLast((line) => line.startsWith('{"type":"summary"'))
    if (last === undefined) continue
    told = JSON.parse(last) as typeof told
    // What follows is the end's wait for the server, after training.
    const stat = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(" ")
    cpu = Number(stat[13]) + Number(stat[14])
    child.kill("SIGKILL")
  }
  await child.exited
  if (told === undefined) throw new Error(`${name}: no summary`)
  return { wall: told.tokens_per_s, step: 1000 / told.ms_per_step, cpu: 1 / cpu, seconds: cpu / 100 }
}

/** Median with the order statistics that hold it with 95 % (sign test). */
function interval95(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b)
  const k = Math.max(0, Math.floor(sorted.length / 2 - 0.98 * Math.sqrt(sorted.length)))
  const show = (value: number | undefined) => (value ?? Number.NaN).toFixed(4)
  return `${show(median(sorted))} [${show(sorted[k])}, ${show(sorted.at(-1 - k))}]`
}

const series = new Map<Name, Taken[]>(names.map((name) => [name, []]))
for (let round = 0; round < Number(rounds); round++) {
  // Each round begins elsewhere, so that no arm always follows the same other.
  for (let i = 0; i < names.length; i++) {
    const name = names[(i + round) % names.length] as Name
    series.get(name)!.push(await run(name, round))
  }
}
server.kill()
await server.exited
void slow.stop(true)
rmSync(folder, { recursive: true })
for (const key of ["wall", "step", "cpu"] as const) {
  const of = (name: Name) => series.get(name)!.map((taken) => taken[key])
  const what = { wall: "tokens/s", step: "tokens/s by the median step", cpu: "tokens per second of processor time" }[key]
  console.log(`${what}: ratio to "without" of the same round, median of ${rounds} [95 %]`)
  for (const name of names) console.log(`  ${name.padEnd(12)} ${interval95(of(name).map((value, i) => value / of("without")[i]!))}`)
}
const rows = STEPS / Number(interval)
const cost = (name: Name) => series.get(name)!.map(({ seconds }, i) => ((seconds - series.get("without")![i]!.seconds) * 1e6) / rows)
console.log(`microseconds of the trainer's processor time for each of ${rows} rows more than "without", median [95 %]`)
for (const name of names.slice(1)) console.log(`  ${name.padEnd(12)} ${interval95(cost(name))}`)
