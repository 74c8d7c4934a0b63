/** Finds the native library: embedded in the binary and made loadable, or built from source on demand. */
import { dlopen, FFIType } from "bun:ffi"
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { basename, join, resolve } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import { writeAtomic } from "./base-file.ts"

/**
 * Path of libalpha.so that dlopen accepts: ALPHA_NATIVE_LIBRARY, compiled on this machine by `alpha fleet deploy --rebuildNative`, else the
 * program's own. Throws AlphaError when no place allows it or, from source, when it cannot be built.
 */
export function nativeLibraryPath(): string {
  const compiledHere = process.env.ALPHA_NATIVE_LIBRARY
  if (compiledHere) {
    if (existsSync(compiledHere)) return resolve(compiledHere)
    throw new AlphaError(`ALPHA_NATIVE_LIBRARY ${compiledHere}: does not exist`, {
      hint: "unset it to use the program's own",
      code: EXIT.device,
    })
  }
  // build.ts resolves this name to the library it compiled, which the binary then carries.
  return isCompiled ? loadablePath(require("alpha:native-library")) : sourceLibrary()
}

const libc = () =>
  dlopen("libc.so.6", {
    memfd_create: { args: [FFIType.cstring, FFIType.u32], returns: FFIType.i32 },
    mmap: { args: [FFIType.ptr, FFIType.u64, FFIType.i32, FFIType.i32, FFIType.i32, FFIType.i64], returns: FFIType.i64 },
    munmap: { args: [FFIType.i64, FFIType.u64], returns: FFIType.i32 },
  }).symbols

/** Whether the system lets pages of this open file be executed: no on a noexec mount or where a security module refuses. */
function isExecutable(fd: number): boolean {
  const [PROT_READ_EXEC, MAP_PRIVATE, length] = [5, 2, 4096]
  const { mmap, munmap } = libc()
  const address = mmap(null, length, PROT_READ_EXEC, MAP_PRIVATE, fd, 0)
  if (Number(address) === -1) return false
  munmap(address, length)
  return true
}

/** The place that needs no file system: an anonymous file in memory, shared by the threads of this process. */
const MEMORY = "memory"

/**
 * A path from which the embedded file `embedded` (a library or a Node addon) can be loaded, in the first of `places` (MEMORY or folders for a
 * checked copy) that allows execution. Throws AlphaError naming what was tried.
 */
export function loadablePath(embedded: string, places: readonly string[] = [MEMORY, ...cacheFolders()]): string {
  const bytes = readFileSync(embedded)
  const name = basename(embedded) // the bundler puts a hash of the content into it
  const tried: string[] = []
  for (const place of places) {
    try {
      return place === MEMORY ? memoryFile(name, bytes) : cachedFile(place, name, bytes)
    } catch (error) {
      tried.push(`${place}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  throw new AlphaError(`cannot load ${name}: no place to put it allows execution (${tried.join("; ")})`, {
    hint: "set TMPDIR to a writable directory on a file system that is not mounted noexec",
    code: EXIT.device,
  })
}

/** Folders for the copy, in order; each is private to the user. */
function cacheFolders(): string[] {
  const { XDG_CACHE_HOME, HOME, TMPDIR } = process.env
  const user = `alpha-${process.getuid?.() ?? 0}`
  const folders = [
    XDG_CACHE_HOME && join(XDG_CACHE_HOME, "alpha"),
    HOME && join(HOME, ".cache", "alpha"),
    TMPDIR && join(TMPDIR, user),
    join(tmpdir(), user),
  ]
  return [...new Set([...folders, join("/tmp", user)].filter((folder) => folder !== undefined && folder !== ""))] as string[]
}

/** Writes `bytes` to a memfd, or finds the one that another thread made, so that all threads share one copy of the library. */
function memoryFile(name: string, bytes: Uint8Array): string {
  const folder = "/proc/self/fd"
  for (const fd of readdirSync(folder)) {
    const target = linkTarget(join(folder, fd))
    if (target === `/memfd:${name} (deleted)` && statSync(join(folder, fd)).size === bytes.length) return join(folder, fd)
  }
  const MFD_CLOEXEC = 1
  const fd = libc().memfd_create(new TextEncoder().encode(`${name}\0`), MFD_CLOEXEC)
  if (fd < 0) throw new Error("memfd_create is refused")
  try {
    writeAll(fd, bytes)
    if (!isExecutable(fd)) throw new Error("execution from memory files is refused")
    statSync(join(folder, String(fd)))
  } catch (error) {
    closeSync(fd)
    throw error
  }
  return join(folder, String(fd))
}

function linkTarget(path: string): string | undefined {
  try {
    return readlinkSync(path)
  } catch {
    return undefined // closed since the listing
  }
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
}

/** A copy in `folder`, written atomically, checked byte by byte on every use. */
function cachedFile(folder: string, name: string, bytes: Uint8Array): string {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const { uid, mode } = lstatSync(folder)
  if (uid !== process.getuid?.() || (mode & 0o022) !== 0) throw new Error("others can write to it")
  const path = join(folder, name)
  if (!sameContent(path, bytes)) {
    writeAtomic(path, bytes)
    chmodSync(path, 0o500)
  }
  const fd = openSync(path, "r")
  try {
    if (!isExecutable(fd)) throw new Error("mounted noexec")
  } finally {
    closeSync(fd)
  }
  return path
}

function sameContent(path: string, bytes: Uint8Array): boolean {
  try {
    return readFileSync(path).equals(bytes)
  } catch {
    return false
  }
}

/** Why a command failed: its own words, and the signal that killed it, for then it may have had none. */
export function reasonOf(run: Pick<Bun.SyncSubprocess, "stderr" | "exitCode" | "signalCode">): string {
  const words = run.stderr?.toString().trim() ?? ""
  if (run.signalCode !== undefined && run.signalCode !== null) return `killed by ${run.signalCode}${words === "" ? "" : `: ${words}`}`
  return words === "" ? `exit ${run.exitCode}` : words
}

/** From source: `.bun-out/libalpha.so`, rebuilt when native/ or its builder is newer. */
function sourceLibrary(): string {
  const root = join(import.meta.dir, "..")
  const path = join(root, ".bun-out/libalpha.so")
  const inputs = ["build-native.ts", "native", ...readdirSync(join(root, "native")).map((file) => join("native", file))]
  const built = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (inputs.some((input) => statSync(join(root, input)).mtimeMs > built)) {
    const run = Bun.spawnSync([process.execPath, join(root, "build-native.ts")], { cwd: root, stdout: "pipe", stderr: "pipe" })
    if (!run.success) throw new AlphaError(`the native library cannot be built: ${reasonOf(run)}`, { code: EXIT.device })
  }
  return path
}
