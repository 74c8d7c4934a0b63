/** The login form: a key goes into a cookie that scripts cannot read and other sites cannot send. */
import { COOKIE, keyOf, MOST_HELD } from "./serve-auth.ts"
import type { Call } from "./serve-context.ts"
import { ApiError } from "./serve-error.ts"

/** Guessing costs this much time. */
const WRONG_MS = 300
const DAYS_30 = 30 * 24 * 3600

const cookie = (value: string, maxAge: number, isSecure: boolean): string =>
  `${COOKIE}=${value}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${maxAge}${isSecure ? "; Secure" : ""}`

const isSecure = ({ http }: Call): boolean =>
  new URL(http.req.url).protocol === "https:" || http.req.header("x-forwarded-proto")?.split(",")[0]?.trim() === "https"

/** A page of this server, to go on with after the login; nothing else is followed. */
export const pageAfter = (next: string | null | undefined): string =>
  /^\/(?!\/)[\w./?=&%,@:+~-]*$/.test(next ?? "") ? (next as string) : "/"

/** The new key and those that the cookie already holds. */
function held(call: Call, key: string): string {
  const before = keyOf(call.http.req.raw.headers)
  const old = before?.from === "cookie" ? before.key.split(",").filter((one) => one !== key && call.context.keys.knows(one)) : []
  return [key, ...old].slice(0, MOST_HELD).join(",")
}

export async function login(call: Call): Promise<Response> {
  const form = new URLSearchParams(await call.http.req.text())
  const key = form.get("key") ?? ""
  const next = pageAfter(form.get("next"))
  if (!call.context.keys.knows(key)) {
    await Bun.sleep(WRONG_MS)
    if (!(call.http.req.header("accept") ?? "").includes("text/html")) {
      throw new ApiError(401, "this is no key of this server", { code: "invalid_api_key", param: "key" })
    }
    return new Response(null, { status: 303, headers: { location: `/login?wrong=1&next=${encodeURIComponent(next)}` } })
  }
  const headers = { location: next, "set-cookie": cookie(encodeURIComponent(held(call, key)), DAYS_30, isSecure(call)) }
  return new Response(null, { status: 303, headers })
}

export const logout = (call: Call): Response =>
  new Response(null, { status: 303, headers: { location: "/login", "set-cookie": cookie("", 0, isSecure(call)) } })
