/** The login form: a key goes into a cookie that scripts cannot read and other sites cannot send. */
import { COOKIE } from "./serve-auth.ts"
import type { Call } from "./serve-context.ts"
import { ApiError } from "./serve-error.ts"

/** Guessing costs this much time. */
const WRONG_MS = 300
const DAYS_30 = 30 * 24 * 3600

const cookie = (value: string, maxAge: number, isSecure: boolean): string =>
  `${COOKIE}=${value}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${maxAge}${isSecure ? "; Secure" : ""}`

const isSecure = ({ http }: Call): boolean =>
  new URL(http.req.url).protocol === "https:" || http.req.header("x-forwarded-proto")?.split(",")[0]?.trim() === "https"

export async function login(call: Call): Promise<Response> {
  const form = new URLSearchParams(await call.http.req.text())
  const key = form.get("key") ?? ""
  if (!call.context.keys.knows(key)) {
    await Bun.sleep(WRONG_MS)
    if (!(call.http.req.header("accept") ?? "").includes("text/html")) {
      throw new ApiError(401, "this is no key of this server", { code: "invalid_api_key", param: "key" })
    }
    return new Response(null, { status: 303, headers: { location: "/login?wrong=1" } })
  }
  const headers = { location: "/", "set-cookie": cookie(encodeURIComponent(key), DAYS_30, isSecure(call)) }
  return new Response(null, { status: 303, headers })
}

export const logout = (call: Call): Response =>
  new Response(null, { status: 303, headers: { location: "/login", "set-cookie": cookie("", 0, isSecure(call)) } })
