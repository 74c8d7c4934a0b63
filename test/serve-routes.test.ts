/** Who may call what: every route with and without its key, cookies, origins, hosts, limits. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { join } from "node:path"
import { sha256 } from "../src/base-file.ts"
import { checkBind, keyOf, readKeys } from "../src/serve-auth.ts"
import type { ErrorBody } from "../src/serve-error.ts"
import { ROUTES } from "../src/serve-routes.ts"
import { startTest, type TestServer, workFolder, writeModel } from "./serve-fake.ts"
import { ERROR, violations } from "./serve-schema.ts"

const work = workFolder()
const model = writeModel(join(work.path, "tiny"))
afterAll(() => work.remove())

const KEYS = { infer: "infer-key-1", read: "read-key-12", ingest: "ingest-key-1", admin: "admin-key-12" }
const environment = {
  ALPHA_API_KEYS: `other-key-1, ${KEYS.infer}`,
  ALPHA_READ_KEYS: KEYS.read,
  UPLOAD_SECRET: KEYS.ingest,
  ALPHA_ADMIN_KEY: KEYS.admin,
}

/** What /api/upload answers for the body below. */
const UPLOAD = `run-1.5.${sha256(JSON.stringify({ run: "run-1", step: 5, best: false, files: [{ name: "config.json", bytes: 1, sha256: sha256("x") }] })).slice(0, 32)}`

/** A request that each route answers well. */
const BODIES: Record<string, unknown> = {
  "/v1/completions": { prompt: "the sea" },
  "/v1/chat/completions": { messages: [{ role: "user", content: "the sea" }] },
  "/v1/responses": { input: "the sea" },
  "/v1/embeddings": { input: "the sea" },
  "/tokenize": { prompt: "the sea" },
  "/detokenize": { tokens: [1, 2] },
  "/v1/load": { model: "tiny" },
  "/v1/unload": { model: "tiny" },
  "/api/generate": { prompt: "the sea" },
  "/api/ingest": { run: "run-1", session: "s1", kind: "start", name: "novels", config: {} },
  "/api/upload": { run: "run-1", step: 5, files: [{ name: "config.json", bytes: 1, sha256: sha256("x") }] },
  "/api/upload/assemble": { upload: UPLOAD },
  "/api/runs/:id": { notes: "good" },
  "/api/chat": { messages: [{ role: "user", content: "the sea" }] },
}
const PATHS: Record<string, string> = {
  "/v1/models/:id{.+}": "/v1/models/tiny",
  "/assets/:name": "/assets/page.css",
  "/api/runs/:id": "/api/runs/run-1",
  "/api/runs/:id/metrics": "/api/runs/run-1/metrics",
  "/api/runs/:id/checkpoints": "/api/runs/run-1/checkpoints",
  "/api/runs/:id/samples": "/api/runs/run-1/samples",
  "/api/runs/:id/events": "/api/runs/run-1/events",
  "/api/runs/:id/config": "/api/runs/run-1/config",
  "/api/inference": "/api/inference?query=the%20sea&steps=4",
}

const CHUNK = { "x-upload-id": UPLOAD, "x-upload-file": "config.json", "x-upload-offset": "0" }

function send(server: TestServer, method: string, path: string, headers: Record<string, string> = {}): Promise<Response> {
  const text = path === "/login" ? `key=${KEYS.infer}` : path === "/api/upload/chunk" ? "x" : JSON.stringify(BODIES[path] ?? {})
  const body = method === "GET" ? {} : { body: text }
  return fetch(server.url + (PATHS[path] ?? path), { method, headers: { ...CHUNK, ...headers }, redirect: "manual", ...body })
}

