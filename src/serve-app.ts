/** The Hono app: request ids, headers, who may pass, body limits, errors; then the route. */
import { Hono, type Context as WebContext } from "hono"
import { bodyLimit } from "hono/body-limit"
import { isLoopback, KEY_SOURCES, keyOf, type Scope } from "./serve-auth.ts"
import type { Call, Context, Route } from "./serve-context.ts"
import { ApiError } from "./serve-error.ts"
import { internal } from "./serve-stream.ts"

/** What the listening socket tells of a request; absent in tests that call the app itself. */
export interface Peer {
  readonly address: string
  /** The request is complete: its connection may be silent until there is an answer. */
  waits(): void
}

interface Env {
  Bindings: { peer?: Peer }
  Variables: { id: string; arrivedAt: number }
}
type HonoContext = WebContext<Env>

const REQUEST_ID = /^[\w.-]{1,64}$/

/** Headers of every answer. Pages load nothing from elsewhere and stand in no frame. */
const HEADERS: Readonly<Record<string, string>> = {
  "x-content-type-options": "nosniff",
  // Not "no-referrer": browsers then post the login form with the origin "null".
  "referrer-policy": "same-origin",
  "x-frame-options": "DENY",
  "cross-origin-resource-policy": "same-origin",
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}

export function createApp(context: Context, routes: readonly Route[]): Hono<Env> {
  const app = new Hono<Env>()
  const limit = ({ leastBody = 0 }: Route) => {
    const maxSize = Math.max(context.limits.maxBody, leastBody)
    const onError = () => {
      throw new ApiError(413, `the body is longer than ${maxSize} bytes, the limit that maxBody sets`, { code: "body_too_large" })
    }
    return bodyLimit({ maxSize, onError })
  }
  app.use(async (c, next) => {
    const asked = c.req.header("x-request-id")
    const id = asked !== undefined && REQUEST_ID.test(asked) ? asked : `req_${crypto.randomUUID().replaceAll("-", "")}`
    c.set("id", id)
    c.set("arrivedAt", performance.now())
    await next()
    c.res.headers.set("x-request-id", id)
    for (const [name, value] of Object.entries(HEADERS)) c.res.headers.set(name, value)
    const origin = c.req.header("origin")
    if (origin !== undefined && context.cors.includes(origin)) {
      c.res.headers.set("access-control-allow-origin", origin)
      c.res.headers.set("access-control-expose-headers", "x-request-id, retry-after, retry-after-ms")
      c.res.headers.set("cross-origin-resource-policy", "cross-origin")
      c.res.headers.append("vary", "origin")
    }
    // Tells the pages whether there is a cookie to forget; scripts cannot see it.
    if (keyOf(c.req.raw.headers)?.from === "cookie") c.res.headers.set("x-alpha-key", "cookie")
    if (c.res.status >= 400) c.res.headers.set("x-should-retry", String([429, 503].includes(c.res.status)))
    context.metrics.requests.add({ route: routeOf(c, routes), status: String(c.res.status) })
  })
  app.onError((error, c) => answerError(context, c, error))
  app.notFound((c) => {
    const { path } = c.req
    const known = routes.filter((route) => matches(route.path, path)).map(({ method }) => method)
    if (known.length === 0) return respond(new ApiError(404, `${c.req.method} ${path.slice(0, 200)}: no such route`, { code: "not_found" }))
    return respond(
      new ApiError(405, `${path} takes ${known.join(" and ")}, not ${c.req.method}`, {
        type: "invalid_request_error",
        code: "method_not_allowed",
        headers: { allow: known.join(", ") },
      }),
    )
  })
  app.options("*", (c) => preflight(context, c))
  for (const route of routes) {
    app.on(
      route.method,
      route.path,
      (c, next) => {
        admit(context, c, route.scope)
        return next()
      },
      limit(route),
      (c) => route.handle(callOf(context, c, route.scope)),
    )
  }
  return app
}

