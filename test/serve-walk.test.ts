/** What somebody hostile sends to the routes of runs: nothing answers without its key, and nothing is written that should not be. */
import { afterAll, beforeAll, expect, test } from "bun:test"
import {
  appendFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { sha256 } from "../src/base-file.ts"
import { uniform } from "../src/base-random.ts"
import { rewindJournal } from "../src/db.ts"
import { ROUTES } from "../src/serve.ts"
import { startShipper } from "../src/train.ts"
import { PATIENCE_MS, PROGRAM, until } from "./support.ts"

const KEYS = { infer: "infer-key-1", read: "read-key-12", ingest: "ingest-key-1", admin: "admin-key-12" }
const work = mkdtempSync(join(tmpdir(), "walk-"))
const store = join(work, "store")
let [url, port] = ["", 0]
let child: Bun.Subprocess<"ignore", "pipe", "inherit">

beforeAll(async () => {
  mkdirSync(join(work, "outside"))
  mkdirSync(store)
  writeFileSync(join(work, "outside", "secret.txt"), "secret")
  symlinkSync("../outside", join(store, "escape"))
  symlinkSync("../outside/nothing", join(store, "dangling"))
  child = Bun.spawn([...PROGRAM, "serve", "--runsOnly", "--json", "--port=0", `--runsDir=${store}`], {
    cwd: work,
    env: {
      ...process.env,
      ALPHA_API_KEYS: KEYS.infer,
      ALPHA_READ_KEYS: KEYS.read,
      UPLOAD_SECRET: KEYS.ingest,
      ALPHA_ADMIN_KEY: KEYS.admin,
    },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  })
  const told = JSON.parse(new TextDecoder().decode((await child.stdout.getReader().read()).value)) as { url: string; port: number }
  ;[url, port] = [told.url, told.port]
  await begin("r1")
}, 300_000)
afterAll(async () => {
  child.kill("SIGTERM")
  await child.exited
})

/** Everything below the work folder: kinds, link targets, contents. */
function everything(folder = work, prefix = ""): Record<string, string> {
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .flatMap((name): [string, string][] => {
        const path = join(folder, name)
        const stat = lstatSync(path)
        if (stat.isSymbolicLink()) return [[prefix + name, `-> ${readlinkSync(path)}`]]
        if (stat.isDirectory()) return [[`${prefix}${name}/`, ""], ...Object.entries(everything(path, `${prefix}${name}/`))]
        return [[prefix + name, name === "state.json" ? stateOf(path) : sha256(readFileSync(path))]]
      }),
  )
}
const stateOf = (path: string): string => (JSON.parse(readFileSync(path, "utf8")) as { state: string }).state

/** Status of a request whose bytes are sent as they are, 0 where the connection is closed instead: clients tidy paths up before they send them. */
function raw(method: string, path: string, headers: Record<string, string> = {}, body = ""): Promise<number> {
  const lines = Object.entries({
    host: `127.0.0.1:${port}`,
    connection: "close",
    "content-length": String(Buffer.byteLength(body)),
    ...headers,
  })
  return new Promise((resolve) => {
    let text = ""
    const socket = connect(port, "127.0.0.1", () =>
      socket.write(
        Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n${body}`, "latin1"),
      ),
    )
    socket.on("data", (bytes) => {
      text += bytes.toString("latin1")
      if (text.includes("\r\n")) socket.destroy() // a stream of events would not end
    })
    const end = () => resolve(Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0))
    socket.on("error", end)
    socket.on("close", end)
  })
}

const refuses = (status: number): boolean => status === 0 || status >= 400

async function post(path: string, body: unknown, headers: Record<string, string> = {}) {
  const isRaw = body instanceof Uint8Array || typeof body === "string"
  const answer = await fetch(url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${KEYS.ingest}`, ...headers },
    body: isRaw ? (body as string) : JSON.stringify(body),
  })
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> }
}
async function begin(run: string, name = run): Promise<void> {
  const told = { run, session: "s1", kind: "start", config: { id: run } }
  const { turn } = (await post("/api/ingest", { ...told, name })).body
  await post("/api/ingest", { ...told, turn, keep: { metrics: 0, events: 0, samples: 0 } })
}