describe("with keys", () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startTest([model], { environment, runsDir: join(work.path, "with") })
  })
  afterAll(() => server.close())

  test.each(ROUTES.map(({ method, path, scope }) => [method, path, scope] as const))("%s %s needs %s", async (method, path, scope) => {
    const bearer = (key: string) => ({ authorization: `Bearer ${key}` })
    if (scope === "open") {
      expect((await send(server, method, path)).status).toBeLessThan(400)
      return
    }
    const without = await send(server, method, path)
    expect(without.status).toBe(401)
    expect(without.headers.get("www-authenticate")).toBe("Bearer")
    expect(violations(ERROR, await without.json())).toEqual([])
    const wrong = await send(server, method, path, bearer("wrong-key-123"))
    expect([wrong.status, ((await wrong.json()) as ErrorBody).error.code]).toEqual([401, "invalid_api_key"])
    for (const [other, key] of Object.entries(KEYS)) {
      const answer = await send(server, method, path, bearer(key))
      expect([other, answer.status < 300]).toEqual([other, other === scope])
      if (other !== scope) expect(answer.status).toBe(403)
      await answer.body?.cancel()
    }
    expect((await send(server, method, path, { "x-api-key": KEYS[scope] })).status).toBeLessThan(300)
    expect((await send(server, method, path, { cookie: `a=b; alpha_key=${KEYS[scope]}` })).status).toBeLessThan(300)
  })

  test("the login form gives a cookie that scripts and other sites do not get", async () => {
    const good = await fetch(`${server.url}/login`, { method: "POST", body: `key=${KEYS.infer}`, redirect: "manual" })
    expect([good.status, good.headers.get("location")]).toEqual([303, "/"])
    const cookie = good.headers.get("set-cookie")!
    expect(cookie).toMatch(/; HttpOnly; SameSite=Strict; Max-Age=\d+$/)
    expect((await fetch(`${server.url}/v1/models`, { headers: { cookie: cookie.split(";")[0]! } })).status).toBe(200)
    const behindTls = await fetch(`${server.url}/login`, {
      method: "POST",
      body: `key=${KEYS.infer}`,
      redirect: "manual",
      headers: { "x-forwarded-proto": "https" },
    })
    expect(behindTls.headers.get("set-cookie")).toEndWith("; Secure")
    const bad = await fetch(`${server.url}/login`, { method: "POST", body: "key=nonsense", redirect: "manual" })
    expect([bad.status, bad.headers.get("set-cookie")]).toEqual([401, null])
  })

  test("a second login adds its key, and goes on where it came from; a strange place is not followed", async () => {
    const enter = (key: string, next: string, cookie = "") =>
      fetch(`${server.url}/login`, { method: "POST", body: new URLSearchParams({ key, next }), redirect: "manual", headers: { cookie } })
    const first = await enter(KEYS.read, "/runs/one?x=tokens")
    expect(first.headers.get("location")).toBe("/runs/one?x=tokens")
    const cookie = first.headers.get("set-cookie")!.split(";")[0]!
    const both = (await enter(KEYS.admin, "//evil.example/", cookie)).headers
    expect(both.get("location")).toBe("/")
    const held = { cookie: both.get("set-cookie")!.split(";")[0]! }
    for (const [method, path, status] of [
      ["GET", "/api/runs", 200],
      ["PATCH", "/api/runs/run-1", 200],
      ["GET", "/v1/models", 403],
    ] as const)
      expect([path, (await send(server, method, path, held)).status]).toEqual([path, status])
    const page = await (await fetch(`${server.url}/login?next=${encodeURIComponent('/"><script>')}`)).text()
    expect(page).toContain('name="next" value="/"')
  })

  test("a cookie does not work for pages of other origins, a header does", async () => {
    const from = (headers: Record<string, string>) =>
      send(server, "POST", "/v1/completions", { origin: "https://evil.example", ...headers })
    expect((await from({ cookie: `alpha_key=${KEYS.infer}` })).status).toBe(403)
    const withHeader = await from({ authorization: `Bearer ${KEYS.infer}` })
    expect(withHeader.status).toBe(200)
    expect(withHeader.headers.get("access-control-allow-origin")).toBeNull()
    const preflight = await fetch(`${server.url}/v1/completions`, { method: "OPTIONS", headers: { origin: "https://evil.example" } })
    expect(preflight.status).toBe(403)
  })
})

