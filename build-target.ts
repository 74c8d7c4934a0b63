/** The systems `alpha` is built for: compilers, packages, processor levels. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT, nearest } from "./src/base-error.ts"

export const root = import.meta.dir

/** A compile of the kernel sources for one level of the instruction set; `isa` becomes the suffix of every kernel's symbol. */
export interface IsaLevel {
  readonly isa: string
  readonly flags: readonly string[]
}

export interface Target {
  readonly name: string
  /** First part of what `cc -dumpmachine` prints. */
  readonly machine: string
  /** Compiler when building on another machine, and the Debian package that has it. */
  readonly crossCompiler: string
  readonly crossPackage: string
  /** Program that runs the result on another machine, from Debian's qemu-user. */
  readonly emulator: string
  readonly bunPackage: string
  readonly libsqlPackage: string
  readonly levels: readonly IsaLevel[]
}

export const TARGETS: Readonly<Record<string, Target>> = {
  "linux-x64": {
    name: "linux-x64",
    machine: "x86_64",
    crossCompiler: "x86_64-linux-gnu-gcc",
    crossPackage: "gcc-x86-64-linux-gnu",
    emulator: "qemu-x86_64",
    bunPackage: "@oven/bun-linux-x64",
    libsqlPackage: "@libsql/linux-x64-gnu",
    levels: [
      { isa: "v4", flags: ["-march=x86-64-v4", "-mprefer-vector-width=512"] },
      { isa: "v3", flags: ["-march=x86-64-v3"] },
      { isa: "base", flags: [] },
    ],
  },
  "linux-arm64": {
    name: "linux-arm64",
    machine: "aarch64",
    crossCompiler: "aarch64-linux-gnu-gcc",
    crossPackage: "gcc-aarch64-linux-gnu",
    emulator: "qemu-aarch64",
    bunPackage: "@oven/bun-linux-aarch64",
    libsqlPackage: "@libsql/linux-arm64-gnu",
    levels: [{ isa: "base", flags: [] }],
  },
}

export const hostTarget = `${process.platform}-${process.arch}`

export function findTarget(name: string): Target {
  const target = TARGETS[name]
  if (target) return target
  const meant = nearest(name, Object.keys(TARGETS))
  throw new AlphaError(`target ${name}: not one of ${Object.keys(TARGETS).join(", ")}`, {
    hint: meant ? `did you mean --target=${meant}?` : "npm run build -- --target=linux-x64",
    code: EXIT.usage,
  })
}

/** Where what is made for `target` lies; the host's own library is where `bun src/cli.ts` looks for it. */
export const outputFolder = (target: Target): string => join(root, ".bun-out", target.name === hostTarget ? "" : target.name)

/** The C compiler for `target` as a command line, and its version line. Throws naming the package to install. */
export function findCompiler(target: Target): { command: string[]; version: string } {
  const isHost = target.name === hostTarget
  const asked = process.env.CC?.trim()
  const candidates = asked && isHost ? [asked] : isHost ? ["cc", "gcc", "clang"] : [target.crossCompiler]
  for (const candidate of candidates) {
    const command = candidate.split(/\s+/)
    if (!Bun.which(command[0]!) && !existsSync(command[0]!)) continue
    const machine = run([...command, "-dumpmachine"])
    if (!machine.startsWith(`${target.machine}-`)) {
      throw new AlphaError(`C compiler ${candidate} builds for ${machine || "an unknown machine"}, not for ${target.name}`, {
        hint: "set CC to another compiler",
      })
    }
    return { command, version: run([...command, "--version"]).split("\n")[0]! }
  }
  const install = isHost ? "gcc (or clang)" : target.crossPackage
  throw new AlphaError(`no C compiler for ${target.name}: ${candidates.join(", ")} not found`, {
    hint: `apt-get install ${install}${asked && isHost ? ", or correct CC" : isHost ? ", or set CC" : ""}`,
  })
}

/** Standard output of a command, trimmed; "" when it fails. */
export function run(command: readonly string[]): string {
  const result = Bun.spawnSync(command as string[], { cwd: root, stdout: "pipe", stderr: "ignore" })
  return result.success ? result.stdout.toString().trim() : ""
}
