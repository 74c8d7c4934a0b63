/** The build's own rules: locked packages, compiler rows, glibc floor, libsql's addon, counts of a test run. */
import { afterAll, describe, expect, test } from "bun:test"
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { bundle } from "../build.ts"
import { checkGlibc, compareVersions, newestGlibc, runAlone } from "../build-check.ts"
import { patchLibsql } from "../build-libsql.ts"
import { levelsOf } from "../build-native.ts"
import { findTarget, hostTarget, outputFolder, root, TARGETS } from "../build-target.ts"
import { LONGEST, readCounts, readSkipped } from "../build-test.ts"
import { buildInfo } from "../src/base-build.ts"
import { loadablePath, nativeLibraryPath, reasonOf } from "../src/native-load.ts"
import { testWith } from "./require.ts"

const work = mkdtempSync(join(tmpdir(), "alpha-build-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))

const host = findTarget(hostTarget)
const readJson = (path: string) => JSON.parse(readFileSync(path, "utf8"))

describe("packages", () => {
  test("the lock carries checksums and no download addresses", () => {
    const { packages } = readJson(join(root, "package-lock.json"))
    for (const [path, entry] of Object.entries<Record<string, unknown>>(packages)) {
      if (path === "") continue
      expect(`${path} ${entry.integrity}`).toStartWith(`${path} sha512-`)
      expect(`${path} ${entry.resolved}`).toBe(`${path} undefined`)
    }
    expect(readFileSync(join(root, "package-lock.json"), "utf8")).not.toMatch(/"(?:https?|git\+[a-z]+):\/\/[^"]*\.tgz/)
  })

  test("every version is pinned, and the product depends on four packages", () => {
    const { dependencies, devDependencies } = readJson(join(root, "package.json"))
    expect(Object.keys(dependencies).sort()).toEqual(["@libsql/client", "citty", "hono", "picocolors"])
    for (const version of Object.values({ ...dependencies, ...devDependencies })) expect(version).toMatch(/^\d+\.\d+\.\d+$/)
  })
})

describe("native library", () => {
  test("kernels are compiled per level, library code once, AMX only where it can be", () => {
    const { "linux-x64": x64, "linux-arm64": arm64 } = TARGETS
    const isas = (file: string, target = x64!) => levelsOf(file, target).map((level) => level.isa)
    expect(isas("cpu-matmul.c")).toEqual(["v4", "v3", "base"])
    expect(isas("cpu-matmul.c", arm64)).toEqual(["base"])
    expect(isas("cpu-pool.c")).toEqual(["any"])
    expect(isas("vulkan.c")).toEqual(["any"])
    expect(isas("cpu-amx.c")).toEqual(["v4"])
    expect(isas("cpu-amx.c", arm64)).toEqual([])
  })

  test("it needs no glibc newer than the floor, and only system libraries", () => {
    expect(compareVersions("2.9", "2.28")).toBeLessThan(0)
    expect(newestGlibc("Name: GLIBC_2.9\nName: GLIBC_2.17\nName: GLIBC_2.3.4\nName: GLIBC_PRIVATE")).toBe("2.17")
    const library = nativeLibraryPath()
    checkGlibc(library)
    const needed = [
      ...Bun.spawnSync(["readelf", "-Wd", library])
        .stdout.toString()
        .matchAll(/NEEDED.*\[(.+)\]/g),
    ].map((match) => match[1]!)
    for (const name of needed) expect(name).toMatch(/^(?:lib(?:c|m|dl|pthread)\.so|ld-linux)/)
  })

  test("no compiler: an error that names the package to install", () => {
    const run = Bun.spawnSync([process.execPath, join(root, "build-native.ts")], { env: { PATH: work }, stderr: "pipe" })
    expect(run.exitCode).toBe(1)
    expect(run.stderr.toString()).toBe(
      `no C compiler for ${hostTarget}: cc, gcc, clang not found\n  hint: apt-get install gcc (or clang), or set CC\n`,
    )
  })

  test("a compiler for another machine is refused by name", () => {
    const fake = join(work, "fakecc")
    writeFileSync(fake, "#!/bin/sh\necho sparc-sun-solaris\n")
    chmodSync(fake, 0o755)
    const run = Bun.spawnSync([process.execPath, join(root, "build-native.ts")], { env: { CC: fake }, stderr: "pipe" })
    expect(run.stderr.toString()).toContain(`C compiler ${fake} builds for sparc-sun-solaris, not for ${hostTarget}`)
  })

  test("a compiler that is killed without a word is named by its signal, also through the program that asked for it", () => {
    const killed = join(work, "killedcc")
    writeFileSync(killed, '#!/bin/sh\ncase "$1" in -dumpmachine) exec cc -dumpmachine;; --version) echo killed;; *) kill -KILL $$;; esac\n')
    chmodSync(killed, 0o755)
    const run = Bun.spawnSync([process.execPath, join(root, "build-native.ts")], { env: { ...process.env, CC: killed }, stderr: "pipe" })
    expect(run.stderr.toString()).toMatch(/^compiling native\/\S+\.c fails \(killed by SIGKILL\)\n/)
    expect(reasonOf(Bun.spawnSync(["sh", "-c", "kill -KILL $$"]))).toBe("killed by SIGKILL")
    expect(reasonOf(Bun.spawnSync(["sh", "-c", "exit 3"]))).toBe("exit 3")
    expect(reasonOf(Bun.spawnSync(["sh", "-c", "echo no room >&2; exit 1"]))).toBe("no room")
  })

  test("unknown targets and arguments are refused", () => {
    const build = (...args: string[]) => Bun.spawnSync([process.execPath, join(root, "build.ts"), ...args], { stderr: "pipe" })
    expect(build("--target=linux-arm").stderr.toString()).toContain("hint: did you mean --target=linux-arm64?")
    const unknown = build("--fast")
    expect(unknown.stderr.toString()).toContain("unknown argument --fast")
    expect(unknown.exitCode).toBe(2)
  })
})

describe("libsql in a compiled program", () => {
  test("the build fails when the text to replace is gone", () => {
    const source = readFileSync(join(root, "node_modules/libsql/index.js"), "utf8")
    expect(patchLibsql(source)).not.toContain("currentTarget")
    expect(() => patchLibsql(source.replace("@libsql/$", "$"))).toThrow("no longer computes")
    expect(() => patchLibsql(source.replace("@neon-rs/load", "@neon-rs/loader"))).toThrow("no longer computes")
  })

  test("select 1 on a file database, alone in an empty directory, without a usable TMPDIR", async () => {
    const entry = join(root, ".bun-out/libsql-proof.ts")
    const binary = join(work, "proof")
    writeFileSync(
      entry,
      `import { createClient } from "@libsql/client"
const client = createClient({ url: "file:proof.db" })
await client.execute("create table t (x)")
await client.execute("insert into t values (41)")
console.log((await client.execute("select x + 1 as y from t")).rows[0]?.y)`,
    )
    const library = nativeLibraryPath()
    await bundle(
      [entry],
      { "native-library": library, "kernel-pack": library, "ptx-pack": library, "native-script": library, dashboard: library },
      buildInfo(),
      host,
      binary,
    )
    expect(await runAlone(binary, [], host)).toBe("42\n")
    expect(await runAlone(binary, [], host, { TMPDIR: "/nonexistent" })).toBe("42\n")
  }, 300_000)
})

describe("the binary", () => {
  const binary = join(root, "alpha")
  const withBinary = testWith("binary", existsSync(binary) ? undefined : "npm run build has not run")

  withBinary("starts from an empty directory with nothing set", async () => {
    const { version } = readJson(join(root, "package.json"))
    expect(await runAlone(binary, ["--version"], host)).toContain(version)
    expect(await runAlone(binary, ["--help"], host)).toContain("train")
    expect(await runAlone(binary, ["tokenizer", "encode", "Hello world", "--tokenizer=gpt2"], host)).toBe("15496 995\n")
  })

  const mount = ["unshare", "--mount", "--map-root-user"]
  const noMount = Bun.spawnSync([...mount, "mount", "-t", "tmpfs", "none", work]).success ? undefined : "unshare --mount is refused"
  const noexecScript = `mount -t tmpfs -o noexec none ${work} && TMPDIR=${work} HOME=${work} XDG_CACHE_HOME=${work} exec "$@"`
  const onNoexec = (command: string[]) =>
    Bun.spawnSync([...mount, "sh", "-c", noexecScript, "sh", ...command], { cwd: root, stderr: "pipe" })

  testWith("mount", noMount)("the native library loads where every folder is noexec, and says so where memory is refused too", () => {
    const proof = join(root, ".bun-out/noexec-proof.ts")
    writeFileSync(
      proof,
      `import { loadablePath } from "../src/native-load.ts"
const places = process.argv[2] === "folder" ? [process.env.TMPDIR + "/alpha"] : undefined
try { console.log(loadablePath(${JSON.stringify(nativeLibraryPath())}, places)) } catch (e) { console.log(e.name, e.message, e.hint) }`,
    )
    expect(onNoexec([process.execPath, proof]).stdout.toString()).toMatch(/^\/proc\/self\/fd\/\d+\n$/)
    const refused = onNoexec([process.execPath, proof, "folder"]).stdout.toString()
    expect(refused).toStartWith("AlphaError cannot load libalpha.so: no place to put it allows execution")
    expect(refused).toContain("mounted noexec")
    expect(refused).toContain("set TMPDIR")
  })
})

describe("loading an embedded file from a folder", () => {
  const embedded = nativeLibraryPath()
  const bytes = readFileSync(embedded)

  test("the first folder that works gets a private copy; a damaged copy is replaced", () => {
    const folder = join(work, "cache/alpha")
    const path = loadablePath(embedded, [join(embedded, "not-a-folder"), folder])
    expect(path).toBe(join(folder, "libalpha.so"))
    expect(statSync(folder).mode & 0o777).toBe(0o700)
    chmodSync(path, 0o700)
    writeFileSync(path, "truncated")
    expect(readFileSync(loadablePath(embedded, [folder])).equals(bytes)).toBe(true)
  })

  test("a folder that others can write to is refused", () => {
    const folder = join(work, "open")
    mkdirSync(folder)
    chmodSync(folder, 0o777)
    expect(() => loadablePath(embedded, [folder])).toThrow(
      `cannot load libalpha.so: no place to put it allows execution (${folder}: others can write to it)`,
    )
  })
})

describe("cross build", () => {
  const target = findTarget("linux-arm64")
  const missing = [target.crossCompiler, target.emulator].find((program) => Bun.which(program) === null)
  testWith("cross", hostTarget === "linux-arm64" ? "this is arm64" : missing && `${missing} not found`)(
    "linux-arm64 builds and runs under qemu",
    () => {
      const run = Bun.spawnSync([process.execPath, join(root, "build.ts"), "--target=linux-arm64"], { stdout: "pipe", stderr: "pipe" })
      expect(`${run.exitCode} ${run.stderr}`).toBe("0 ")
      expect(run.stdout.toString()).toContain("alpha --version")
    },
    900_000,
  )

  test("no cross compiler: an error that names the Debian package", () => {
    const run = Bun.spawnSync([process.execPath, join(root, "build.ts"), "--target=linux-arm64"], { env: { PATH: work }, stderr: "pipe" })
    if (hostTarget === "linux-arm64") return
    expect(run.stderr.toString()).toContain("hint: apt-get install gcc-aarch64-linux-gnu")
  })
})

describe("npm test's own counting", () => {
  test("the files that take longest are there", () => {
    expect(Object.keys(LONGEST).filter((name) => !existsSync(join(import.meta.dir, `${name}.test.ts`)))).toEqual([])
  })

  test("counts come from the closing lines only", () => {
    const output =
      "(pass) 7 fail\n\n 3 fail\n\n\n 6 pass\n 1 skip\n 1 todo\n 2 fail\n 5 expect() calls\nRan 10 tests across 3 files. [1.52s]\n"
    expect(readCounts(output)).toEqual({ passed: 6, failed: 2, skipped: 2 })
    expect(readCounts("No tests found!\n")).toBeUndefined()
  })

  test("skipped tests are named with their file and group", () => {
    const junit = `<testcase name="a &lt; b (no gpu)" classname="g" time="0" file="test/a.test.ts" line="1" assertions="0">
      <skipped />
    </testcase><testcase name="ran" classname="" time="0" file="test/a.test.ts" line="2" assertions="1" />`
    expect(readSkipped(junit)).toEqual(["test/a.test.ts: g > a < b (no gpu)"])
  })
})

describe("bootstrap from Node alone", () => {
  /** A project with one locked package, an npm that records how it was called, and a Bun that only says its version. */
  function project(installed: string | undefined) {
    const folder = mkdtempSync(join(work, "project-"))
    cpSync(join(root, "build-bootstrap.mjs"), join(folder, "build-bootstrap.mjs"))
    const lock = (version: string) =>
      JSON.stringify({ packages: { "": {}, "node_modules/bun": { version }, "node_modules/other": { version: "1.0.0", optional: true } } })
    writeFileSync(join(folder, "package-lock.json"), lock("1.4.5"))
    mkdirSync(join(folder, "node_modules/bun"), { recursive: true })
    writeFileSync(join(folder, "node_modules/bun/package.json"), `{"version":"1.4.5"}`)
    if (installed !== undefined) writeFileSync(join(folder, "node_modules/.package-lock.json"), lock(installed))
    const npm = join(folder, "npm-cli.js")
    writeFileSync(npm, `console.log("npm called with", ...process.argv.slice(2)); process.exit(7)`)
    // The install script did not run: Bun lies in its platform package and bun.exe is the placeholder.
    const platform = `bun-${process.platform}-${process.arch === "arm64" ? "aarch64" : process.arch}`
    const bin = join(folder, "node_modules/@oven", platform, "bin")
    mkdirSync(bin, { recursive: true })
    mkdirSync(join(folder, "node_modules/bun/bin"))
    writeFileSync(join(folder, "node_modules/bun/bin/bun.exe"), "placeholder")
    writeFileSync(
      join(bin, "bun"),
      `#!/bin/sh\n[ "$1" = --version ] && echo 1.4.5 || echo "ran $@"; exit $CODE\n${"#".repeat(1_000_000)}\n`,
    )
    chmodSync(join(bin, "bun"), 0o755)
    const run = (args: string[], env: Record<string, string> = {}) =>
      Bun.spawnSync(["node", join(folder, "build-bootstrap.mjs"), ...args], {
        env: { ...process.env, npm_execpath: npm, ...env },
        stderr: "pipe",
      })
    return { folder, run }
  }

  test("node_modules as locked: Bun is found in its platform package, arguments and exit code pass through", () => {
    const run = project("1.4.5").run(["x.ts", "a b"])
    expect(`${run.exitCode} ${run.stdout}${run.stderr}`).toBe("0 ran x.ts a b\n")
  })

  test("node_modules missing or different: npm ci first, and its failure is named", () => {
    const missing = project(undefined).run(["x.ts"])
    expect(missing.stderr.toString()).toContain("npm ci (node_modules is missing)\nnpm called with ci --no-audit --no-fund\n")
    expect(missing.stderr.toString()).toContain("error: npm ci failed (exit 7)")
    expect(missing.exitCode).toBe(1)
    expect(project("1.4.4").run(["x.ts"]).stderr.toString()).toContain("npm ci (node_modules/bun should be 1.4.5, is 1.4.4)")
  })

  test("no Bun for this machine: an error that names the package", () => {
    const { folder, run } = project("1.4.5")
    rmSync(join(folder, "node_modules/@oven"), { recursive: true })
    expect(run(["x.ts"]).stderr.toString()).toMatch(/^error: no working Bun 1\.4\.5 .*@oven\/bun-\S+ is not installed/)
  })
})

test("outputs of other targets lie apart", () => {
  const folders = Object.values(TARGETS).map(outputFolder)
  expect(new Set(folders).size).toBe(folders.length)
})