function callOf(context: Context, c: HonoContext, scope: Scope): Call {
  const proven = context.keys.check(scope, keyOf(c.req.raw.headers)?.key)
  const label = proven.allowed ? proven.label : undefined
  const peer = c.env?.peer
  if (c.req.method === "GET") peer?.waits()
  return {
    context,
    http: c,
    id: c.get("id"),
    client: label ?? peer?.address ?? "local",
    arrivedAt: c.get("arrivedAt"),
    signal: c.req.raw.signal,
    async json() {
      const text = await c.req.text().catch((error: Error) => {
        // What the body limit throws is meant for the client; else the client is gone in the middle of its body.
        throw error instanceof ApiError ? error : new ApiError(499, "the client is gone", { code: "cancelled" })
      })
      peer?.waits()
      try {
        return JSON.parse(text) as unknown
      } catch (error) {
        throw new ApiError(400, `the body is no JSON: ${(error as Error).message}`, { param: "body", code: "invalid_json" })
      }
    },
  }
}

/** Throws where the request may not pass. */
function admit(context: Context, c: HonoContext, scope: Scope): void {
  const { headers } = c.req.raw
  const host = (headers.get("host") ?? "").replace(/:\d+$/, "")
  // A page elsewhere can point its own name at this machine; its requests then carry that name.
  if (context.loopback && context.keys.none && host !== "" && !isLoopback(host)) {
    throw new ApiError(403, `this server answers to localhost, not ${host.slice(0, 100)}`, { code: "wrong_host" })
  }
  const key = keyOf(headers)
  const origin = headers.get("origin")
  const foreign = origin !== null && !context.cors.includes(origin) && !isOwn(origin, headers.get("host"))
  // Browsers send cookies, and reach loopback, on behalf of pages elsewhere; a key in a header proves that the page has it.
  // Images and scripts of other pages send no origin, but this.
  const embedded = scope !== "open" && headers.get("sec-fetch-site") === "cross-site" && origin === null
  if ((foreign || embedded) && key?.from !== "header")
    throw new ApiError(403, "pages of other origins may not call this server", { code: "wrong_origin" })
  const caller = context.keys.check(scope, key?.key)
  if (caller.allowed) return
  const source = scope === "open" ? "" : KEY_SOURCES[scope]
  if (caller.reason === "scope") {
    throw new ApiError(403, `this key does not grant ${scope}: it takes one of ${source}`, { code: "insufficient_scope" })
  }
  throw new ApiError(
    401,
    caller.reason === "wrong" ? "this is no key of this server" : `a key is needed: Authorization: Bearer KEY (${source})`,
    {
      code: caller.reason === "wrong" ? "invalid_api_key" : "missing_api_key",
      headers: { "www-authenticate": "Bearer" },
    },
  )
}

function isOwn(origin: string, host: string | null): boolean {
  try {
    return new URL(origin).host === host
  } catch {
    return false
  }
}

function preflight(context: Context, c: HonoContext): Response {
  const origin = c.req.header("origin")
  if (origin === undefined || !context.cors.includes(origin)) {
    return respond(new ApiError(403, "pages of other origins may not call this server", { code: "wrong_origin" }))
  }
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-methods": "GET, POST, PATCH",
      "access-control-allow-headers": c.req.header("access-control-request-headers") ?? "authorization, content-type",
      "access-control-max-age": "600",
    },
  })
}

const respond = ({ status, body, headers }: ApiError): Response => Response.json(body, { status, headers })

function answerError(context: Context, c: HonoContext, thrown: unknown): Response {
  const error = thrown instanceof ApiError ? thrown : internal(thrown)
  if (error.status === 500) {
    const cause = (error.cause ?? thrown) as Error
    context.log("error", "request", { id: c.get("id"), path: c.req.path, error: cause.message, stack: cause.stack })
  }
  // 499 has nobody to read it, and is no status that servers may make.
  return respond(error.status === 499 ? Object.assign(error, { status: 400 }) : error)
}

/** Whether a route's pattern covers a path. */
function matches(pattern: string, path: string): boolean {
  const source = pattern.replace(/\/:\w+\{\.\+\}$/, "/.+").replace(/:\w+/g, "[^/]+")
  return new RegExp(`^${source}$`).test(path)
}

/** The route's pattern, so that paths of clients make no new labels. */
const routeOf = (c: HonoContext, routes: readonly Route[]): string =>
  routes.find(({ method, path }) => method === c.req.method && matches(path, c.req.path))?.path ?? "other"
