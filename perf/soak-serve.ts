/** 10,000 connections killed at random moments, then twice the load a server can bear for 60 s: nothing is left, and what is answered stays in time. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { uniform } from "../src/base-random.ts"
import { formatDuration } from "../src/base-term.ts"
import { type Load, report, runLoad } from "../src/bench.ts"
import { workFolder, writeModel } from "../test/serve-fake.ts"

const [CYCLES, SECONDS] = [Number(process.argv[2] ?? 10_000), Number(process.argv[3] ?? 60)]
const QUEUE_SECONDS = 2
const work = workFolder()
const model = writeModel(join(work.path, "tiny"))
// Large enough that the model is what takes the time, and not the client on the same machine.
const larger = writeModel(join(work.path, "larger"), { nLayer: 4, nEmbd: 256 })
const child = Bun.spawn(
  [
    process.execPath,
    join(import.meta.dir, "../src/cli.ts"),
    ...["serve", "--json", "--port=0", "--device=cpu", "--threads=1", `--model=${model}`, `--model=${larger}`, "--slots=16"],
    ...["--queueRequests=64", `--queueTimeout=${QUEUE_SECONDS}`],
  ],
  { cwd: work.path, stdin: "ignore", stdout: "pipe", stderr: "inherit" },
)
const { url, port } = JSON.parse(new TextDecoder().decode((await child.stdout.getReader().read()).value)) as { url: string; port: number }

interface Held {
  readonly running: number
  readonly waiting: number
  readonly pages: number
  readonly files: number
  readonly megabytes: number
}

/** What the server holds; Linux tells files and memory. */
async function held(): Promise<Held> {
  const { running, waiting, models } = (await (await fetch(`${url}/slots`)).json()) as {
    running: number
    waiting: number
    models: { pages_used: number }[]
  }
  const megabytes = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]) / 1024
  return { running, waiting, pages: models[0]!.pages_used, files: readdirSync(`/proc/${child.pid}/fd`).length, megabytes }
}

/** Waits until nothing runs, and the sockets that were killed are closed. */
async function quiet(files = Number.POSITIVE_INFINITY): Promise<Held> {
  for (let i = 0; ; i++) {
    const now = await held()
    if ((now.running + now.waiting + now.pages === 0 && now.files <= files) || i === 100) return now
    await Bun.sleep(50)
  }
}

/** Opens a connection, sends a request, and resets it some time later: before, in, or after its answer. */
async function cycle(i: number): Promise<void> {
  const draw = (n: number) => uniform(7, i, 0, n)
  const body = JSON.stringify({
    prompt: "the sea and the whale ".repeat(1 + Math.floor(draw(0) * 40)),
    max_tokens: 200,
    stream: draw(1) < 0.5,
    seed: i,
  })
  const head = `POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n`
  const whole = head + body
  const socket = await Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {}, error() {} } })
  socket.write(draw(2) < 0.1 ? whole.slice(0, Math.floor(whole.length * draw(3))) : whole)
  await Bun.sleep(draw(4) ** 2 * 30)
  socket.terminate()
}

async function cycles(count: number, from: number): Promise<void> {
  let next = from
  const worker = async () => {
    for (let i = next++; i < from + count; i = next++) await cycle(i)
  }
  await Promise.all(Array.from({ length: 16 }, worker))
}

let begun = performance.now()
// The heap finds its size first: it swings by some tens of megabytes from then on.
await cycles(CYCLES / 2, 0)
const calm = await quiet()
await cycles(CYCLES, CYCLES / 2)
const after = await quiet(calm.files)
const leaks = after.running + after.waiting + after.pages > 0 || after.files > calm.files || after.megabytes > calm.megabytes + 64
console.log(
  `${CYCLES} connections killed: ${JSON.stringify(calm)} before, ${JSON.stringify(after)} after (${formatDuration(performance.now() - begun)})`,
)

begun = performance.now()
const load: Load = {
  baseUrl: url,
  model: "larger",
  key: undefined,
  requests: 160,
  inputTokens: 64,
  outputTokens: 128,
  vocabSize: 256,
  rate: Number.POSITIVE_INFINITY,
  burstiness: 1,
  concurrency: 16,
  seed: 5,
  goodput: {},
}
await runLoad({ ...load, requests: 32, seed: 4 })
const closed = async (seed: number) => report(load, await runLoad({ ...load, seed })).request_throughput as number
const before = await closed(5)
const rate = 2 * before
const flood = {
  ...load,
  seed: 6,
  rate,
  requests: Math.floor(rate * SECONDS),
  concurrency: Number.POSITIVE_INFINITY,
  goodput: { ttft: QUEUE_SECONDS * 1000 + 500 },
}
/** Requests that started, and those of them that had waited less than the deadline, since the server began. */
async function started(): Promise<{ all: number; inTime: number }> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const of = (rest: string) => Number(new RegExp(`^alpha_request_queue_seconds_${rest} (\\d+)$`, "m").exec(text)?.[1] ?? 0)
  return { all: of('count\\{model="larger"\\}'), inTime: of(`bucket\\{model="larger",le="${QUEUE_SECONDS}"\\}`) }
}
const queuedBefore = await started()
const told = report(flood, await runLoad(flood))
const queued = await started()
const inTime = (queued.inTime - queuedBefore.inTime) / (queued.all - queuedBefore.all)
// The machine may be faster or slower by now: the peak is the mean of before and after.
const peak = (before + (await closed(7))) / 2
const errors = told.errors as string[]
const faults = errors.filter((error) => !error.startsWith("429"))
const share = (told.request_goodput as number) / peak
console.log(
  `${rate.toFixed(0)} requests/s for ${SECONDS} s, peak ${before.toFixed(1)} before and ${(2 * peak - before).toFixed(1)} after: ${told.completed} answered, ${told.failed} refused, goodput ${(share * 100).toFixed(1)} % of the peak, ` +
    `first token after ${(told.median_ttft_ms as number).toFixed(0)} ms, p99 ${(told.p99_ttft_ms as number).toFixed(0)} ms; ${(100 * inTime).toFixed(2)} % waited less than ${QUEUE_SECONDS} s; other errors: ${JSON.stringify(faults)} (${formatDuration(performance.now() - begun)})`,
)
child.kill("SIGTERM")
const code = await child.exited
work.remove()
process.exit(leaks || faults.length > 0 || share < 0.95 || !(inTime >= 0.99) || code !== 0 ? 1 : 0)
