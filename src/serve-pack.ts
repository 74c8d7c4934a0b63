/** JSON as it travels: compressed where the client takes it and it is worth the work. */
import type { Call } from "./serve-context.ts"

/** Below this a packet more or less is all there is to gain. */
const SMALL = 4096

export function packedJson({ http }: Call, value: unknown): Response {
  const text = JSON.stringify(value)
  const headers = { "content-type": "application/json", vary: "accept-encoding" }
  if (text.length < SMALL || !/\bgzip\b/.test(http.req.header("accept-encoding") ?? "")) return new Response(text, { headers })
  return new Response(Bun.gzipSync(text, { level: 4 }), { headers: { ...headers, "content-encoding": "gzip" } })
}
