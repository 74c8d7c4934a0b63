/** From what the user named (path, directory, glob, "-") to a sorted list of input files. */

import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs"
import { open } from "node:fs/promises"
import { basename, dirname, extname, join } from "node:path"
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { fileError, makeDirectory, sha256, withFile, writeAtomic } from "./base-file.ts"
import type { DataOptions, Source, SourceKind } from "./data-types.ts"

/** Suffixes with a meaning; every other file is text. */
const KINDS: Record<string, SourceKind | "array"> = { ".jsonl": "rows", ".ndjson": "rows", ".json": "array", ".bin": "shard" }
/** JSON.parse needs the whole text as one string. */
const MAX_ARRAY_BYTES = 256 * 2 ** 20

/**
 * The files that `spec` means, in byte order of their paths. A directory stands for every file below it except hidden ones; one that
 * holds .bin shards (a nanoGPT data directory) stands for those alone. A .json file holds an array of rows.
 * Throws AlphaError when nothing is there, naming the nearest path, or when text and shards are mixed.
 */
export async function findSources(spec: string, cacheDir: string, onProgress?: DataOptions["onProgress"]): Promise<Source[]> {
  if (spec === "-") {
    standardInput ??= spoolStandardInput(cacheDir, onProgress)
    return [await standardInput]
  }
  const paths = listFiles(spec)
  const sources = paths.map((path) => sourceOf(path, cacheDir))
  const shard = sources.find((source) => source.kind === "shard")
  const other = sources.find((source) => source.kind !== "shard")
  if (shard && other) {
    throw new AlphaError(`data ${spec}: holds both token shards (${shard.name}) and text (${other.name})`, {
      hint: "name one kind, for example with a glob: --data='dir/*.bin'",
      code: EXIT.data,
    })
  }
  if (sources.every((source) => source.bytes === 0)) throw emptyData(spec, sources.length)
  return sources.filter((source) => source.bytes > 0)
}

function emptyData(spec: string, files: number): AlphaError {
  return new AlphaError(`data ${spec}: 0 bytes${files > 1 ? ` in ${files} files` : ""} — expected text, jsonl rows or .bin shards`, {
    hint: "pass a text file, a .jsonl file or a .bin shard (alpha train --help)",
    code: EXIT.data,
  })
}

function listFiles(spec: string): string[] {
  const found = statSync(spec, { throwIfNoEntry: false })
  if (found?.isDirectory()) return filesBelow(spec)
  if (found) return [spec]
  if (/[*?[{]/.test(spec)) {
    const paths = [...new Bun.Glob(spec).scanSync({ onlyFiles: true, dot: false })].sort(byBytes)
    if (paths.length > 0) return paths
    throw new AlphaError(`data ${spec}: no file matches this pattern`, {
      hint: `patterns start at ${process.cwd()}; ** crosses directories`,
      code: EXIT.data,
    })
  }
  throw missing(spec)
}

function missing(spec: string): AlphaError {
  const directory = dirname(spec)
  let names: string[] = []
  try {
    names = readdirSync(directory)
  } catch {
    const hint = /^https?:/.test(spec) ? `data are files: curl -LO ${spec}` : "check the path"
    return new AlphaError(`data ${spec}: directory ${directory} does not exist`, { hint, code: EXIT.data })
  }
  // The ending that two files share does not make them alike.
  const stem = (name: string) => basename(name, extname(name))
  const meant = nearest(stem(spec), names.map(stem))
  const near = names.find((name) => stem(name) === meant)
  return new AlphaError(`data ${spec}: no such file or directory`, {
    hint: near ? `did you mean ${join(directory, near)}?` : "relative paths start at the working directory",
    code: EXIT.data,
  })
}

function filesBelow(directory: string): string[] {
  const names = withFile("read", directory, () => readdirSync(directory, { recursive: true, encoding: "utf8" }))
  const visible = names.filter((name) => !name.split("/").some((part) => part.startsWith(".")))
  const paths = visible.map((name) => join(directory, name)).filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile())
  if (paths.length === 0) throw new AlphaError(`data ${directory}: no files below this directory`, { code: EXIT.data })
  const shards = paths.filter((path) => extname(path) === ".bin")
  return (shards.length > 0 ? shards : paths).sort(byBytes)
}

/** Order of the UTF-8 bytes, as `ls` gives in the C locale. */
function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

function sourceOf(path: string, cacheDir: string): Source {
  const kind = KINDS[extname(path).toLowerCase()] ?? "text"
  if (kind === "array") return rowsOfArray(path, cacheDir)
  return { path, name: path, kind, bytes: withFile("read", path, () => statSync(path)).size }
}

/** Turns a JSON array of rows into a rows file in the cache, named by its content: line n is element n. */
function rowsOfArray(path: string, cacheDir: string): Source {
  const bytes = withFile("read", path, () => statSync(path)).size
  const fail = (why: string, hint: string) => new AlphaError(`data ${path}: ${why}`, { hint, code: EXIT.data })
  if (bytes === 0) return { path, name: path, kind: "rows", bytes }
  if (bytes > MAX_ARRAY_BYTES)
    throw fail(`a JSON array of ${bytes} bytes`, "convert it to one object per line: jq -c '.[]' x.json > x.jsonl")
  const content = withFile("read", path, () => readFileSync(path))
  let rows: unknown
  try {
    rows = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content))
  } catch (cause) {
    throw fail(`not valid JSON (${(cause as Error).message})`, "name a file of one object per line .jsonl")
  }
  if (!Array.isArray(rows)) throw fail("expected a JSON array of rows", "name a file of one object per line .jsonl")
  makeDirectory(cacheDir)
  const converted = join(cacheDir, `rows-${sha256(content).slice(0, 32)}.jsonl`)
  const text = rows.map((row) => `${JSON.stringify(row)}\n`).join("")
  writeAtomic(converted, text)
  return { path: converted, name: path, kind: "rows", bytes: Buffer.byteLength(text) }
}