test("no route answers without its key, however its path and method are written", async () => {
  const before = everything()
  for (const { path, scope } of ROUTES.filter((route) => route.scope !== "open")) {
    const plain = path.replace(/:id(\{.*?\})?/, "r1")
    const spellings = [plain, `${plain}/`, `/${plain}`, `/x/..${plain}`, `/.${plain}`, `${plain}%00`, `${plain};a=b`, plain.toUpperCase()]
    spellings.push(
      plain.replace("/", "/%2e/"),
      plain.replace(/.$/, (last) => `%${last.charCodeAt(0).toString(16)}`),
      `${plain}?key=${KEYS[scope as "read"]}`,
    )
    const granting = new Set<string>(ROUTES.filter((route) => route.path === path).map((route) => route.scope))
    const others = Object.entries(KEYS).flatMap(([name, key]) => (granting.has(name) ? [] : [key]))
    for (const spelling of spellings)
      for (const method of ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"])
        expect([method, spelling, refuses(await raw(method, spelling))]).toEqual([method, spelling, true])
    for (const key of [...others, "", "wrong-key-1", `${KEYS[scope as "read"]}x`])
      for (const method of ["GET", "POST", "PATCH"])
        expect([method, key, path, refuses(await raw(method, plain, { authorization: `Bearer ${key}` }, "{}"))]).toEqual([
          method,
          key,
          path,
          true,
        ])
    const override = { "x-http-method-override": "GET", "x-original-url": plain, "x-forwarded-for": "127.0.0.1" }
    expect(await raw("POST", "/health", override)).toBe(405)
  }
  expect(everything()).toEqual(before)
}, 300_000)

const LONG = "a".repeat(70_000)
/** Names that are no names. */
const HOSTILE: readonly unknown[] = [
  ...[
    "..",
    ".",
    "",
    "../x",
    "../../outside/x",
    "/etc/passwd",
    "a/b",
    "a\\..\\b",
    "C:\\x",
    ".hidden",
    "-rf",
    "~root",
    "a\0b",
    "a\nb",
    "a b",
  ],
  ...[
    "%2e%2e%2fx",
    "..%2fx",
    "%00",
    "..;/x",
    "é",
    "\u202ex",
    "$HOME",
    "$(id)",
    "`id`",
    "*",
    "__proto__/x",
    LONG,
    "r1/../../x",
    "r1\u2215x",
  ],
  ...[null, 5, true, ["r1"], { toString: "r1" }, -1, 2 ** 60],
]

test("hostile names, numbers and bodies are refused, and nothing is written", async () => {
  const file = { name: "config.json", bytes: 2, sha256: sha256("{}") }
  const announced = (await post("/api/upload", { run: "r1", step: 7, best: true, files: [file] })).body.upload as string
  const before = everything()
  const refused = async (what: unknown, sent: Promise<{ status: number }>) => {
    const { status } = await sent
    expect([what, status, [400, 404, 409, 413].includes(status)]).toEqual([what, status, true])
  }
  const row = (seq: number) => ({ seq, type: "step", step: seq })
  for (const bad of HOSTILE) {
    await refused(["run", bad], post("/api/ingest", { run: bad, session: "s1", kind: "metrics", from: 0, rows: [row(0)] }))
    await refused(["new run", bad], post("/api/ingest", { run: bad, session: "s1", kind: "start", name: "x", config: {} }))
    await refused(["session", bad], post("/api/ingest", { run: "r1", session: bad, kind: "metrics", from: 0, rows: [row(0)] }))
    await refused(["name", bad], post("/api/ingest", { run: "fresh", session: "s1", kind: "start", name: bad, config: {} }))
    await refused(["kind", bad], post("/api/ingest", { run: "r1", session: "s1", kind: bad, from: 0, rows: [row(0)] }))
    await refused(
      ["from", bad],
      post("/api/ingest", { run: "r1", session: "s1", kind: "metrics", from: bad === 5 ? -5 : bad, rows: [row(0)] }),
    )
    await refused(["rows", bad], post("/api/ingest", { run: "r1", session: "s1", kind: "metrics", from: 0, rows: bad }))
    await refused(
      ["row", bad],
      post("/api/ingest", { run: "r1", session: "s1", kind: "metrics", from: 0, rows: [{ ...row(0), type: 5, x: bad }] }),
    )
    await refused(["file", bad], post("/api/upload", { run: "r1", step: 8, files: [{ ...file, name: bad }] }))
    await refused(["file of", bad], post("/api/upload", { run: bad, step: 8, files: [file] }))
    await refused(["step", bad], post("/api/upload", { run: "r1", step: bad === 5 ? 0.5 : bad, files: [file] }))
    await refused(["bytes", bad], post("/api/upload", { run: "r1", step: 8, files: [{ ...file, bytes: bad === 5 ? 0 : bad }] }))
    await refused(["hash", bad], post("/api/upload", { run: "r1", step: 8, files: [{ ...file, sha256: bad }] }))
    await refused(["upload", bad], post("/api/upload/assemble", { upload: bad }))
    await refused(["body", bad], post("/api/upload", bad))
    if (typeof bad !== "string" || bad === "") continue
    const chunk = {
      authorization: `Bearer ${KEYS.ingest}`,
      "x-upload-id": announced,
      "x-upload-file": "config.json",
      "x-upload-offset": "0",
    }
    for (const name of ["x-upload-id", "x-upload-file", "x-upload-offset"])
      await refused(
        [name, bad],
        raw("POST", "/api/upload/chunk", { ...chunk, [name]: bad.slice(0, 2000).replace("\n", " ") }, "xx").then((status) => ({ status })),
      )
    for (const part of ["", "/metrics", "/samples", "/events", "/config", "/checkpoints"]) {
      const key = { authorization: `Bearer ${KEYS.read}` }
      for (const id of [encodeURIComponent(bad.slice(0, 5000)), bad.slice(0, 5000).replace(/[\s\0]/g, "_")])
        expect([part, id, refuses(await raw("GET", `/api/runs/${id}${part}`, key)) || !/[^./]/.test(id)]).toEqual([part, id, true])
    }
  }
  const key = { authorization: `Bearer ${KEYS.ingest}` }
  for (const text of [
    "",
    "{",
    "[".repeat(200_000),
    '{"run":"r1","run":',
    "\0",
    "[]",
    "null",
    '"r1"',
    "\xff\xfe{}",
    `{"a":${"1".repeat(5000)}`,
  ])
    for (const path of ["/api/ingest", "/api/upload", "/api/upload/assemble"]) await refused([path, text.slice(0, 20)], post(path, text))
  for (const path of ["/api/ingest", "/api/upload", "/api/upload/chunk", "/api/upload/assemble"]) {
    await refused(
      ["too long", path],
      post(path, new Uint8Array(3 << 20), { "x-upload-id": announced, "x-upload-file": "config.json", "x-upload-offset": "0" }),
    )
    // A length that is a lie: the connection ends before that much came, or is refused at once.
    expect([0, 400, 413].includes(await raw("POST", path, { ...key, "content-length": "99999999999" }, "{}"))).toBe(true)
  }
  await refused(
    "rows",
    post("/api/ingest", { run: "r1", session: "s1", kind: "metrics", from: 0, rows: Array(10_001).fill({ type: "x" }) }),
  )
  await refused("config", post("/api/ingest", { run: "big", session: "s1", kind: "start", name: "big", config: [] }))
  await refused("files", post("/api/upload", { run: "r1", step: 8, files: Array(65).fill(file) }))
  expect(everything()).toEqual(before)
}, 300_000)

test("links in the store are not followed to write", async () => {
  const outside = everything(join(work, "outside"))
  for (const name of ["escape", "dangling"]) {
    await begin(`id-${name}`, name)
    expect(
      (await post("/api/ingest", { run: `id-${name}`, session: "s1", kind: "metrics", from: 0, rows: [{ type: "step" }] })).body,
    ).toEqual({ through: 0 })
    expect(readdirSync(store)).toContain(`${name}-id-${name}`)
  }
  expect(everything(join(work, "outside"))).toEqual(outside)
})

interface Sent {
  readonly path: string
  readonly headers: Headers
  readonly body: ArrayBuffer
}

test("everything two trainers ever sent, sent again in any order, changes nothing", async () => {
  const sent: Sent[] = []
  const recorder = Bun.serve({
    idleTimeout: 0,
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const one = { path: new URL(request.url).pathname, headers: new Headers(request.headers), body: await request.arrayBuffer() }
      one.headers.delete("host")
      sent.push(one)
      return again(one)
    },
  })
  const again = ({ path, headers, body }: Sent) => fetch(url + path, { method: "POST", headers, body })
  const directory = join(work, "trainer", "twice")
  mkdirSync(directory, { recursive: true })
  const id = crypto.randomUUID()
  const journal = join(directory, "metrics.jsonl")
  const life = async (from: number, to: number, steps: readonly number[]) => {
    writeFileSync(join(directory, "config.json"), JSON.stringify({ id, config: { keepCheckpoints: { value: 1 }, to: { value: to } } }))
    for (let seq = from; seq < to; seq++)
      appendFileSync(journal, `${JSON.stringify({ seq, time: 1e12 + to, type: "step", step: seq, loss: to / seq })}\n`)
    const shipper = startShipper({ url: `http://127.0.0.1:${recorder.port}`, secret: KEYS.ingest, directory, pollMs: 5 })
    for (const step of steps) {
      const path = join(directory, "checkpoints", `step-${String(step).padStart(6, "0")}`)
      mkdirSync(path, { recursive: true })
      writeFileSync(join(path, "model.safetensors"), new Uint8Array(700_000).fill(step + to))
      shipper.checkpoint({ path, step, best: false })
      const isSent = () => sent.some((one) => one.path.endsWith("assemble") && new TextDecoder().decode(one.body).includes(`.${step}.`))
      await until(`the checkpoint of step ${step}`, isSent)
    }
    expect((await shipper.end("finished", { ms: PATIENCE_MS, failingMs: PATIENCE_MS })).done).toBe(true)
  }
  await life(0, 2500, [1000, 2000])
  rewindJournal(journal, 1200)
  await life(1201, 2600, [1500, 2500])
  const before = everything()
  expect(readFileSync(join(store, "twice", "metrics.jsonl"), "utf8")).toBe(readFileSync(journal, "utf8"))
  expect(readdirSync(join(store, "twice", "checkpoints"))).toEqual(["step-002500"])
  expect(before["store/twice/last"]).toBe("-> checkpoints/step-002500")
  const first = [...sent]
  for (let round = 0; round < 3; round++) {
    const shuffled = first.map((one, i) => ({ one, at: uniform(5, round, 0, i) })).sort((a, b) => a.at - b.at)
    for (const { one } of shuffled) expect((await again(one)).status).toBeLessThan(500)
  }
  expect(everything()).toEqual(before)
  await recorder.stop(true)
}, 300_000)
