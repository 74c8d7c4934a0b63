/** Who may call what: keys with scopes, kept as hashes; from a header, or from the cookie of the login form. */
import { createHash, timingSafeEqual } from "node:crypto"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Environment } from "./config.ts"

/** open: anyone · infer: ALPHA_API_KEYS · ingest: UPLOAD_SECRET · read: ALPHA_READ_KEYS, or anyone with --publicRead · admin: ALPHA_ADMIN_KEY. */
export type Scope = "open" | "infer" | "ingest" | "read" | "admin"

export const COOKIE = "alpha_key"

/** Where the keys of a scope come from. */
export const KEY_SOURCES = {
  infer: "ALPHA_API_KEYS",
  ingest: "UPLOAD_SECRET",
  read: "ALPHA_READ_KEYS",
  admin: "ALPHA_ADMIN_KEY",
} as const satisfies Record<Exclude<Scope, "open">, string>

interface Key {
  readonly scope: Exclude<Scope, "open">
  readonly hash: Buffer
  /** Names the key in limits and logs, and tells nothing about it. */
  readonly label: string
}

/** What a request proved. */
export type Caller =
  /** `label` of the key, undefined where none was needed. */
  | { readonly allowed: true; readonly label: string | undefined }
  | { readonly allowed: false; readonly reason: "missing" | "wrong" | "scope" }

export interface Keys {
  /** Whether no key is set at all: then everything but admin is open, on loopback. */
  readonly none: boolean
  /** Whether `key`, if any, grants `scope`. */
  check(scope: Scope, key: string | undefined): Caller
  /** Whether it is any of the keys. */
  knows(key: string): boolean
}

const digest = (key: string): Buffer => createHash("sha256").update(key).digest()

/** Keys in one cookie: one of each scope. */
export const MOST_HELD = 4

/** Shortest key: what is shorter can be guessed. */
const SHORTEST = 8

/** Reads the keys; values are hashed at once and never kept or shown. */
export function readKeys(environment: Environment, publicRead: boolean): Keys {
  const keys = (Object.entries(KEY_SOURCES) as [Key["scope"], string][]).flatMap(([scope, name]) => {
    const all = (environment.get(name)?.value ?? "")
      .split(",")
      .map((key) => key.trim())
      .filter((key) => key !== "")
    return all.map((key, i): Key => {
      if (key.length < SHORTEST || /[^\x21-\x7e]/.test(key)) {
        throw new AlphaError(`${name}: key ${i + 1} is shorter than ${SHORTEST} characters, or holds what a header cannot`, {
          hint: "openssl rand -hex 24 makes one",
          code: EXIT.usage,
        })
      }
      return { scope, hash: digest(key), label: `${scope}-${i + 1}` }
    })
  })
  return keyring(keys, publicRead)
}

function keyring(keys: readonly Key[], publicRead: boolean): Keys {
  const none = keys.length === 0
  /** Compares with every key, so that the time tells nothing. A cookie may hold several: who watches, asks and loads has one of each scope. */
  const matching = (given: string): Key[] => {
    const hashes = given.split(",").slice(0, MOST_HELD).map(digest)
    return keys.filter((one) => hashes.filter((hash) => timingSafeEqual(one.hash, hash)).length > 0)
  }
  return {
    none,
    knows: (key) => matching(key).length > 0,
    check(scope, key) {
      const found = key === undefined ? [] : matching(key)
      const granted = found.find((one) => one.scope === scope)
      if (granted !== undefined) return { allowed: true, label: granted.label }
      if (scope === "open" || (scope === "read" && publicRead)) return { allowed: true, label: undefined }
      // Without keys a server on loopback is its user's own; only admin always needs its key.
      if (none && scope !== "admin") return { allowed: true, label: undefined }
      return { allowed: false, reason: key === undefined ? "missing" : found.length > 0 ? "scope" : "wrong" }
    },
  }
}

/** The key of a request: `Authorization: Bearer KEY`, `x-api-key`, or the cookie. */
export function keyOf(headers: Headers): { key: string; from: "header" | "cookie" } | undefined {
  const bearer = /^Bearer\s+(\S+)$/i.exec(headers.get("authorization") ?? "")?.[1]
  const plain = bearer ?? headers.get("x-api-key") ?? undefined
  if (plain !== undefined) return { key: plain, from: "header" }
  const cookie = new RegExp(`(?:^|;\\s*)${COOKIE}=([^;]+)`).exec(headers.get("cookie") ?? "")?.[1]
  return cookie === undefined ? undefined : { key: decoded(cookie), from: "cookie" }
}

/** What is not encoded as it should be is no key, and no fault of the server. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/

export const isLoopback = (host: string): boolean => LOOPBACK.test(host)

/** Refuses to listen where others can reach a server that asks for no key. */
export function checkBind(host: string, keys: Keys): void {
  if (isLoopback(host) || keys.check("infer", undefined).allowed === false) return
  throw new AlphaError(`serve: ${host} can be reached from other machines, and no key is set for inference`, {
    hint: `set ${KEY_SOURCES.infer}, or listen on 127.0.0.1`,
    code: EXIT.usage,
  })
}
