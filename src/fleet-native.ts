/** The sources of the native library as a script that compiles them, as a local file. */
import { existsSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import { writeAtomic } from "./base-file.ts"

/** Path of the script; it goes when the program ends. */
export function nativeScript(): string {
  const path = join(tmpdir(), `alpha-native-${process.pid}.sh`)
  if (existsSync(path)) return path
  writeAtomic(path, isCompiled ? readFileSync(require("alpha:native-script")) : fromSource())
  process.on("exit", () => rmSync(path, { force: true }))
  return path
}

function fromSource(): Uint8Array {
  const run = Bun.spawnSync([process.execPath, join(import.meta.dir, "../build-native.ts"), "--script"])
  if (!run.success) throw new AlphaError(`native/ cannot be packed: ${run.stderr.toString().trim()}`, { code: EXIT.data })
  return run.stdout
}
