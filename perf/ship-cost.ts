/** What a journal and a server cost training, each beside a run without at the same moment: bun perf/ship-cost.ts [ROUNDS [STEPS [LOG-INTERVAL [TRAIN-FLAG …]]]]. */
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

async function run(name: Name, label: string): Promise<Taken> {
  const { every, remote }: Arm = ARMS[name]
  const flags = [...ALL, `--logInterval=${every}`, `--run=${label.replace(" ", "-")}`]
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

/** Both of a pair have the same machine at the same moment, whatever else runs on it. */
interface Pair {
  readonly arm: Taken
  readonly plain: Taken
}
const series = new Map<Name, Pair[]>(names.map((name) => [name, []]))
for (let round = 0; round < Number(rounds); round++) {
  for (const name of names) {
    const both = [() => run(name, `${name}-${round}`), () => run("without", `beside-${name}-${round}`)]
    // Each is first in every other round.
    const [first, second] = await Promise.all((round % 2 === 0 ? both : both.toReversed()).map((start) => start()))
    series.get(name)!.push(round % 2 === 0 ? { arm: first!, plain: second! } : { arm: second!, plain: first! })
  }
}
server.kill()
await server.exited
void slow.stop(true)
rmSync(folder, { recursive: true })
for (const key of ["wall", "step", "cpu"] as const) {
  const what = { wall: "tokens/s", step: "tokens/s by the median step", cpu: "tokens per second of processor time" }[key]
  console.log(`${what}: ratio to a run without, median of ${rounds} pairs [95 %]`)
  for (const name of names)
    console.log(`  ${name.padEnd(12)} ${interval95(series.get(name)!.map(({ arm, plain }) => arm[key] / plain[key]))}`)
}
const rows = STEPS / Number(interval)
console.log(`microseconds of the trainer's processor time for each of ${rows} rows more than without, median [95 %]`)
for (const name of names)
  console.log(`  ${name.padEnd(12)} ${interval95(series.get(name)!.map(({ arm, plain }) => ((arm.seconds - plain.seconds) * 1e6) / rows))}`)
