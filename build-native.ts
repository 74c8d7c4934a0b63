/** Compiles native/*.c into one shared library: kernels once per processor level, objects cached by content. */
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync } from "node:fs"
import { availableParallelism } from "node:os"
import { basename, join, relative } from "node:path"
import { findCompiler, findTarget, hostTarget, outputFolder, root, TARGETS, type Target } from "./build-target.ts"
import { AlphaError } from "./src/base-error.ts"

/** Library code, not kernels: compiled once for the least processor; what it lists as kernels has the level "any". */
const ONCE = new Set(["cpu.c", "cpu-pool.c"])

const AMX_FLAGS = ["-mamx-tile", "-mamx-bf16", "-mavx512bf16"]

const COMMON = [
  ...["-O3", "-std=gnu11", "-fPIC", "-pthread", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"],
  ...["-Wall", "-Wextra", "-Wno-psabi", "-Inative", "-include", "native/glibc.h"],
]

const LINK = ["-shared", "-pthread", "-Wl,-Bsymbolic", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack", "-Wl,--no-undefined"]

interface Unit {
  readonly source: string
  readonly object: string
  readonly command: readonly string[]
}

/** How one source file is compiled: a row per object. */
export function levelsOf(file: string, target: Target): readonly { isa: string; flags: readonly string[] }[] {
  if (ONCE.has(file) || !file.startsWith("cpu-")) return [{ isa: "any", flags: [] }]
  if (!file.startsWith("cpu-amx")) return target.levels
  return target.levels.filter((level) => level.isa === "v4").map((level) => ({ ...level, flags: [...level.flags, ...AMX_FLAGS] }))
}

export interface NativeBuild {
  readonly library: string
  /** First line of `cc --version`. */
  readonly compiler: string
  readonly compiled: number
  readonly cached: number
  /** Warnings of the compiler, as it printed them. */
  readonly warnings: string
}

/** Builds the library for `target`. Throws AlphaError with the compiler's own words when a file does not compile. */
export async function buildNative(target: Target): Promise<NativeBuild> {
  const { command, version } = findCompiler(target)
  const folder = outputFolder(target)
  const objects = join(folder, "objects")
  mkdirSync(objects, { recursive: true })
  const files = readdirSync(join(root, "native")).sort()
  const headers = files.filter((file) => file.endsWith(".h")).map((file) => readFileSync(join(root, "native", file)))

  const units = files
    .filter((file) => file.endsWith(".c"))
    .flatMap((file) =>
      levelsOf(file, target).map(({ isa, flags }): Unit => {
        const source = `native/${file}` // relative, so that no machine's path gets into the object
        const compile = [...command, ...COMMON, ...flags, `-DISA=${isa}`, "-c", source]
        const key = hash([version, compile.join(" "), ...headers, readFileSync(join(root, source))])
        return { source, object: join(objects, `${basename(file, ".c")}-${isa}-${key}.o`), command: compile }
      }),
    )
  const missing = units.filter((unit) => !existsSync(unit.object))
  const warnings = await compileAll(missing)

  const library = join(folder, "libalpha.so")
  const link = [...command, ...LINK, ...units.map((unit) => relative(root, unit.object)), "-lm", "-ldl"]
  const stamp = join(objects, `linked-${hash([version, link.join(" ")])}`)
  if (!existsSync(stamp) || !existsSync(library)) {
    const temporary = `${library}.${process.pid}`
    await execute([...link, "-o", temporary], "linking libalpha.so")
    renameSync(temporary, library)
    for (const old of readdirSync(objects)) if (old.startsWith("linked-")) rmSync(join(objects, old), { force: true })
    await Bun.write(stamp, "")
  }
  const now = new Date()
  utimesSync(library, now, now) // newer than every input: src/native-load.ts compares times
  dropOldObjects(objects, new Set(units.map((unit) => basename(unit.object))))
  return { library, compiler: version, compiled: missing.length, cached: units.length - missing.length, warnings }
}

function hash(parts: readonly (string | Uint8Array)[]): string {
  const sum = createHash("sha256")
  for (const part of parts) sum.update(`${part.length}:`).update(part)
  return sum.digest("hex").slice(0, 16)
}

/** Compiles as many at a time as there are processors; the first failure stops the rest. Returns the warnings. */
async function compileAll(units: readonly Unit[]): Promise<string> {
  const queue = [...units]
  const warnings: string[] = []
  const worker = async () => {
    for (let unit = queue.shift(); unit; unit = queue.shift()) {
      const temporary = `${unit.object}.${process.pid}`
      try {
        warnings.push(await execute([...unit.command, "-o", temporary], `compiling ${unit.source}`))
        renameSync(temporary, unit.object)
      } catch (error) {
        queue.length = 0
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  return warnings.join("")
}

/** Runs a compiler command; returns what it printed. */
async function execute(command: readonly string[], what: string): Promise<string> {
  const child = Bun.spawn(command as string[], { cwd: root, stdout: "pipe", stderr: "pipe", env: { ...process.env, LC_ALL: "C" } })
  const [printed, code] = await Promise.all([child.stderr.text(), child.exited])
  // A compiler that is killed, mostly for memory, says nothing itself.
  const how = child.signalCode === null ? `exit ${code}` : `killed by ${child.signalCode}`
  if (code !== 0) throw new AlphaError(`${what} fails (${how})\n${printed.trim()}\n${command.join(" ")}`)
  return printed
}

/** Objects of earlier sources go after a day: another build may be linking today's. */
function dropOldObjects(folder: string, current: ReadonlySet<string>): void {
  const dayMs = 86_400_000
  for (const file of readdirSync(folder)) {
    if (current.has(file) || file.startsWith("linked-")) continue
    const path = join(folder, file)
    if (Date.now() - statSync(path).mtimeMs > dayMs) rmSync(path, { force: true })
  }
}

/**
 * native/ as a shell script that compiles libalpha.so in the directory where it is run, by $CC on whatever machine of TARGETS that is: for
 * machines that have a compiler and no checkout. As many compilers run at a time as there are processors.
 */
export function nativeScript(): string {
  const files = readdirSync(join(root, "native")).sort()
  const mark = "end of this file of native"
  const sources = files.map(
    (file) => `cat > native/${file} <<'${mark}'\n${readFileSync(join(root, "native", file), "utf8").trimEnd()}\n${mark}`,
  )
  const machines = Object.values(TARGETS).map((target) => {
    const objects: string[] = []
    const compiles = files
      .filter((file) => file.endsWith(".c"))
      .flatMap((file) =>
        levelsOf(file, target).map(({ isa, flags }) => {
          objects.push(`${basename(file, ".c")}-${isa}.o`)
          return `compile ${[...COMMON, ...flags, `-DISA=${isa}`, "-c", `native/${file}`, "-o", objects.at(-1)].join(" ")}`
        }),
      )
    return `${target.machine})\n${compiles.join("\n")}\nwait\n"$cc" ${LINK.join(" ")} ${objects.join(" ")} -lm -ldl -o libalpha.so\n;;`
  })
  return [
    "set -eu",
    "cc=$CC; n=0; jobs=$(nproc 2>/dev/null || echo 1)",
    // A compile that fails leaves no object, and the link then fails by its name.
    'compile() { "$cc" "$@" & n=$((n + 1)); [ $((n % jobs)) != 0 ] || wait; }',
    "mkdir -p native",
    ...sources,
    "case $(uname -m) in",
    ...machines,
    '*) echo "no rules for $(uname -m)" >&2; exit 1 ;;',
    "esac",
    "",
  ].join("\n")
}

// `bun src/cli.ts` runs this file when the library is older than its sources, and with --script for `alpha fleet deploy --rebuildNative`.
if (import.meta.main && process.argv[2] === "--script") process.stdout.write(nativeScript())
else if (import.meta.main) {
  try {
    const { compiled, warnings } = await buildNative(findTarget(hostTarget))
    process.stderr.write(warnings)
    console.error(`native library: ${compiled} objects compiled`)
  } catch (error) {
    if (!(error instanceof AlphaError)) throw error
    console.error(error.hint ? `${error.message}\n  hint: ${error.hint}` : error.message)
    process.exit(1)
  }
}
