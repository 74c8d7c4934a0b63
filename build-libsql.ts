/** Bundler plugin: gives libsql's computed `require` of its addon one fixed answer, loadable from inside the binary. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { root } from "./build-target.ts"
import { AlphaError } from "./src/base-error.ts"

const ADDON = "alpha:libsql-addon"

/** What must be in libsql's source for the replacement to mean the same. */
const COMPUTED = /return require\(`@libsql\/\$\{target\}`\)/
const FUNCTION = /function requireNative\(\) \{\n[\s\S]*?\n\}\n/
const HELPERS = /^const \{[^}]*\} = require\("(?:@neon-rs\/load|detect-libc)"\);\n/gm

/** libsql's source with its addon loaded from the embedded file. Throws when the text to replace is gone. */
export function patchLibsql(source: string): string {
  const found = FUNCTION.exec(source)?.[0]
  if (found === undefined || !COMPUTED.test(found) || source.match(HELPERS)?.length !== 2) {
    throw new AlphaError("libsql no longer computes the name of its addon the way build-libsql.ts replaces it", {
      hint: "compare node_modules/libsql/index.js with build-libsql.ts, or go back to the version in git",
    })
  }
  // Bun would copy the addon to TMPDIR, which may not allow execution; loadablePath finds a place that does.
  const replacement = `function requireNative() {
  const addon = { exports: {} }
  process.dlopen(addon, require(${JSON.stringify(join(root, "src/native-load.ts"))}).loadablePath(require("${ADDON}")))
  return addon.exports
}
`
  return source.replace(HELPERS, "").replace(FUNCTION, () => replacement)
}

/** The plugin; `addon` finds the target's libsql addon when something imports libsql. */
export function libsqlPlugin(addon: () => string): Bun.BunPlugin {
  return {
    name: "libsql",
    setup(build) {
      build.onResolve({ filter: /^alpha:libsql-addon$/ }, () => ({ path: addon() }))
      build.onLoad({ filter: /\/node_modules\/libsql\/index\.js$/ }, ({ path }) => ({
        contents: patchLibsql(readFileSync(path, "utf8")),
        loader: "js",
      }))
    },
  }
}
