/** A run of ten million metrics rows in Chromium: time to the first chart from a fresh page, bytes until then; before and after its index is made. */
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { chromium } from "playwright-core"
import { median } from "../src/train-metrics.ts"

const [rows = 10_000_000, rounds = 7] = process.argv.slice(2).map(Number)
const folder = mkdtempSync(join(tmpdir(), "alpha-soak-"))
const directory = join(folder, "runs/long")
mkdirSync(directory, { recursive: true })
const start = Date.now() - rows * 250
writeFileSync(join(directory, "config.json"), JSON.stringify({ id: "long", config: {}, seed: 1 }))
writeFileSync(
  join(directory, "events.jsonl"),
  `${JSON.stringify({ seq: 0, time: start, type: "start", device: "cpu", steps: rows, flopsPerToken: 1e9, parameters: 1e8 })}\n`,
)

const file = openSync(join(directory, "metrics.jsonl"), "w")
let text = ""
for (let seq = 0; seq < rows; seq++) {
  const noise = ((seq * 2_654_435_761) % 1000) / 1000
  const loss = (seq === Math.floor(rows / 3) ? 14 : 2.5 + 8 / (1 + seq / 5e4) + noise / 4).toFixed(4)
  text += `{"seq":${seq},"time":${start + seq * 250},"type":"step","step":${seq + 1},"loss":${loss},"lr":0.0003,"gradNorm":${(0.5 + noise).toFixed(4)},"tokens":${(seq + 1) * 8192},"tokens_per_s":${(32_000 + noise * 999).toFixed(1)},"ms_per_step":${(250 + noise).toFixed(2)},"mfu":0.41,"skipped":0}\n`
  if (text.length > 1 << 22) {
    writeSync(file, text)
    text = ""
  }
}
writeSync(file, text)
closeSync(file)
console.log(`${rows} rows, ${(statSync(join(directory, "metrics.jsonl")).size / 1e9).toFixed(2)} GB of journal`)

async function serve(): Promise<{ url: string; pid: number; stop(): Promise<void> }> {
  const cli = join(import.meta.dir, "../src/cli.ts")
  const server = Bun.spawn([process.execPath, cli, "serve", "--runsOnly", `--runsDir=${join(folder, "runs")}`, "--port=0", "--json"], {
    stdout: "pipe",
    stderr: "inherit",
    cwd: folder,
  })
  const reader = server.stdout.getReader()
  const { url } = JSON.parse(new TextDecoder().decode((await reader.read()).value)) as { url: string }
  const stop = async () => {
    server.kill()
    await server.exited
  }
  return { url, pid: server.pid, stop }
}

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] })

/** A page that nothing is cached for: ms from the navigation to the frame behind the first chart, and bytes until then. */
async function look(url: string): Promise<{ ms: number; bytes: number }> {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } })
  const page = await context.newPage()
  const network = await context.newCDPSession(page)
  await network.send("Network.enable")
  let bytes = 0
  network.on("Network.loadingFinished", ({ encodedDataLength }) => {
    bytes += encodedDataLength
  })
  await page.addInitScript(`new MutationObserver((_, all) => {
    if (document.querySelector(".chart .u-over") === null) return
    all.disconnect()
    requestAnimationFrame(() => requestAnimationFrame(() => { window.drawnAt = performance.now() }))
  }).observe(document, { childList: true, subtree: true })`)
  await page.goto(`${url}/runs/long`)
  await page.waitForFunction(() => (globalThis as { drawnAt?: number }).drawnAt !== undefined, undefined, { timeout: 600_000 })
  const ms = (await page.evaluate(() => (globalThis as { drawnAt?: number }).drawnAt)) as number
  await page.screenshot({ path: join(tmpdir(), "alpha-soak-dashboard.png") })
  await context.close()
  return { ms, bytes }
}

const told = ({ ms, bytes }: { ms: number; bytes: number }) => `${ms.toFixed(0)} ms, ${(bytes / 1000).toFixed(0)} kB`
let server = await serve()
console.log(`the first page ever, which reads the journal: ${told(await look(server.url))}`)
await server.stop()
server = await serve()
console.log(`the first page of another server: ${told(await look(server.url))}`)
const series: { ms: number; bytes: number }[] = []
for (let round = 0; round < rounds; round++) series.push(await look(server.url))
await server.stop()
await browser.close()
rmSync(folder, { recursive: true, force: true })
const ms = median(series.map((one) => one.ms))
const bytes = Math.max(...series.map((one) => one.bytes))
console.log(
  `further pages: ${series.map((one) => one.ms.toFixed(0)).join(" ")} ms; median ${ms.toFixed(0)} ms; ${(bytes / 1000).toFixed(0)} kB`,
)
const isGood = ms < 1000 && bytes <= 300_000
console.log(isGood ? "within 1 s and 300 kB" : "BEYOND 1 s or 300 kB")
process.exit(isGood ? 0 : 1)
