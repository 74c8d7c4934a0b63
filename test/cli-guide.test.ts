/** The README keeps up with the program: its commands, files, scripts and packages exist, and alpha help shows its guides. */
import { describe, expect, test } from "bun:test"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { Glob } from "bun"
import { COMMANDS } from "../src/cli-commands.ts"
import { parseFlags } from "../src/cli-flags.ts"
import { guide } from "../src/cli-guide.ts"
import { helpPage, TOPICS } from "../src/cli-help.ts"
import { loadConfig } from "../src/config.ts"
import { withMap } from "./file-map.ts"

const root = join(import.meta.dir, "..")
const readme = readFileSync(join(root, "README.md"), "utf8")
const guides = [guide("Using the binary"), guide("Feedback loop"), guide("Fleet"), guide("Several GPUs and hosts")]
const packageJson = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Record<string, Record<string, string>>

/** Lines of shell blocks, without comments, redirections and what stands before a pipe. */
const shellLines = [...readme.matchAll(/^ *```sh\n([\s\S]*?)^ *```/gm)]
  .flatMap(([, block]) => block!.trim().split("\n"))
  .map((line) =>
    line
      .trim()
      .replace(/ +#.*| > .*/g, "")
      .replace(/^.* \| /, ""),
  )
const inCells = [...readme.matchAll(/^\|.*\|$/gm)].flatMap(([row]) =>
  [...row.matchAll(/`((?:\.\/alpha|npm run|npx bun) [^`]+)`/g)].map((match) => match[1]!),
)
const lines = [...shellLines, ...inCells]

/** Words of a shell line: quotes group, nothing else is special. */
const words = (line: string) => [...line.matchAll(/(?:[^\s']+|'[^']*')+/g)].map(([word]) => word.replaceAll("'", ""))

describe("the README", () => {
  const commandLines = lines.filter((line) => /^(\.\/)?alpha /.test(line))
  test("has command lines to check", () => expect(commandLines.length).toBeGreaterThan(30))
  test.each(commandLines)("%s", (line) => {
    const rest = words(line).slice(1)
    if (["help", "--version", "--help"].includes(rest[0]!)) {
      expect(helpPage(COMMANDS, rest.slice(1).join(" "))).not.toBe("")
      return
    }
    const command = COMMANDS.find(({ name }) => rest.slice(0, name.split(" ").length).join(" ") === name)
    expect(command, `no command for: ${line}`).toBeDefined()
    const { fields, positionals, takesRest, name, finish } = command!
    // A file of settings is not there to be read.
    const flags = rest.slice(name.split(" ").length).filter((flag) => !flag.startsWith("--config="))
    finish(loadConfig(fields, { flags: parseFlags(flags, fields, positionals, takesRest).entries, environment: new Map() }))
  })

  test("names scripts of package.json and files that exist", () => {
    const scripts = lines.flatMap((line) => /^npm (?:run )?([\w:-]+)/.exec(line)?.[1] ?? [])
    expect(scripts).toContain("demo")
    expect(scripts.filter((script) => packageJson.scripts![script] === undefined)).toEqual([])
    // With the log of measurements, whose commands somebody may want to repeat.
    const text = readme + readFileSync(join(root, "perf/LOG.md"), "utf8")
    const files = [...text.matchAll(/\b(?:src|test|perf|native|shaders)\/[\w.-]+\.(?:tsx?|mjs|py|md|c|h)\b/g)].map(([path]) => path)
    // Made by the reader of a recipe.
    const own = ["src/op-square.ts", "native/cpu-square.c", "shaders/square.ts", "src/cli-count.ts", "perf/NAME.ts"]
    expect([...new Set(files)].filter((path) => !existsSync(join(root, path)) && !own.includes(path))).toEqual([])
  })

  test("has a log with the entries that comments name", () => {
    const log = readFileSync(join(root, "perf/LOG.md"), "utf8")
    const files = ["src", "shaders", "perf", "native", "test"].flatMap((folder) => [...new Glob(`${folder}/*.{ts,c,h}`).scanSync(root)])
    const named = files.flatMap((file) => {
      const text = readFileSync(join(root, file), "utf8").replace(/\n\s*\*?\s*/g, " ")
      return [...text.matchAll(/perf\/LOG\.md, "([^"]+)"/g)].map(([, entry]) => `${file}: ${entry}`)
    })
    expect(named.length).toBeGreaterThan(5)
    expect(named.filter((one) => !log.includes(`\n## ${one.slice(one.indexOf(": ") + 2)}`))).toEqual([])
  })

  test("gives every package a reason", () => {
    const { dependencies, devDependencies, optionalDependencies } = packageJson
    const names = Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies })
    expect(names.filter((name) => !readme.includes(`\n| \`${name}\` | `))).toEqual([])
  })
})

describe("the guides of alpha help", () => {
  test("are the README's sections", () => {
    expect(TOPICS.using!.page()).toBe(guides[0]!)
    expect(TOPICS["feedback-loop"]!.page()).toBe(guides[1]!)
    expect(TOPICS.fleet!.page()).toBe(guides[2]!)
    for (const text of guides) {
      const readmeLines = new Set(readme.split("\n").map((line) => line.replace(/^#+ /, "")))
      expect(text.split("\n").filter((line) => !readmeLines.has(line) && !readmeLines.has(line.slice(2)))).toEqual([])
      expect(text).not.toContain("```")
      expect(text.split("\n").length).toBeGreaterThan(30)
    }
  })

  test("mention every command", () => {
    const text = guides.join("\n")
    for (const { name } of COMMANDS) expect(text, name).toMatch(new RegExp(`^ *(.*\\| )?alpha ${name}( |$)`, "m"))
  })
})

test("the map is replaced row by row, whatever was there", () => {
  const text = "a\n| file | concern |\n|---|---|\n| `src/old.ts` | gone |\n\nb\n| `other` | row |\n"
  expect(withMap(text, ["| `src/x.ts` | $1 |"])).toBe("a\n| file | concern |\n|---|---|\n| `src/x.ts` | $1 |\n\nb\n| `other` | row |\n")
})