describe("without keys, on loopback", () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startTest([model], { cors: ["https://friend.example"], maxBody: 2000, runsDir: join(work.path, "without") })
  })
  afterAll(() => server.close())

  test("everything but admin is open", async () => {
    for (const { method, path, scope } of ROUTES.filter((route) => route.path !== "/login")) {
      const { status } = await send(server, method, path)
      expect([path, status]).toEqual([path, scope === "admin" ? 401 : path === "/logout" ? 303 : 200])
    }
  })

  test("names that point elsewhere, and pages of other origins, are refused", async () => {
    const rebound = await fetch(`${server.url}/v1/models`, { headers: { host: "evil.example" } })
    expect([rebound.status, ((await rebound.json()) as ErrorBody).error.code]).toEqual([403, "wrong_host"])
    expect((await send(server, "POST", "/v1/completions", { origin: "https://evil.example" })).status).toBe(403)
    expect((await send(server, "POST", "/v1/completions", { origin: server.url })).status).toBe(200)
    const image = { "sec-fetch-site": "cross-site" }
    expect((await send(server, "GET", "/api/inference", image)).status).toBe(403)
    expect((await send(server, "GET", "/", image)).status).toBe(200)
  })

  test("an origin that was asked for may call", async () => {
    const origin = "https://friend.example"
    const preflight = await fetch(`${server.url}/v1/completions`, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-headers": "content-type" },
    })
    expect([preflight.status, preflight.headers.get("access-control-allow-headers")]).toEqual([204, "content-type"])
    const answer = await send(server, "POST", "/v1/completions", { origin })
    expect([answer.status, answer.headers.get("access-control-allow-origin")]).toEqual([200, origin])
  })

  test("long bodies are 413, broken ones 400, unknown paths 404, wrong methods 405", async () => {
    const post = (body: string | ReadableStream) => fetch(`${server.url}/v1/completions`, { method: "POST", body })
    const long = JSON.stringify({ prompt: "a".repeat(3000) })
    const chunked = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(long))
        controller.close()
      },
    })
    const cases: [Promise<Response>, number, string][] = [
      [post(long), 413, "body_too_large"],
      [post(chunked), 413, "body_too_large"],
      [post("{"), 400, "invalid_json"],
      [fetch(`${server.url}/../etc/passwd`), 404, "not_found"],
      [fetch(`${server.url}/assets/..%2Fcli.ts`), 404, "not_found"],
      [fetch(`${server.url}/v1/completions`), 405, "method_not_allowed"],
    ]
    for (const [sent, status, code] of cases) {
      const answer = await sent
      const body = (await answer.json()) as ErrorBody
      expect([answer.status, body.error.code]).toEqual([status, code])
      expect(violations(ERROR, body)).toEqual([])
    }
  })

  test("every answer has its request id and the headers that keep pages safe", async () => {
    const own = await fetch(`${server.url}/health`, { headers: { "x-request-id": "abc-1" } })
    expect(own.headers.get("x-request-id")).toBe("abc-1")
    const made = await fetch(`${server.url}/nope`, { headers: { "x-request-id": "a b" } })
    expect(made.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/)
    expect(made.headers.get("x-should-retry")).toBe("false")
    const page = await fetch(`${server.url}/`)
    expect(page.headers.get("content-security-policy")).toContain("default-src 'none'; script-src 'self'")
    expect(page.headers.get("x-frame-options")).toBe("DENY")
  })
})

describe("keys", () => {
  const from = (values: Record<string, string>, publicRead = false) =>
    readKeys(new Map(Object.entries(values).map(([name, value]) => [name, { value, from: name }])), publicRead)

  test("a public address without a key for inference is refused", () => {
    for (const host of ["127.0.0.1", "127.1.2.3", "localhost", "::1"]) checkBind(host, from({}))
    for (const host of ["0.0.0.0", "::", "192.168.1.5", "example.org"]) {
      expect(() => checkBind(host, from({}))).toThrow("no key is set for inference")
      checkBind(host, from({ ALPHA_API_KEYS: "long-enough" }))
      checkBind(host, from({ ALPHA_ADMIN_KEY: "long-enough" }))
    }
  })

  test("admin is granted by its own key alone, and reading may be public", () => {
    expect(from({}).check("admin", undefined).allowed).toBe(false)
    expect(from({}).check("infer", undefined).allowed).toBe(true)
    const keys = from({ ALPHA_API_KEYS: "infer-key", ALPHA_ADMIN_KEY: "admin-key" }, true)
    expect(keys.check("read", undefined).allowed).toBe(true)
    expect(keys.check("ingest", undefined)).toEqual({ allowed: false, reason: "missing" })
    expect(keys.check("admin", "infer-key")).toEqual({ allowed: false, reason: "scope" })
    expect(keys.check("admin", "admin-key")).toEqual({ allowed: true, label: "admin-1" })
    expect(keys.check("infer", "admin-key")).toEqual({ allowed: false, reason: "scope" })
  })

  test("weak keys are refused without being shown", () => {
    for (const bad of ["tiny7", "spaces in it", "ünicode-key"]) {
      const told = (() => {
        try {
          from({ ALPHA_API_KEYS: `good-enough,${bad}` })
        } catch (error) {
          return (error as Error).message
        }
      })()
      expect(told).toContain("ALPHA_API_KEYS: key 2")
      expect(told).not.toContain(bad)
    }
  })

  test("are read from either header or the cookie", () => {
    expect(keyOf(new Headers({ authorization: "bearer abc" }))).toEqual({ key: "abc", from: "header" })
    expect(keyOf(new Headers({ authorization: "Basic abc" }))).toBeUndefined()
    expect(keyOf(new Headers({ cookie: "not_alpha_key=1; alpha_key=a%3Db" }))).toEqual({ key: "a=b", from: "cookie" })
    expect(keyOf(new Headers({ cookie: "alpha_key=%" }))).toEqual({ key: "%", from: "cookie" })
  })
})
