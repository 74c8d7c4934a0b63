/** Shipping and taking runs: nothing lost, nothing twice, nothing outside the store. */
import { afterAll, describe, expect, test } from "bun:test"
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { sha256 } from "../src/base-file.ts"
import { uniform } from "../src/base-random.ts"
import { DirectoryStore, JOURNALS, type Journal } from "../src/db.ts"
import { RemoteRuns } from "../src/serve-ingest-store.ts"
import { offsetOf, startShipper } from "../src/train.ts"
import { startTest, type TestServer, workFolder } from "./serve-fake.ts"
import { faultProxy } from "./serve-ingest-proxy.ts"
import { PATIENCE_MS, until } from "./support.ts"

const work = workFolder()
afterAll(() => work.remove())
const SECRET = "upload-secret-1"
const PATIENT = { ms: PATIENCE_MS, failingMs: PATIENCE_MS }
const FAST = { pollMs: 5, backoffMs: 200, timeoutMs: 1000 }

const newRun = (name: string, id = crypto.randomUUID()): { directory: string; id: string } => {
  const directory = join(work.path, "trainer", name)
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, "config.json"), JSON.stringify({ id, config: {}, seed: 1 }))
  return { directory, id }
}
const counts = new Map<string, number>()
/** Appends rows as a trainer does. */
function write(directory: string, journal: Journal, rows: number, salt = 0): void {
  const path = join(directory, `${journal}.jsonl`)
  const from = counts.get(path) ?? 0
  const lines = Array.from({ length: rows }, (_, i) =>
    JSON.stringify({
      seq: from + i,
      time: 1e12 + from + i,
      type: "step",
      step: from + i,
      loss: uniform(salt, 1, 0, from + i),
      text: 'µ\n"',
    }),
  )
  appendFileSync(path, lines.map((line) => `${line}\n`).join(""))
  counts.set(path, from + rows)
}
async function cutTo(directory: string, journal: Journal, rows: number): Promise<void> {
  const path = join(directory, `${journal}.jsonl`)
  truncateSync(path, await offsetOf(path, rows))
  counts.set(path, rows)
}
const same = (directory: string, root: string, name: string): void => {
  for (const journal of JOURNALS) {
    const own = join(directory, `${journal}.jsonl`)
    if (!existsSync(own)) continue
    const [a, b] = [readFileSync(own, "utf8"), readFileSync(join(root, name, `${journal}.jsonl`), "utf8")]
    expect(b.length).toBe(a.length)
    expect(b === a).toBe(true)
  }
}
const serve = (root: string): Promise<TestServer> => startTest([], { environment: { UPLOAD_SECRET: SECRET }, runsDir: root })

