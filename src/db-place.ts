/** Which database a command means. */
import { resolve } from "node:path"
import type { DatabasePlace } from "./db-client.ts"

/** `setting`: a file or URL that was asked for; without one TURSO_DATABASE_URL, else alpha.db here. The token is TURSO_AUTH_TOKEN. */
export function databasePlace(
  setting: string | undefined,
  environment: { get(name: string): { readonly value: string } | undefined },
): DatabasePlace {
  const given = setting ?? (environment.get("TURSO_DATABASE_URL")?.value || "alpha.db")
  const isUrl = /^(libsql|https?|wss?):\/\//.test(given)
  if (!isUrl) return { url: `file:${resolve(given.replace(/^file:/, ""))}` }
  return { url: given, authToken: environment.get("TURSO_AUTH_TOKEN")?.value || undefined }
}
