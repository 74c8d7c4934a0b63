/** Runs a script with the pinned Bun from nothing but Node and npm: `node build-bootstrap.mjs SCRIPT ARGS…`. */
import { spawn, spawnSync } from "node:child_process"
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { join } from "node:path"

const root = import.meta.dirname ?? decodeURIComponent(new URL(".", import.meta.url).pathname)

function fail(message, hint) {
  console.error(`error: ${message}\n  hint: ${hint}`)
  process.exit(1)
}

const readJson = (path) => JSON.parse(readFileSync(join(root, path), "utf8"))

/** Why node_modules is not what the lock says; undefined when it is. npm writes its own copy of the lock last, so an interrupted install has none. */
function installProblem() {
  if (!existsSync(join(root, "node_modules/.package-lock.json"))) return "node_modules is missing"
  const wanted = readJson("package-lock.json").packages
  const present = readJson("node_modules/.package-lock.json").packages
  for (const [path, { version, optional }] of Object.entries(wanted)) {
    if (path === "") continue
    if (present[path]?.version === version) continue
    if (present[path] || !optional) return `${path} should be ${version}, is ${present[path]?.version ?? "missing"}`
    // An optional package that is absent belongs to another platform; findBun and build.ts name the ones that matter here.
  }
  return undefined
}

function install(reason) {
  console.error(`npm ci (${reason})`)
  const npm = process.env.npm_execpath?.endsWith(".js") ? [process.execPath, process.env.npm_execpath] : ["npm"]
  const run = spawnSync(npm[0], [...npm.slice(1), "ci", "--no-audit", "--no-fund"], { cwd: root, stdio: ["ignore", 2, 2] })
  if (run.error) fail(`cannot run npm: ${run.error.message}`, "install npm beside Node 20 or newer")
  if (run.status !== 0)
    fail(`npm ci failed (${run.signal ?? `exit ${run.status}`})`, "see npm's message above; package.json and package-lock.json must agree")
}

/** The pinned Bun: where its install script puts it, else inside its platform package (npm may block install scripts). */
function findBun() {
  const { version } = readJson("node_modules/bun/package.json")
  const platform = `bun-${process.platform}-${process.arch === "arm64" ? "aarch64" : process.arch}`
  const folder = join(root, "node_modules/@oven")
  const packages = existsSync(folder) ? readdirSync(folder).filter((name) => name === platform || name.startsWith(`${platform}-`)) : []
  const problems = []
  for (const path of ["node_modules/bun/bin/bun.exe", ...packages.sort().map((name) => `node_modules/@oven/${name}/bin/bun`)]) {
    const file = join(root, path)
    if (!existsSync(file) || statSync(file).size < 1_000_000) continue // npm leaves a small placeholder where scripts are blocked
    const run = spawnSync(file, ["--version"], { encoding: "utf8" })
    if (run.status === 0 && run.stdout.trim() === version) return file
    problems.push(`${path}: ${run.error?.message ?? (run.stdout || run.stderr || run.signal || "no output").trim()}`)
  }
  fail(
    `no working Bun ${version} for ${process.platform}-${process.arch}${problems.length ? ` (${problems.join("; ")})` : ` (@oven/${platform} is not installed)`}`,
    "remove node_modules and run this again; npm must not omit optional packages (npm config get omit)",
  )
}

const major = Number(process.versions.node.split(".")[0])
if (major < 20) fail(`Node ${process.versions.node} is too old`, "install Node 20 or newer")
const [script, ...args] = process.argv.slice(2)
if (!script) fail("no script given", "use the scripts of package.json: npm run")
const problem = installProblem()
if (problem) install(problem)
const child = spawn(findBun(), [script, ...args], { cwd: root, stdio: "inherit" })
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  // Ctrl-C reaches the whole foreground group: passing it on would be a second signal, which means "stop at once".
  process.on(signal, () => (signal === "SIGINT" && process.stdin.isTTY) || child.kill(signal))
}
child.on("error", (error) => fail(`cannot start Bun: ${error.message}`, "remove node_modules and run this again"))
child.on("exit", (code, signal) => process.exit(code ?? 128 + ({ SIGINT: 2, SIGKILL: 9, SIGTERM: 15, SIGHUP: 1 }[signal] ?? 1)))
