/** Files that survive a kill: atomic writes, checksums, errors that name the path and the cause. */

import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs"
import { open } from "node:fs/promises"
import { basename, dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"

/** What an errno means to a person, and what to do about it. */
const CAUSES: Record<string, { cause: string; hint: string }> = {
  ENOENT: { cause: "does not exist", hint: "check the path; relative paths start at the working directory" },
  EACCES: { cause: "permission denied", hint: "check the owner and mode of the file and its directory" },
  EPERM: { cause: "operation not permitted", hint: "check the owner and mode of the file and its directory" },
  EROFS: { cause: "the file system is read-only", hint: "choose a path on a writable file system" },
  ENOSPC: { cause: "no space left on the device", hint: "free some space or choose a path on another disk" },
  EDQUOT: { cause: "disk quota exceeded", hint: "free some space or choose a path on another disk" },
  EISDIR: { cause: "is a directory", hint: "give the path of a file" },
  ENOTDIR: { cause: "a part of the path is not a directory", hint: "check the path" },
  EMFILE: { cause: "too many open files", hint: "raise the limit: ulimit -n 4096" },
  EEXIST: { cause: "exists already", hint: "choose another name" },
  EIO: { cause: "input/output error", hint: "check the disk (dmesg)" },
}

/** Turns a system error of `action` ("read", "write" …) on `path` into an AlphaError that names both; AlphaErrors pass through. */
export function fileError(action: string, path: string, error: unknown): AlphaError {
  if (error instanceof AlphaError) return error
  const errno = (error as NodeJS.ErrnoException | undefined)?.code ?? ""
  const known = CAUSES[errno]
  const missingParent = errno === "ENOENT" && action !== "read" ? "its directory does not exist" : undefined
  const reason = missingParent ?? known?.cause ?? (error instanceof Error ? error.message : String(error))
  return new AlphaError(`cannot ${action} ${path}: ${reason}`, {
    hint: known?.hint,
    code: action === "read" ? EXIT.data : EXIT.failure,
    cause: error,
  })
}

/** Runs `work` and names `path` in whatever the system refuses. */
export function withFile<T>(action: string, path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw fileError(action, path, error)
  }
}

/** The whole file as UTF-8 text without a byte order mark; invalid bytes are an error that gives their offset. */
export function readText(path: string): string {
  const bytes = withFile("read", path, () => readFileSync(path))
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new AlphaError(`cannot read ${path}: not UTF-8 text (first bad byte at offset ${firstInvalidUtf8(bytes)} of ${bytes.length})`, {
      hint: "convert it, for example: iconv -f latin1 -t utf-8",
      code: EXIT.data,
      cause,
    })
  }
}

/** Offset of the first byte that is not part of whole, valid UTF-8; bytes.length when all is valid. */
export function firstInvalidUtf8(bytes: Uint8Array): number {
  const isValid = (end: number, stream: boolean) => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, end), { stream })
      return true
    } catch {
      return false
    }
  }
  // Bisect for the longest prefix that could go on, then drop the character it cuts (at most 3 bytes).
  let good = 0
  let bad = bytes.length + 1
  while (bad - good > 1) {
    const middle = (good + bad) >>> 1
    if (isValid(middle, true)) good = middle
    else bad = middle
  }
  while (!isValid(good, false)) good--
  return good
}

/** Parses a JSON file; a syntax error names the file. The caller checks the shape. */
export function readJson(path: string): unknown {
  const text = readText(path)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new AlphaError(`cannot read ${path}: not valid JSON (${(cause as Error).message})`, { code: EXIT.data, cause })
  }
}

/** Makes a directory and its parents durable to use; fine if it exists. Returns the first of them that was not there. */
export function makeDirectory(path: string): string | undefined {
  return withFile("make directory", path, () => mkdirSync(path, { recursive: true }))
}

/** Flushes a file or directory entry to the disk. */
export function fsyncPath(path: string): void {
  withFile("flush", path, () => {
    const file = openSync(path, "r")
    try {
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
  })
}

/** Writes all of `data` and flushes it; not atomic on its own (use inside a directory that `publishDirectory` renames). */
export function writeDurable(path: string, data: Uint8Array | string): void {
  withFile("write", path, () => writeAndFlush(path, data))
}

function writeAndFlush(path: string, data: Uint8Array | string): void {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data
  const file = openSync(path, "w")
  try {
    // A single write(2) moves at most 2^31 - 4096 bytes, so large files go in pieces.
    for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done, Math.min(bytes.length - done, 1 << 30))
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

/** Replaces `path` as a whole: after a kill at any instant the old or the new content is there, never a mixture. */
export function writeAtomic(path: string, data: Uint8Array | string): void {
  const temporary = temporaryName(path)
  withFile("write", path, () => {
    try {
      writeAndFlush(temporary, data)
      renameSync(temporary, path)
    } catch (error) {
      rmSync(temporary, { force: true })
      throw error
    }
  })
  fsyncPath(dirname(path))
}

/** A name beside `path`, hidden and tied to this process, for work that will be renamed over it. */
export function temporaryName(path: string): string {
  return join(dirname(path), `.${basename(path)}.${process.pid}.tmp`)
}

/** Flushes every file of directory `temporary` and renames it to `path`, which must not exist: the directory appears whole or not at all. */
export function publishDirectory(temporary: string, path: string): void {
  for (const entry of withFile("read", temporary, () => readdirSync(temporary))) fsyncPath(join(temporary, entry))
  fsyncPath(temporary)
  withFile("write", path, () => renameSync(temporary, path))
  fsyncPath(dirname(path))
}

/** SHA-256 in lower-case hex. */
export function sha256(data: Uint8Array | string): string {
  return new Bun.CryptoHasher("sha256").update(data).digest("hex")
}

/** SHA-256 of a file in lower-case hex, read in 4 MiB pieces. */
export async function sha256File(path: string): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256")
  const piece = new Uint8Array(4 << 20)
  try {
    const file = await open(path, "r")
    try {
      for (;;) {
        const { bytesRead } = await file.read(piece, 0, piece.length)
        if (bytesRead === 0) return hasher.digest("hex")
        hasher.update(piece.subarray(0, bytesRead))
      }
    } finally {
      await file.close()
    }
  } catch (error) {
    throw fileError("read", path, error)
  }
}
