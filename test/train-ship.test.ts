/** Real trainers and real servers: what is shipped, whatever is killed or out of reach. */
import { expect, test } from "bun:test"
import { existsSync, mkdtempSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { JOURNALS } from "../src/db.ts"
import { faultProxy } from "./serve-ingest-proxy.ts"
import { sampleText, until } from "./support.ts"
import { RUN, shippingServer, storm, trainerOf } from "./train-storm.ts"

const folder = () => mkdtempSync(join(tmpdir(), "ship-"))

test("a trainer killed 3 times and a server killed and slowed end with the same rows, samples, events and checkpoint", async () => {
  const report = await storm({
    folder: folder(),
    seed: 3,
    steps: 900,
    kills: 3,
    checkpointInterval: 100,
    faults: 0.25,
    slowMs: 300,
    serverMs: 1500,
  })
  expect(report.kills).toBeGreaterThan(0)
  expect(report.rows.metrics).toBeGreaterThanOrEqual(900)
}, 300_000)

test("a server that is away for the first half of a run has all of it at the end", async () => {
  const work = folder()
  writeFileSync(join(work, "text.txt"), sampleText(20_000))
  const server = await shippingServer(join(work, "server"))
  const proxy = await faultProxy(() => server.url, 1, 0)
  proxy.isDown = true
  const child = trainerOf(work, proxy.url)("train", "--data=text.txt", "--run=dark", ...RUN, "--steps=8000", "--checkpointInterval=none")
  const journal = join(work, "runs", "dark", "metrics.jsonl")
  await until("half of it", () => (statSync(journal, { throwIfNoEntry: false })?.size ?? 0) >= 1_200_000 || child.exitCode !== null)
  proxy.isDown = false
  expect([await child.exited, (await new Response(child.stderr).text()).match(/^remote.*$/gm)]).toEqual([
    0,
    [expect.stringContaining("the journal keeps everything"), expect.stringContaining("reached again")],
  ])
  for (const name of JOURNALS.filter((one) => existsSync(join(work, "runs", "dark", `${one}.jsonl`))))
    expect(
      readFileSync(join(work, "server", "dark", `${name}.jsonl`), "utf8") ===
        readFileSync(join(work, "runs", "dark", `${name}.jsonl`), "utf8"),
    ).toBe(true)
  await proxy.close()
  await server.close()
}, 300_000)

test("a run whose server is never reached ends as any other, and says how to send it later; that does", async () => {
  const work = folder()
  writeFileSync(join(work, "text.txt"), sampleText(20_000))
  const dead = trainerOf(work, "http://127.0.0.1:9")
  const child = dead("train", "--data=text.txt", "--run=alone", ...RUN, "--steps=50", "--checkpointInterval=20")
  expect(await child.exited).toBe(0)
  const told = await new Response(child.stderr).text()
  const rows = JOURNALS.map((one) => join(work, "runs", "alone", `${one}.jsonl`))
    .filter((path) => existsSync(path))
    .reduce((sum, path) => sum + readFileSync(path, "utf8").trimEnd().split("\n").length, 0)
  expect(told).toContain(`${rows} rows are not there yet; they go when the run goes on, or with: alpha runs ship runs/alone`)
  const server = await shippingServer(join(work, "server"))
  const ship = trainerOf(work, server.url)("runs", "ship", "runs/alone")
  expect([await ship.exited, await new Response(ship.stderr).text()]).toEqual([0, ""])
  const [own, copy] = ["runs", "server"].map((place) => readFileSync(join(work, place, "alone", "metrics.jsonl"), "utf8"))
  expect(copy).toBe(own!)
  expect(existsSync(join(work, "server", "alone", "last", "model.safetensors"))).toBe(true)
  const { state } = (await (await fetch(`${server.url}/api/runs/alone`)).json()) as { state: string }
  expect(state).toBe("finished")
  await server.close()
}, 300_000)
