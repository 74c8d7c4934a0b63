import { expect, test } from "bun:test"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { filesOf, GROUPS, groupOf, importsOf, mapRows, readSource, type SourceFile } from "./file-map.ts"

const src = filesOf("src", ".ts")
const shaders = filesOf("shaders", ".ts")
const native = filesOf("native", ".c", ".h")

test("imports are found in every form, and not in comments", () => {
  const text = `
/** See import("./comment.ts"). */
// import "./line.ts"
import { a } from "./a.ts"
import type { B } from './b.ts'
import "./c.ts"
export { d } from "./d.ts"
export type * from "./e.ts"
const f = await import("./f.ts")
type G = import("./g.ts").G
import {
  h,
} from "../shaders/h.ts"
import x from "elsewhere"
`
  expect(importsOf(text)).toEqual(["./a.ts", "./b.ts", "./c.ts", "./d.ts", "./e.ts", "./f.ts", "./g.ts", "../shaders/h.ts"])
})

test("every file of src belongs to a group", () => {
  expect(src.filter(({ path }) => !GROUPS.includes(groupOf(path))).map(({ path }) => path)).toEqual([])
})

/** Why `file` may not import `target`, or undefined. */
function forbidden(file: SourceFile, target: string): string | undefined {
  if (file.path.startsWith("shaders/")) {
    return target.startsWith("shaders/") || /^src\/(spirv|ptx)\.ts$/.test(target) ? undefined : "shaders import src/spirv and src/ptx only"
  }
  if (target.startsWith("shaders/"))
    return ["spirv", "ptx", "op", "gpu"].includes(groupOf(file.path)) ? undefined : "only op, gpu and the kernel languages see shaders"
  if (!target.startsWith("src/")) return undefined // package.json, assets
  const own = groupOf(file.path)
  const other = groupOf(target)
  if (own === other || target.startsWith("src/base-")) return undefined
  if (GROUPS.indexOf(other) >= GROUPS.indexOf(own)) return `${other} does not come before ${own}`
  return target === `src/${other}.ts` ? undefined : `not the head src/${other}.ts`
}

test("a file imports its own group and the heads of groups before it", () => {
  const broken = [...src, ...shaders].flatMap((file) =>
    file.imports.flatMap((target) => {
      const reason = forbidden(file, target)
      return reason ? [`${file.path} → ${target}: ${reason}`] : []
    }),
  )
  expect(broken).toEqual([])
})

test("no import cycles, type imports and lazy imports included", () => {
  const edges = new Map([...src, ...shaders].map(({ path, imports }) => [path, imports]))
  const state = new Map<string, "open" | "done">()
  const cycles: string[] = []
  const visit = (path: string, trail: readonly string[]) => {
    if (state.get(path) === "done" || !edges.has(path)) return
    if (state.get(path) === "open") {
      cycles.push([...trail.slice(trail.indexOf(path)), path].join(" → "))
      return
    }
    state.set(path, "open")
    for (const next of edges.get(path)!) visit(next, [...trail, path])
    state.set(path, "done")
  }
  for (const path of edges.keys()) visit(path, [])
  expect(cycles).toEqual([])
})

test("imports name files that exist, with their extension", () => {
  const missing = [...src, ...shaders].flatMap((file) =>
    file.imports.filter((target) => !existsSync(join(import.meta.dir, "..", target))).map((target) => `${file.path} → ${target}`),
  )
  expect(missing).toEqual([])
})

test("no file has more than 500 lines, and half of those in src at most 150", () => {
  const all = [...src, ...shaders, ...native, ...filesOf("test", ".ts"), ...filesOf("perf", ".ts"), readSource("build.ts")]
  expect(all.filter(({ lines }) => lines > 500).map(({ path, lines }) => `${path}: ${lines} lines`)).toEqual([])
  const sizes = src.map(({ lines }) => lines).sort((a, b) => a - b)
  expect(sizes[Math.floor((sizes.length - 1) / 2)]!).toBeLessThanOrEqual(150)
})

test("every source file begins with one sentence about itself", () => {
  const silent = [...src, ...shaders, ...native].filter(({ sentence }) => sentence === undefined || !/[.…]$/.test(sentence))
  expect(silent.map(({ path }) => path)).toEqual([])
})

const readme = join(import.meta.dir, "../README.md")
test.skipIf(!existsSync(readme))("the README's map is the files' own first sentences (bun test/file-map.ts --write renews it)", () => {
  const rows = readFileSync(readme, "utf8")
    .split("\n")
    .filter((line) => /^\| `(src|shaders|native)\//.test(line))
  expect(rows).toEqual(mapRows())
})
