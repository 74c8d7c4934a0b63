/** Which database a command means. */
import { resolve } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { DatabasePlace } from "./db-client.ts"

/** `setting`: a file or URL that was asked for; without one TURSO_DATABASE_URL, else alpha.db here. The token is TURSO_AUTH_TOKEN. */
export function databasePlace(
  setting: string | undefined,
  environment: { get(name: string): { readonly value: string } | undefined },
): DatabasePlace {
  const named = environment.get("TURSO_DATABASE_URL")?.value
  const given = setting ?? (named || "alpha.db")
  const isUrl = /^(libsql|https?|wss?):\/\//.test(given)
  // A host without its scheme would quietly become a file of that name.
  if (setting === undefined && named && !isUrl && !named.startsWith("file:"))
    throw new AlphaError("TURSO_DATABASE_URL: expected a URL", { hint: "libsql://…, https://… or file:PATH", code: EXIT.usage })
  if (!isUrl) return { url: `file:${resolve(given.replace(/^file:/, ""))}` }
  return { url: given, authToken: environment.get("TURSO_AUTH_TOKEN")?.value || undefined }
}