/** Standard input can be read once; whoever asks again gets the same copy. */
let standardInput: Promise<Source> | undefined

/**
 * Copies standard input to a file in the cache named by its content, so that it can be read twice and a resumed run finds it.
 * Input whose first line is a JSON object is rows, anything else text.
 */
async function spoolStandardInput(cacheDir: string, onProgress: DataOptions["onProgress"]): Promise<Source> {
  makeDirectory(cacheDir)
  const directory = withFile("write", cacheDir, () => mkdtempSync(join(cacheDir, ".stdin-")))
  const temporary = join(directory, "input")
  const hasher = new Bun.CryptoHasher("sha256")
  let head = new Uint8Array(0)
  let bytes = 0
  try {
    const file = await open(temporary, "w")
    try {
      const tell = () => onProgress?.({ label: "read standard input", done: bytes, total: 0 })
      for await (const part of inputParts(tell)) {
        hasher.update(part)
        await file.writeFile(part)
        if (head.length < 4096) head = Buffer.concat([head, part])
        bytes += part.length
      }
    } finally {
      await file.close()
    }
    const kind = looksLikeRows(head) ? "rows" : "text"
    const path = join(cacheDir, `stdin-${hasher.digest("hex").slice(0, 32)}.${kind === "rows" ? "jsonl" : "txt"}`)
    if (bytes === 0) throw emptyData("-", 1)
    renameSync(temporary, path)
    return { path, name: "standard input", kind, bytes }
  } catch (error) {
    throw fileError("write", temporary, error)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Standard input piece by piece; `tell` is called for each, and a few times a second while nothing comes: what it throws ends the waiting. */
async function* inputParts(tell: () => void): AsyncGenerator<Uint8Array> {
  const reader = Bun.stdin.stream().getReader()
  for (;;) {
    const next = reader.read()
    for (let part: Awaited<typeof next> | undefined; part === undefined; ) {
      part = await Promise.race([next, Bun.sleep(200).then(() => undefined)])
      tell()
      if (part?.done) return
      if (part !== undefined) yield part.value
    }
  }
}

/** True when the first line starts a JSON object with one of the fields that rows have. */
function looksLikeRows(head: Uint8Array): boolean {
  return /^\s*\{\s*"(text|messages|instruction|input|output)"\s*:/.test(new TextDecoder().decode(head))
}
