/** The source files with their groups, imports and first sentences; `bun test/file-map.ts --write` renews the README's map. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

const ROOT = join(import.meta.dir, "..")

/** The groups of src/, each of which may import itself and the heads of those before it. */
export const GROUPS =
  "base config spirv ptx native tensor program op grad cpu gpu device token data gpt db dist train engine serve fleet bench tui cli".split(
    " ",
  )

export interface SourceFile {
  /** Path from the root: src/base-file.ts. */
  readonly path: string
  readonly lines: number
  /** The sentence of the first line's comment; undefined when it has none. */
  readonly sentence: string | undefined
  /** Relative imports as paths from the root, type imports and dynamic ones included. */
  readonly imports: readonly string[]
}

/** Files of a folder with one of the extensions, in order; none when the folder is missing. */
export function filesOf(folder: string, ...extensions: string[]): SourceFile[] {
  if (!existsSync(join(ROOT, folder))) return []
  const names = readdirSync(join(ROOT, folder)).filter((name) => extensions.some((extension) => name.endsWith(extension)))
  return names.sort().map((name) => readSource(`${folder}/${name}`))
}

export function readSource(path: string): SourceFile {
  const text = readFileSync(join(ROOT, path), "utf8")
  const sentence = /^\/\*\* (.+?) \*\/$/.exec(text.split("\n", 1)[0]!)?.[1]
  return { path, lines: text.trimEnd().split("\n").length, sentence, imports: importsOf(text).map((target) => join(path, "..", target)) }
}

/** Targets of relative imports and re-exports, comments ignored. */
export function importsOf(text: string): string[] {
  const code = text.replace(/^\s*(\/\*[\s\S]*?\*\/|\/\/.*)/gm, "")
  return [...code.matchAll(/\b(?:from|import)\s*\(?\s*["'](\.[^"']+)["']/g)].map((match) => match[1]!)
}

/** "src/base-file.ts" → "base". */
export function groupOf(path: string): string {
  return path.replace(/^.*\//, "").replace(/\.ts$/, "").split("-")[0]!
}

/** Rows of the README's map: | `src/base-file.ts` | sentence |. */
export function mapRows(): string[] {
  const files = [...filesOf("src", ".ts"), ...filesOf("shaders", ".ts"), ...filesOf("native", ".c", ".h")]
  const rank = ({ path }: SourceFile) => (path.startsWith("src/") ? GROUPS.indexOf(groupOf(path)) : GROUPS.length)
  return files.sort((a, b) => rank(a) - rank(b)).map(({ path, sentence }) => `| \`${path}\` | ${sentence ?? ""} |`)
}

/** `text` of the README with `rows` as its map. */
export function withMap(text: string, rows: readonly string[]): string {
  return text.replace(
    /(\| file \| concern \|\n\|---\|---\|\n)(?:\| `.*\n)*/,
    (_, head: string) => `${head}${rows.map((row) => `${row}\n`).join("")}`,
  )
}

if (import.meta.main) {
  const readme = join(ROOT, "README.md")
  if (process.argv[2] === "--write") writeFileSync(readme, withMap(readFileSync(readme, "utf8"), mapRows()))
  else console.log(mapRows().join("\n"))
}
