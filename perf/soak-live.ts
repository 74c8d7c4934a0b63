/** 50 runs ship 10 steps a second each to one server that two listeners follow live: processor time and memory of the server. */
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { startShipper } from "../src/train.ts"
import { SECRET, shippingServer } from "../test/train-storm.ts"

/** With a pollMs of 100 every row is a message of its own; trainers look once a second. */
const [seconds = 60, runs = 50, rate = 10, pollMs = 1000] = process.argv.slice(2).map(Number)
const folder = mkdtempSync(join(tmpdir(), "alpha-soak-"))
const server = await shippingServer(join(folder, "server"))
const directories = Array.from({ length: runs }, (_, i) => join(folder, "trainer", `run-${i}`))
const shippers = directories.map((directory) => {
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, "config.json"), JSON.stringify({ id: crypto.randomUUID(), config: {}, seed: 1 }))
  return startShipper({ url: server.url, secret: SECRET, directory, pollMs })
})

let heard = 0
const gone = new AbortController()
/** Counts the rows that a listener is told of. */
async function listen(query: string): Promise<void> {
  const answer = await fetch(`${server.url}/api/training/live${query}`, { signal: gone.signal })
  for await (const bytes of answer.body!) heard += new TextDecoder().decode(bytes).split("event: step").length - 1
}

let step = 0
const writing = setInterval(() => {
  const row = {
    seq: step,
    time: Date.now(),
    type: "step",
    step: step + 1,
    loss: 3 / (1 + step / 1000),
    lr: 1e-3,
    gradNorm: 1.5,
    tokens: 8192 * step,
  }
  const line = `${JSON.stringify({ ...row, tokens_per_s: 81920.5, ms_per_step: 100.25, mfu: 0.41, skipped: 0, elapsed_s: step / 10, eta_s: 999.5 })}\n`
  for (const directory of directories) appendFileSync(join(directory, "metrics.jsonl"), line)
  step++
}, 1000 / rate)

/** Seconds of processor time so far, megabytes now, open files. */
function taken() {
  const stat = readFileSync(`/proc/${server.pid}/stat`, "utf8").split(" ")
  const rss = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))?.[1]) / 1024
  return { cpu: (Number(stat[13]) + Number(stat[14])) / 100, rss, files: readdirSync(`/proc/${server.pid}/fd`).length }
}

await Bun.sleep(3000)
for (const query of ["", "?run=run-0"]) void listen(query).catch(() => {})
await Bun.sleep(5000)
const series: number[] = []
const memory: number[] = []
const PARTS = 6
let before = taken()
for (let part = 0; part < PARTS; part++) {
  const [from, rows] = [performance.now(), heard]
  await Bun.sleep((seconds * 1000) / PARTS)
  const now = taken()
  const passed = (performance.now() - from) / 1000
  series.push((now.cpu - before.cpu) / passed)
  memory.push(now.rss)
  console.log(
    `${(now.cpu - before.cpu).toFixed(2)} s of ${passed.toFixed(1)} s, ${now.rss.toFixed(0)} MB, ${now.files} files, ${((heard - rows) / passed).toFixed(0)} rows/s heard`,
  )
  before = now
}
clearInterval(writing)
gone.abort()
for (const shipper of shippers) await shipper.end("finished", { ms: 30_000, failingMs: 30_000 })
const lost = directories.filter(
  (directory, i) =>
    readFileSync(join(directory, "metrics.jsonl"), "utf8") !== readFileSync(join(folder, "server", `run-${i}`, "metrics.jsonl"), "utf8"),
)
await server.close()
rmSync(folder, { recursive: true })
const cores = series.reduce((a, b) => a + b, 0) / PARTS
console.log(
  `${runs} runs × ${rate}/s: ${cores.toFixed(3)} cores, ${Math.min(...memory).toFixed(0)} to ${Math.max(...memory).toFixed(0)} MB, ${lost.length} runs differ`,
)
process.exit(cores < 0.5 && lost.length === 0 ? 0 : 1)
