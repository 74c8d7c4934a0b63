/** What this program is: version, commit, target and compiler, fixed when the binary was built. */
import { readFileSync } from "node:fs"

export interface BuildInfo {
  /** Version in package.json. */
  readonly version: string
  /** Git commit (12 hex digits, "-dirty" when files differ from it), or "unknown" outside a checkout. */
  readonly commit: string
  /** Operating system and processor: "linux-x64" or "linux-arm64". */
  readonly target: string
  /** C compiler of the native library, or "source" when running without a compiled binary. */
  readonly compiler: string
  /** Version of Bun. */
  readonly bun: string
}

/** Replaced by build.ts; absent when run from source. */
declare const ALPHA_BUILD: BuildInfo | undefined

/** True in the compiled binary, false under `bun src/cli.ts`. */
export const isCompiled = typeof ALPHA_BUILD !== "undefined"

export function buildInfo(): BuildInfo {
  if (typeof ALPHA_BUILD !== "undefined") return ALPHA_BUILD
  const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string }
  return { version, commit: "source", target: `${process.platform}-${process.arch}`, compiler: "source", bun: Bun.version }
}