describe("shipping", () => {
  test("rows equal the journal after lost requests, lost answers, repeats, 500, 429, delays and killed servers", async () => {
    const root = join(work.path, "faults")
    let server = await serve(root)
    const proxy = await faultProxy(() => server.url, 7, 0.5, 1200)
    const { directory, id } = newRun("storm")
    const weights = new Uint8Array(2_000_000).map((_, i) => (i * 7919) % 251)
    const saved = join(directory, "checkpoints", "step-000009")
    mkdirSync(saved, { recursive: true })
    writeFileSync(join(saved, "model.safetensors"), weights)
    writeFileSync(join(saved, "trainer.safetensors"), "stays here")
    write(directory, "metrics", 1)
    const shipper = startShipper({ url: proxy.url, secret: SECRET, directory, ...FAST })
    // Until every fault has been met, however few requests there are.
    for (let k = 0; k < 48 || Object.keys(proxy.counts).length < 8; k++) {
      write(directory, "metrics", 20 + Math.floor(uniform(3, 1, 0, k) * 300))
      if (k % 3 === 0) write(directory, "events", 7)
      if (k === 4) shipper.checkpoint({ path: saved, step: 9, best: true })
      if (k % 5 === 0) write(directory, "samples", 3)
      await Bun.sleep(30)
      if (k % 6 === 5) {
        await server.close() // as a kill: what it knew is gone, a line may be torn
        const path = join(root, "storm", "metrics.jsonl")
        if (existsSync(path)) appendFileSync(path, '{"seq":99')
        server = await serve(root)
      }
    }
    expect((await shipper.end("finished", PATIENT)).done).toBe(true)
    same(directory, root, "storm")
    expect(readdirSync(join(root, "storm", "best", "/"))).toEqual(["model.safetensors"])
    expect(sha256(readFileSync(join(root, "storm", "best", "model.safetensors")))).toBe(sha256(weights))
    expect(JSON.parse(readFileSync(join(root, "storm", "state.json"), "utf8")).state).toBe("finished")
    expect(JSON.parse(readFileSync(join(root, "storm", "config.json"), "utf8")).id).toBe(id)
    await proxy.close()
    await server.close()
  }, 300_000)

  test("a row longer than other bodies may be is taken", async () => {
    const root = join(work.path, "long")
    const server = await serve(root)
    const { directory } = newRun("long-row")
    writeFileSync(join(directory, "samples.jsonl"), `${JSON.stringify({ seq: 0, time: 1, type: "sample", text: "x".repeat(1_500_000) })}\n`)
    const shipper = startShipper({ url: server.url, secret: SECRET, directory, ...FAST })
    expect((await shipper.end("finished", PATIENT)).done).toBe(true)
    same(directory, root, "long-row")
    await server.close()
  }, 300_000)

  test("the optimizer's state goes along where it is asked for", async () => {
    const root = join(work.path, "moments")
    const server = await serve(root)
    const { directory } = newRun("whole")
    const saved = join(directory, "checkpoints", "step-000003")
    mkdirSync(saved, { recursive: true })
    for (const name of ["model.safetensors", "trainer.safetensors", "trainer.json"]) writeFileSync(join(saved, name), name)
    write(directory, "metrics", 1)
    const shipper = startShipper({ url: server.url, secret: SECRET, directory, withOptimizer: true, ...FAST })
    shipper.checkpoint({ path: saved, step: 3, best: false })
    expect((await shipper.end("finished", PATIENT)).done).toBe(true)
    expect(readdirSync(join(root, "whole", "last", "/")).sort()).toEqual(["model.safetensors", "trainer.json", "trainer.safetensors"])
    await server.close()
  }, 300_000)

  test("a trainer that is killed, rewound and resumed leaves the server with its journal", async () => {
    const root = join(work.path, "kills")
    const server = await serve(root)
    const proxy = await faultProxy(() => server.url, 11, 0.2, 1200)
    const { directory } = newRun("cut")
    for (let k = 0; k < 40; k++) {
      const shipper = startShipper({ url: proxy.url, secret: SECRET, directory, ...FAST })
      write(directory, "metrics", 1 + Math.floor(uniform(5, 1, 0, k) * 200), k)
      write(directory, "events", 2, k)
      await Bun.sleep(uniform(5, 2, 0, k) * 40)
      shipper.close()
      for (const journal of ["metrics", "events"] as const) {
        const have = counts.get(join(directory, `${journal}.jsonl`)) as number
        if (k % 2 === 0) await cutTo(directory, journal, Math.floor(have * (1 - 0.4 * uniform(5, 3, 0, k))))
      }
    }
    const last = startShipper({ url: proxy.url, secret: SECRET, directory, ...FAST })
    expect((await last.end("stopped", PATIENT)).done).toBe(true)
    same(directory, root, "cut")
    await proxy.close()
    await server.close()
  }, 300_000)

  test("an outage is caught up with, and an end without a server says that rows are left", async () => {
    const root = join(work.path, "outage")
    const server = await serve(root)
    const proxy = await faultProxy(() => server.url, 1, 0)
    proxy.isDown = true
    const { directory } = newRun("dark")
    const notes: string[] = []
    const options = { url: proxy.url, secret: SECRET, directory, ...FAST, onNote: (note: string) => void notes.push(note) }
    const first = startShipper(options)
    write(directory, "metrics", 3000)
    await Bun.sleep(50)
    expect(await first.end("stopped", { ms: 10_000, failingMs: 100 })).toEqual({ done: false, rows: 3000 })
    const second = startShipper(options)
    // It has to meet the outage before that ends, on a busy machine too.
    await until("another outage", () => notes.filter((note) => note.includes("the journal keeps everything")).length === 2, 5)
    proxy.isDown = false
    write(directory, "metrics", 500)
    expect(await second.end("finished", PATIENT)).toEqual({ done: true, rows: 0 })
    same(directory, root, "dark")
    expect(notes.filter((note) => note.includes("the journal keeps everything")).length).toBe(2)
    expect(notes.at(-1)).toContain("reached again")
    await proxy.close()
    await server.close()
  }, 300_000)

  test("a run of the server's own machine is left alone", async () => {
    const { directory, id } = newRun("own")
    write(directory, "metrics", 10)
    const server = await serve(join(work.path, "trainer"))
    const before = readFileSync(join(directory, "metrics.jsonl"), "utf8")
    const notes: string[] = []
    const shipper = startShipper({ url: server.url, secret: SECRET, directory, ...FAST, onNote: (note) => void notes.push(note) })
    expect((await shipper.end("finished", PATIENT)).done).toBe(true)
    expect(notes[0]).toContain("nothing is shipped")
    expect(readFileSync(join(directory, "metrics.jsonl"), "utf8")).toBe(before)
    expect(id).toHaveLength(36)
    await server.close()
  })
})

