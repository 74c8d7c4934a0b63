/** The life of a run on other machines: started, watched, stopped, resumed, fetched, over real ssh. */
import { afterAll, beforeAll, expect, test } from "bun:test"
import { copyFileSync, existsSync, linkSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { startFleet, type TestFleet, type TestHost } from "./fleet-hosts.ts"
import { sampleText } from "./support.ts"

const BINARY = join(import.meta.dir, "../alpha")
let fleet: TestFleet

function install(host: TestHost) {
  mkdirSync(join(host.deploy, "releases/1"), { recursive: true })
  try { linkSync(BINARY, join(host.deploy, "releases/1/alpha")) } catch { copyFileSync(BINARY, join(host.deploy, "releases/1/alpha")) }
  symlinkSync("releases/1/alpha", join(host.deploy, "current"))
  writeFileSync(join(host.deploy, "book.txt"), sampleText(20000))
}
const SMALL = ["--data=book.txt", "--tokenizer=char", "--nLayer=1", "--nHead=1", "--nEmbd=16", "--context=16", "--batch=2", "--device=cpu", "--threads=1", "--sampleInterval=none", "--logInterval=100", "--checkpointInterval=1000"]

beforeAll(async () => {
  fleet = await startFleet({ box: "openssh", bb: "busybox" })
  for (const host of fleet.hosts) install(host)
})
afterAll(async () => { await fleet?.close() })

for (const name of ["box", "bb"]) test(`life on ${name}`, async () => {
  const alpha = async (...args: string[]) => {
    const t = performance.now()
    const r = await fleet.alpha(["fleet", ...args])
    console.log(args.join(" "), "→", r.code, `${Math.round(performance.now() - t)} ms\n${r.stdout.slice(0, 1500)}${r.stderr.slice(0, 600)}`)
    return r
  }
  await alpha("status", name)
  await alpha("train", name, ...SMALL, "--steps=30000", "--run=first")
  await alpha("status", name)
  await alpha("train", name, ...SMALL, "--steps=30000", "--run=second")
  await alpha("stop", name)
  await alpha("logs", name, "-n", "4")
  await alpha("resume", name)
  await alpha("logs", name, "-f", "-n", "3")
  await alpha("status", name)
  await alpha("download", name, "--run=first")
  await alpha("--once", "--ascii")
})
