/** The pages in the binary: playground, documentation, login; their shells hold no data. */
import type { Call } from "./serve-context.ts"
import { ApiError } from "./serve-error.ts"
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
    text(loginHtml).replace(
      "<!--message-->",
      http.req.query("wrong") === undefined ? "" : '<p class="error" role="alert">This is no key of this server.</p>',
    ),
  )

const ASSETS: Readonly<Record<string, { readonly body: string; readonly type: string }>> = {
  "page.css": { body: styles, type: "text/css; charset=utf-8" },
  "playground.js": { body: playgroundJs, type: "text/javascript; charset=utf-8" },
}

export function pageAsset({ http }: Call): Response {
  const name = http.req.param("name") ?? ""
  const asset = Object.hasOwn(ASSETS, name) ? ASSETS[name] : undefined
  if (asset === undefined) throw new ApiError(404, `no asset ${name.slice(0, 100)}`, { code: "not_found" })
  return new Response(asset.body, { headers: { "content-type": asset.type, "cache-control": "no-cache" } })
}