describe("what is refused", () => {
  const root = join(work.path, "refused")
  const post = async (server: TestServer, path: string, body: unknown, headers: Record<string, string> = {}) => {
    const raw = body instanceof Uint8Array
    const answer = await fetch(server.url + path, {
      method: "POST",
      headers: { authorization: `Bearer ${SECRET}`, ...headers },
      body: raw ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body),
    })
    return { status: answer.status, body: (await answer.json()) as Record<string, unknown> }
  }
  const NONE = { metrics: 0, events: 0, samples: 0 }
  const begin = async (server: TestServer, run: string, session = "s1") => {
    const told = { run, session, kind: "start", config: { id: run } }
    const { turn } = (await post(server, "/api/ingest", { ...told, name: run })).body
    return post(server, "/api/ingest", { ...told, turn, keep: NONE })
  }
  const row = (seq: number) => ({ seq, type: "step", step: seq })

  test("malformed, foreign and old messages change nothing", async () => {
    const server = await serve(root)
    await begin(server, "r1")
    const send = (body: object) => post(server, "/api/ingest", { run: "r1", session: "s1", ...body })
    expect((await send({ kind: "metrics", from: 0, rows: [row(0), row(1)] })).body).toEqual({ through: 1 })
    expect((await send({ kind: "metrics", from: 0, rows: [row(0), row(1), row(2)] })).body).toEqual({ through: 2 })
    expect((await send({ kind: "metrics", from: 9, rows: [row(9)] })).body).toEqual({ through: 2 })
    const bad: [object, number][] = [
      [{ kind: "metrics", from: -1, rows: [] }, 400],
      [{ kind: "metrics", from: 3, rows: [1] }, 400],
      [{ kind: "metrics", from: 3, rows: [row(4)] }, 400],
      [{ kind: "metrics", from: 3, rows: "x" }, 400],
      [{ kind: "nonsense", from: 3, rows: [] }, 400],
      [{ kind: "end", state: "running" }, 400],
      [{ kind: "start", name: "../x", config: {}, run: "r2" }, 400],
      [{ kind: "start", name: "..", config: {}, run: "r2" }, 400],
      [{ kind: "metrics", from: 3, rows: [row(3)], run: "../../etc" }, 400],
      [{ kind: "metrics", from: 3, rows: [row(3)], run: "r9" }, 404],
      [{ kind: "start", keep: NONE, config: {} }, 400],
      [{ kind: "start", keep: { metrics: 0 }, turn: 1, config: {}, session: "s9" }, 400],
      [{ kind: "metrics", from: 3, rows: [row(3)], session: "s0" }, 409],
      [{ kind: "end", state: "finished", session: "s0" }, 409],
    ]
    for (const [body, status] of bad) expect([body, (await send(body)).status]).toEqual([body, status])
    expect(await begin(server, "r1", "s2")).toMatchObject({ status: 200 })
    await post(server, "/api/ingest", { run: "r1", session: "s2", kind: "metrics", from: 0, rows: [row(0)] })
    // A start of a process before, that arrives late, cuts nothing, whether or not it had its turn.
    for (const session of ["s1", "s0"])
      expect((await send({ kind: "start", session, turn: 1, keep: NONE, config: { id: "other" } })).status).toBe(409)
    expect((await post(server, "/api/ingest", { run: "r1", session: "s2", kind: "start", turn: 1, keep: NONE, config: {} })).status).toBe(
      200,
    )
    expect(new RemoteRuns(root).get("r1").counts.metrics).toBe(1)
    expect(JSON.parse(readFileSync(join(root, "r1", "config.json"), "utf8"))).toEqual({ id: "r1" })
    expect(readdirSync(root)).toEqual(["r1"])
    await server.close()
  })

  test("a run is one that lives from its first message on", async () => {
    const place = join(work.path, "told")
    const server = await serve(place)
    await post(server, "/api/ingest", { run: "told", session: "s1", kind: "start", name: "told", config: {} })
    expect(await new DirectoryStore(place).run("told")).toMatchObject({ id: "told", state: "running" })
    await server.close()
  })

  test("a server that is killed while it makes a run's directory goes on with it", async () => {
    mkdirSync(join(root, "half"))
    writeFileSync(join(root, "half", "remote.json"), JSON.stringify({ run: "half", turn: 0 }))
    const server = await serve(root)
    expect((await begin(server, "half")).status).toBe(200)
    expect(JSON.parse(readFileSync(join(root, "half", "config.json"), "utf8"))).toEqual({ id: "half" })
    await server.close()
  })

  test("checkpoints: resumed, repeated, with gaps, too long, wrong hashes, paths", async () => {
    const server = await serve(root)
    await begin(server, "up")
    const weights = new Uint8Array(5000).map((_, i) => i % 251)
    const files = [
      { name: "model.safetensors", bytes: weights.length, sha256: sha256(weights) },
      { name: "config.json", bytes: 2, sha256: sha256("{}") },
    ]
    const announce = (other: object = {}) => post(server, "/api/upload", { run: "up", step: 5, best: true, files, ...other })
    for (const name of ["../x.json", "/etc/passwd", "a/b.json", ".hidden.json", "x.sh", "..", ""])
      expect([name, (await announce({ files: [{ ...files[0], name }] })).status]).toEqual([name, 400])
    expect((await announce({ files: [files[0], files[0]] })).status).toBe(400)
    expect((await announce({ step: -1 })).status).toBe(400)
    expect((await announce({ files: [{ ...files[0], bytes: 2 ** 40 }] })).status).toBe(507)
    const upload = (await announce()).body.upload as string
    const chunk = (file: string, offset: number, bytes: Uint8Array, id = upload) =>
      post(server, "/api/upload/chunk", bytes, { "x-upload-id": id, "x-upload-file": file, "x-upload-offset": String(offset) })
    expect((await chunk("model.safetensors", 0, weights.slice(0, 2000))).body).toEqual({ received: 2000 })
    expect((await chunk("model.safetensors", 0, weights.slice(0, 2000))).body).toEqual({ received: 2000 })
    expect((await chunk("model.safetensors", 1000, weights.slice(1000, 3000))).body).toEqual({ received: 3000 })
    expect((await chunk("model.safetensors", 4000, weights.slice(4000))).status).toBe(409)
    expect((await chunk("model.safetensors", 3000, weights)).status).toBe(413)
    expect((await chunk("other.json", 0, weights)).status).toBe(400)
    expect((await chunk("model.safetensors", 3000, weights, "../../x")).status).toBe(400)
    expect((await chunk("model.safetensors", 3000, weights, `up.5.${"0".repeat(32)}`)).status).toBe(404)
    expect((await post(server, "/api/upload/assemble", { upload })).status).toBe(409)
    expect((await announce()).body.received).toEqual({ "model.safetensors": 3000, "config.json": 0 })
    await chunk("model.safetensors", 3000, weights.slice(3000))
    await chunk("config.json", 0, new TextEncoder().encode("[]"))
    expect((await post(server, "/api/upload/assemble", { upload })).status).toBe(422)
    expect(existsSync(join(root, "up", "checkpoints", "step-000005"))).toBe(false)
    await chunk("config.json", 0, new TextEncoder().encode("{}"))
    expect((await post(server, "/api/upload/assemble", { upload })).body).toEqual({ done: true })
    expect((await post(server, "/api/upload/assemble", { upload })).body).toEqual({ done: true })
    expect((await announce()).body.done).toBe(true)
    expect(sha256(readFileSync(join(root, "up", "best", "model.safetensors")))).toBe(files[0]!.sha256)
    expect((await chunk("model.safetensors", 0, new Uint8Array(10))).status).toBeGreaterThanOrEqual(400)
    expect(readdirSync(join(root, "up", "checkpoints"))).toEqual(["step-000005"])
    await server.close()
  })
})
