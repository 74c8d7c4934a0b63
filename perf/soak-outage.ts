/** A run of 300,000 logged steps whose server is away for the first half, or for ever: the trainer's memory and speed, and when all has arrived. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readJournal } from "../src/db.ts"
import { median } from "../src/train-metrics.ts"
import { faultProxy } from "../test/serve-ingest-proxy.ts"
import { sampleText } from "../test/support.ts"
import { RUN, shippingServer, trainerOf } from "../test/train-storm.ts"

const [steps = 300_000, rounds = 3] = process.argv.slice(2).map(Number)
const folder = mkdtempSync(join(tmpdir(), "alpha-soak-"))
writeFileSync(join(folder, "text.txt"), sampleText(20_000))
const server = await shippingServer(join(folder, "server"))
const proxy = await faultProxy(() => server.url, 1, 0)
const rowsOf = (path: string) => (existsSync(path) ? readFileSync(path, "utf8").split("\n").length - 1 : 0)

/** Trains once; the way is open from step `open` on. */
async function run(name: string, remote: string, open: number) {
  const child = trainerOf(folder, remote)(
    "train",
    "--data=text.txt",
    `--run=${name}`,
    ...RUN,
    `--steps=${steps}`,
    "--checkpointInterval=none",
  )
  proxy.isDown = true
  const journal = join(folder, "runs", name, "metrics.jsonl")
  let [most, isDone] = [0, false]
  void child.exited.then(() => {
    isDone = true
  })
  const opened = () => Number(readFileSync(journal).byteLength / 300) >= open
  while (!isDone) {
    const rss = /^VmRSS:\s+(\d+)/m.exec(
      await Bun.file(`/proc/${child.pid}/status`)
        .text()
        .catch(() => ""),
    )
    if (rss !== null) most = Math.max(most, Number(rss[1]) / 1024)
    if (proxy.isDown && existsSync(journal) && opened()) proxy.isDown = false
    await Bun.sleep(200)
  }
  const ended = Date.now()
  const times = readJournal(journal)
    .filter(({ type }) => type === "step")
    .map(({ time }) => time)
  const half = times.length >> 1
  const rate = (from: number, to: number) => ((to - from) * 1000) / (times[to - 1]! - times[from]!)
  return {
    name,
    code: child.exitCode,
    megabytes: most,
    firstHalf: rate(Math.floor(half / 5), half), // the first tenth warms up
    secondHalf: rate(half, times.length),
    secondsAfterTraining: (ended - times.at(-1)!) / 1000,
    there: rowsOf(join(folder, "server", name, "metrics.jsonl")) / rowsOf(journal),
    told: (await new Response(child.stderr).text()).split("\n").filter((line) => line.startsWith("remote")),
  }
}

const all: Awaited<ReturnType<typeof run>>[] = []
for (let round = 0; round < rounds; round++) {
  all.push(await run(`plain-${round}`, "", steps + 1))
  all.push(await run(`half-${round}`, proxy.url, steps / 2))
  all.push(await run(`never-${round}`, proxy.url, Number.POSITIVE_INFINITY))
}
await proxy.close()
await server.close()
rmSync(folder, { recursive: true })
for (const kind of ["plain", "half", "never"]) {
  const own = all.filter(({ name }) => name.startsWith(kind))
  const of = (key: "megabytes" | "firstHalf" | "secondHalf" | "secondsAfterTraining" | "there") => median(own.map((one) => one[key]))
  console.log(
    `${kind.padEnd(6)} ${of("megabytes").toFixed(0)} MB at most, ${of("firstHalf").toFixed(0)} then ${of("secondHalf").toFixed(0)} steps/s, ` +
      `ended ${of("secondsAfterTraining").toFixed(1)} s after its last step with ${(of("there") * 100).toFixed(1)} % of its rows there`,
  )
}
console.log(all.flatMap(({ name, told }) => told.map((line) => `${name}: ${line}`)).join("\n"))
process.exit(all.some(({ code }) => code !== 0) || all.some(({ name, there }) => name.startsWith("half") && there !== 1) ? 1 : 0)
