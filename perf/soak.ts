/** `npm run soak -- NAME`: an issue's full numbers, one file perf/soak-NAME.ts each; the tests run the same code reduced. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { nearest } from "../src/base-error.ts"

const soaks = readdirSync(import.meta.dir).flatMap((file) => /^soak-(.+)\.ts$/.exec(file)?.[1] ?? [])
const [name, ...rest] = process.argv.slice(2)

if (name !== undefined && soaks.includes(name)) {
  process.argv.splice(2, process.argv.length, ...rest)
  await import(join(import.meta.dir, `soak-${name}.ts`))
} else {
  if (name !== undefined) {
    const meant = nearest(name, soaks)
    console.error(`error: no soak named ${name}${meant ? `\n  hint: did you mean ${meant}?` : ""}`)
  }
  console.error("npm run soak -- NAME, with NAME one of:")
  for (const soak of soaks) {
    const about = /^\/\*\* (.*?) \*\//.exec(readFileSync(join(import.meta.dir, `soak-${soak}.ts`), "utf8"))?.[1] ?? ""
    console.error(`  ${soak.padEnd(16)}${about}`)
  }
  process.exit(2)
}
