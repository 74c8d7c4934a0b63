/** `npm test`: type check, lint, build, every test; ends with the counts. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { root } from "./build-target.ts"

/** What bun test counted, from its closing lines; undefined when there are none (nothing ran, or the runner died). */
export function readCounts(output: string): { passed: number; failed: number; skipped: number } | undefined {
  const summary = output.slice(output.lastIndexOf("\n\n"))
  if (!/^Ran \d+ tests? across/m.test(summary)) return undefined
  const count = (word: string) => Number(new RegExp(`^ *(\\d+) ${word}$`, "m").exec(summary)?.[1] ?? 0)
  return { passed: count("pass"), failed: count("fail"), skipped: count("skip") + count("todo") }
}

/** Names of skipped tests, "file: group > test", from the JUnit report. */
export function readSkipped(junit: string): string[] {
  const cases = junit.matchAll(/<testcase name="([^"]*)" classname="([^"]*)"[^>]*file="([^"]*)"[^>]*>\s*<skipped/g)
  return [...cases].map(([, name, group, file]) => plainText(`${file}: ${group ? `${group} > ` : ""}${name}`))
}

const ENTITIES: Record<string, string> = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&" }
const plainText = (text: string): string => text.replace(/&(?:lt|gt|quot|apos|amp);/g, (entity) => ENTITIES[entity]!)

/** Passes on the lines a reader needs while tests run: all but those of passed and skipped tests and file headings with nothing below. */
function lineFilter(print: (line: string) => void): (line: string) => void {
  let heading: string | undefined
  return (line) => {
    if (/^(?:\(pass\)|\(skip\)|\(todo\)|\d+ tests? (?:skipped|todo):|$)/.test(line)) return
    if (/^test\/\S+\.test\.ts:$/.test(line)) {
      heading = line
      return
    }
    if (heading !== undefined) print(heading)
    heading = undefined
    print(line)
  }
}

/** The lines of a stream of bytes, as they come. */
async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  let rest = ""
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n")
    rest = lines.pop() ?? ""
    yield* lines
  }
  if (rest !== "") yield rest
}

/** Runs one stage, its output passed through; returns whether it succeeded. */
async function stage(name: string, args: readonly string[]): Promise<boolean> {
  const start = performance.now()
  const code = await Bun.spawn([process.execPath, ...args], { cwd: root, stdin: "ignore", stdout: "inherit", stderr: "inherit" }).exited
  console.log(`${name}: ${code === 0 ? "ok" : "FAILED"}, ${((performance.now() - start) / 1000).toFixed(1)} s`)
  return code === 0
}

/** One more than the two cores that a run is made for: half of the time of many files is waiting for programs, servers and machines. */
const PROCESSES = 3

/** Files that take longest, in seconds. What this says of a first run is replaced by what each run measures. */
export const LONGEST: Readonly<Record<string, number>> = {
  ...{ "fleet-life": 70, "gpu-golden": 40, "dist-mpi": 35, "gpu-simulate": 25, "fleet-nodes": 20, "train-memory": 18, "gpu-lost": 18 },
  ...{ "fleet-deploy": 15, "fleet-trust": 15, "fleet-supervise": 15, build: 15, "serve-dash": 14, "gpu-train": 12, "op-matmul-ptx": 12 },
  ...{ "gpu-ahead": 12, "cli-doctor": 12, train: 10, "train-ship": 10, "fleet-command": 10, "bench-gate-run": 9, serve: 9 },
}

/** Bun's record of the milliseconds of every file, by which it starts the longest first. */
function timings(): string {
  const file = join(root, ".bun-out/timings.json")
  const names = readdirSync(join(root, "test")).filter((name) => name.endsWith(".test.ts"))
  const files = Object.fromEntries(names.map((name) => [`test/${name}`, 1000 * (LONGEST[name.replace(".test.ts", "")] ?? 2)]))
  mkdirSync(dirname(file), { recursive: true })
  if (!existsSync(file)) writeFileSync(file, JSON.stringify({ version: 1, files }))
  return file
}

async function runTests(args: readonly string[]): Promise<{ passed: number; failed: number; skipped: number }> {
  const report = join(root, ".bun-out/junit.xml")
  const options = [
    `--parallel=${PROCESSES}`,
    `--timings=${timings()}`,
    "--update-timings",
    "--timeout=300000",
    "--reporter=junit",
    `--reporter-outfile=${report}`,
  ]
  // The build has just run, so a test that needs the binary must find it.
  const require = [process.env.ALPHA_REQUIRE, "binary"].filter(Boolean).join(",")
  const child = Bun.spawn([process.execPath, "test", ...options, ...args], {
    cwd: root,
    env: { ...process.env, ALPHA_REQUIRE: require },
    stdin: "ignore",
    stdout: "inherit",
    stderr: "pipe",
  })
  const clear = process.stderr.isTTY ? "\r\x1b[K" : ""
  const show = lineFilter((line) => console.log(`${clear}${line}`))
  let output = ""
  let passed = 0
  for await (const line of linesOf(child.stderr)) {
    output += `${line}\n`
    show(line)
    if (line.startsWith("(pass)")) passed++
    if (clear !== "") process.stderr.write(`${clear}${passed} passed`)
  }
  process.stderr.write(clear)
  const code = await child.exited
  const counts = readCounts(output)
  if (counts === undefined) {
    console.log(output.trim() === "" ? "bun test printed nothing" : "bun test ended without its summary")
    return { passed: 0, failed: 1, skipped: 0 }
  }
  for (const name of readSkipped(readFileSync(report, "utf8"))) console.log(`skipped ${name}`)
  // A runner that fails with no failed test has failed all the same.
  return { ...counts, failed: code === 0 ? counts.failed : Math.max(1, counts.failed) }
}

if (import.meta.main) {
  const stages: [string, string[]][] = [
    ["typecheck", ["node_modules/typescript/bin/tsc", "-p", "."]],
    ["typecheck", ["node_modules/typescript/bin/tsc", "-p", "tsconfig.client.json"]],
    ["lint", ["node_modules/@biomejs/biome/bin/biome", "lint", "--error-on-warnings", "."]],
    ["build", ["build.ts"]],
  ]
  let passed = 0
  let failed = 0
  for (const [name, args] of stages) {
    if (await stage(name, args)) passed++
    else failed++
  }
  const tests = await runTests(process.argv.slice(2))
  passed += tests.passed
  failed += tests.failed
  console.log(`${passed} passed, ${failed} failed${tests.skipped > 0 ? `, ${tests.skipped} skipped` : ""}`)
  process.exit(failed === 0 && tests.passed > 0 ? 0 : 1)
}
