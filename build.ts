/** Builds the one file `alpha`: native library, kernel pack, bundle, checks; `npm run build -- --target=linux-arm64` for another machine. */
import { existsSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import { canRun, checkGlibc, runAlone } from "./build-check.ts"
import { libsqlPlugin } from "./build-libsql.ts"
import { buildNative, nativeScript } from "./build-native.ts"
import { packageFile } from "./build-package.ts"
import { findPtxas, ptxCodes } from "./build-ptx.ts"
import { findTarget, hostTarget, outputFolder, root, run, type Target } from "./build-target.ts"
import { kernels } from "./shaders/kernels.ts"
import { ptxKernels } from "./shaders/ptx-kernels.ts"
import type { BuildInfo } from "./src/base-build.ts"
import { AlphaError, EXIT } from "./src/base-error.ts"
import { ptxPack } from "./src/ptx.ts"
import { bundleDash } from "./src/serve-dash.ts"
import { pack } from "./src/spirv.ts"

/** Commit of this checkout, "-dirty" when tracked files differ from it; "unknown" in an unpacked archive. */
export function gitCommit(): string {
  // An archive unpacked inside another project's checkout must not take that project's commit.
  if (run(["git", "rev-parse", "--show-toplevel"]) !== realpathSync(root)) return "unknown"
  const commit = run(["git", "rev-parse", "--short=12", "HEAD"])
  if (commit === "") return "unknown"
  return run(["git", "status", "--porcelain", "--untracked-files=no"]) === "" ? commit : `${commit}-dirty`
}

/** Programs inside the binary: the command line and every Worker. */
const entrypoints = (): string[] =>
  ["cli.ts", ...readdirSync(join(root, "src")).filter((file) => file.endsWith("-worker.ts"))].map((file) => join(root, "src", file))

/** Files that the binary carries and finds by these names. */
export interface Assets {
  readonly "native-library": string
  /** Every kernel of shaders/ as SPIR-V. */
  readonly "kernel-pack": string
  /** Those in PTX, compressed. */
  readonly "ptx-pack": string
  /** native/ as a script that compiles it, for `alpha fleet deploy --rebuildNative`. */
  readonly "native-script": string
  /** The dashboard's script for browsers. */
  readonly dashboard: string
}

/** Bundles `programs` and Bun itself into the executable `outfile`. */
export async function bundle(programs: string[], assets: Assets, info: BuildInfo, target: Target, outfile: string): Promise<void> {
  const isHost = target.name === hostTarget
  try {
    await Bun.build({
      entrypoints: programs,
      root: join(root, "src"),
      target: "bun",
      format: "esm",
      // Names stay: they show in profiles. Bytecode halves the time to the first line.
      minify: { whitespace: true, syntax: true, identifiers: false },
      bytecode: true,
      define: { ALPHA_BUILD: JSON.stringify(info) },
      loader: { ".so": "file", ".node": "file", ".pack": "file", ".asset": "file" },
      plugins: [
        {
          name: "assets",
          setup: (build) =>
            void build.onResolve({ filter: /^alpha:/ }, ({ path }) => ({ path: assets[path.slice("alpha:".length) as keyof Assets] })),
        },
        libsqlPlugin(() => packageFile(target.libsqlPackage, "index.node")),
      ],
      compile: {
        outfile,
        autoloadDotenv: false,
        autoloadBunfig: false,
        ...(isHost
          ? {}
          : { target: `bun-${target.name}` as Bun.Build.CompileTarget, executablePath: packageFile(target.bunPackage, "bin/bun") }),
      },
    })
  } catch (error) {
    const reasons: readonly (Error | BuildMessage | ResolveMessage)[] = error instanceof AggregateError ? error.errors : [error]
    throw new AlphaError(`the bundle fails\n${reasons.map(describe).join("\n")}`)
  }
  if (readFileSync(outfile).includes("`@libsql/$")) {
    throw new AlphaError("libsql's computed require is still in the bundle", {
      hint: "build-libsql.ts no longer meets the file it replaces",
    })
  }
}

/** "src/cli.ts:12:3: Could not resolve …" */
function describe(reason: Error | BuildMessage | ResolveMessage): string {
  const at =
    "position" in reason && reason.position
      ? `${relative(root, reason.position.file)}:${reason.position.line}:${reason.position.column}: `
      : ""
  return `${at}${reason.message}`
}

/** Prints a step's name, then what it returns and how long it took. */
async function step<T>(name: string, work: () => T | Promise<T>, summary: (result: T) => string): Promise<T> {
  const start = performance.now()
  const result = await work()
  console.log(`${name.padEnd(8)}${summary(result).padEnd(72)} ${((performance.now() - start) / 1000).toFixed(1).padStart(6)} s`)
  return result
}

/** What must work before the binary is handed over, each run alone in an empty directory. */
const PROOFS = [["--version"], ["--help"]]

/** Every operation on this machine; under emulation it takes minutes, so another machine's binary has `npm run soak -- cross`. */
const HOST_PROOFS = [...PROOFS, ["doctor"]]

async function build(target: Target): Promise<void> {
  const { library, compiler } = await step(
    "native",
    async () => {
      const result = await buildNative(target)
      process.stderr.write(result.warnings)
      return result
    },
    ({ compiler, compiled, cached }) => `${compiler}: ${compiled} objects compiled, ${cached} cached`,
  )

  const script = join(outputFolder(target), "native.asset")
  writeFileSync(script, nativeScript())

  const kernelPack = join(outputFolder(target), "kernels.pack")
  await step(
    "kernels",
    () => {
      const bytes = pack(kernels)
      writeFileSync(kernelPack, bytes)
      return bytes.length
    },
    (bytes) =>
      `${kernels.length} kernels, ${kernels.reduce((sum, { variants }) => sum + variants.length, 0)} modules, ${bytes >> 10} KiB of SPIR-V`,
  )

  // The GPU's code is the same whatever machine it is for: what the build for one assembled is there for all.
  const ptx = join(outputFolder(findTarget(hostTarget)), "ptx.pack")
  await step(
    "ptx",
    async () => {
      const ptxas = findPtxas()
      const made = ptxas === undefined ? undefined : await ptxCodes(ptxas, ptxKernels, ptx)
      const bytes = ptxPack(ptxKernels, made?.codes)
      if (!existsSync(ptx) || !readFileSync(ptx).equals(bytes)) writeFileSync(ptx, bytes)
      const said =
        made === undefined ? "text only: no ptxas" : `${made.assembled} assembled, ${ptxKernels.length - made.assembled} as before`
      return { bytes: bytes.length, said }
    },
    ({ bytes, said }) => `${ptxKernels.length} kernels in PTX, ${bytes >> 10} KiB, ${said}`,
  )

  const dashboard = join(outputFolder(target), "dashboard.asset")
  await step(
    "pages",
    async () => {
      const text = await bundleDash()
      writeFileSync(dashboard, text)
      return text.length
    },
    (bytes) => `the dashboard's script, ${bytes >> 10} KiB`,
  )

  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }
  const info: BuildInfo = { version, commit: gitCommit(), target: target.name, compiler, bun: Bun.version }
  const final = join(root, target.name === hostTarget ? "alpha" : `alpha-${target.name}`)
  const candidate = join(outputFolder(target), "alpha-candidate")
  try {
    await step(
      "bundle",
      () =>
        bundle(
          entrypoints(),
          { "native-library": library, "kernel-pack": kernelPack, "ptx-pack": ptx, "native-script": script, dashboard },
          info,
          target,
          candidate,
        ),
      () => `alpha ${version}, commit ${info.commit}, Bun ${info.bun}`,
    )
    await step(
      "glibc",
      () => [library, candidate].map(checkGlibc),
      ([ours, all]) => `library needs ${ours}, binary needs ${all}`,
    )
    if (canRun(target)) {
      for (const args of target.name === hostTarget ? HOST_PROOFS : PROOFS)
        await step(
          "run",
          () => runAlone(candidate, args, target),
          () => `alpha ${args.join(" ")}`,
        )
    } else {
      console.log(`run     not run: ${target.emulator} is not here (apt-get install qemu-user)`)
    }
    renameSync(candidate, final)
  } finally {
    rmSync(candidate, { force: true })
  }
  console.log(`done    ./${relative(root, final)}, ${(statSync(final).size / 1e6).toFixed(0)} MB`)
}

/** The only flag is --target. */
function targetOf(args: readonly string[]): Target {
  let name = hostTarget
  for (const arg of args) {
    const value = /^--target=(.+)$/.exec(arg)?.[1]
    if (value === undefined)
      throw new AlphaError(`build: unknown argument ${arg}`, { hint: "npm run build -- --target=linux-arm64", code: EXIT.usage })
    name = value
  }
  return findTarget(name)
}

if (import.meta.main) {
  try {
    await build(targetOf(process.argv.slice(2)))
  } catch (error) {
    if (!(error instanceof AlphaError)) throw error
    console.error(`error: ${error.message}${error.hint ? `\n  hint: ${error.hint}` : ""}`)
    process.exit(error.code)
  }
}
