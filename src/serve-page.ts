/** The pages in the binary: playground, documentation, login, and every page's files; their shells hold no data. */
import type { Call } from "./serve-context.ts"
import { dashScript, dashStyles } from "./serve-dash.ts"
import { ApiError } from "./serve-error.ts"
import { pageAfter } from "./serve-login.ts"
import styles from "./serve-page.css" with { type: "text" }
import { docsPage } from "./serve-page-docs.ts"
import loginHtml from "./serve-page-login.html" with { type: "text" }
import playgroundJs from "./serve-page-playground.client.js" with { type: "text" }
import playgroundHtml from "./serve-page-playground.html" with { type: "text" }

/** bun-types takes every HTML import for a bundle; read as text it is a string. */
const text = (page: unknown): string => page as string

const html = (page: string): Response =>
  new Response(page, { headers: { "content-type": "text/html; charset=utf-8", "cache-control": "no-cache" } })

export const playground = (): Response => html(text(playgroundHtml))
export const docs = (): Response => html(docsPage())
export const loginPage = ({ http }: Call): Response =>
  html(
    text(loginHtml)
      .replace(
        "<!--message-->",
        http.req.query("wrong") === undefined ? "" : '<p class="error" role="alert">This is no key of this server.</p>',
      )
      .replace('name="next" value="/"', () => `name="next" value="${pageAfter(http.req.query("next")).replaceAll("&", "&amp;")}"`),
  )

const ASSETS: Readonly<Record<string, { readonly body: string | (() => Promise<string>); readonly type: string }>> = {
  "page.css": { body: styles, type: "text/css; charset=utf-8" },
  "dash.css": { body: dashStyles, type: "text/css; charset=utf-8" },
  "dash.js": { body: dashScript, type: "text/javascript; charset=utf-8" },
  "playground.js": { body: playgroundJs, type: "text/javascript; charset=utf-8" },
}

const gzipped = new Map<string, Uint8Array<ArrayBuffer>>()
/** An asset as it travels; compressed once. */
function packed(name: string, body: string): Uint8Array<ArrayBuffer> {
  const known = gzipped.get(name) ?? Bun.gzipSync(body)
  gzipped.set(name, known)
  return known
}

export async function pageAsset({ http }: Call): Promise<Response> {
  const name = http.req.param("name") ?? ""
  const asset = Object.hasOwn(ASSETS, name) ? ASSETS[name] : undefined
  if (asset === undefined) throw new ApiError(404, `no asset ${name.slice(0, 100)}`, { code: "not_found" })
  const body = typeof asset.body === "string" ? asset.body : await asset.body()
  const headers = { "content-type": asset.type, "cache-control": "no-cache", vary: "accept-encoding" }
  if (!/\bgzip\b/.test(http.req.header("accept-encoding") ?? "")) return new Response(body, { headers })
  return new Response(packed(name, body), { headers: { ...headers, "content-encoding": "gzip" } })
}
