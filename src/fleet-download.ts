/** A run fetched from a machine: every byte verified, and the directory changes as a whole. */
import { closeSync, copyFileSync, existsSync, linkSync, openSync, renameSync, rmSync, statSync, symlinkSync, writeSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fsyncPath, makeDirectory, sha256File, withFile } from "./base-file.ts"
import { runRecord } from "./db.ts"
import type { FleetHost } from "./fleet-config.ts"
import { type Manifest, type Part, type Piece, type RunFile, within } from "./fleet-host-files.ts"
import { askHost } from "./fleet-job.ts"
import { HostError } from "./fleet-parallel.ts"
import { stream } from "./fleet-stream.ts"

export const filesWords = (run: string | undefined, part: Part): string[] => [
  "host",
  "files",
  ...(run === undefined ? [] : [`--run=${run}`]),
  `--part=${part}`,
  "--json",
]

export interface DownloadOptions {
  readonly run: string | undefined
  readonly part: Part
  /** Folder in which the run's directory appears. */
  readonly to: string
  readonly onProgress: (done: number, total: number) => void
  readonly note: (text: string) => void
}

export interface Downloaded {
  readonly name: string
  readonly directory: string
  readonly files: number
  readonly bytes: number
  /** Bytes that came over the line; the rest was here already. */
  readonly fetched: number
}

/** Times that a run may change under the download before it gives up. */
const TRIES = 4

/** The run went on meanwhile: a journal was rewound, or a checkpoint made room for a newer one. */
class Changed extends AlphaError {}

/** Fetches a run; what an earlier download left is used. Throws where another run of that name is here. */
export async function downloadRun(host: FleetHost, options: DownloadOptions): Promise<Downloaded> {
  let fetched = 0
  for (let attempt = 1; ; attempt++) {
    const found = await askHost<Manifest & { name: string }>(host, filesWords(options.run, options.part))
    const name = basename(found.name)
    const directory = join(options.to, name)
    const staging = join(options.to, `.${name}.download`)
    if (existsSync(directory) && !isSame(directory, found.id)) {
      throw new AlphaError(`${directory} is another run than ${name} on ${host.name}`, {
        hint: "choose another folder: --to=DIR",
        code: EXIT.usage,
      })
    }
    try {
      fetched += await fill(host, found, directory, staging, options)
      publish(staging, directory, found)
      const bytes = sizeOf(found.files)
      return { name, directory, files: found.files.length, bytes, fetched }
    } catch (error) {
      if (!(error instanceof Changed) || attempt === TRIES) throw error
      options.note(`${error.message}; the list is fetched again`)
    }
  }
}

const isSame = (directory: string, id: string): boolean => existsSync(join(directory, "config.json")) && runRecord(directory).id === id

const sizeOf = (files: readonly { readonly bytes: number }[]): number => files.reduce((sum, { bytes }) => sum + bytes, 0)

/** Makes `staging` hold every file of the list; returns the bytes that were fetched. */
async function fill(
  host: FleetHost,
  found: Manifest & { name: string },
  directory: string,
  staging: string,
  options: DownloadOptions,
): Promise<number> {
  makeDirectory(staging)
  const missing: RunFile[] = []
  for (const file of found.files) {
    const target = within(staging, file.path)
    makeDirectory(dirname(target))
    if (await isWhole(target, file)) continue
    const before = within(directory, file.path)
    if (!(await isWhole(before, file))) missing.push(file)
    else {
      rmSync(target, { force: true })
      // What is in a checkpoint is never written again; a journal here might be.
      if (file.path.startsWith("checkpoints/")) linkSync(before, target)
      else copyFileSync(before, target)
    }
  }
  const total = sizeOf(found.files)
  const here = total - sizeOf(missing)
  let fetched = 0
  // What an earlier try left of a file is taken for its beginning once; the sum says whether it was.
  for (const isAnew of [false, true]) {
    const wanted = missing.map((file): Piece => {
      const path = within(staging, file.path)
      const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0
      const from = isAnew || size > file.bytes ? 0 : size
      if (from === 0) rmSync(path, { force: true })
      return { path: file.path, from, length: file.bytes - from }
    })
    const kept = wanted.reduce((sum, { from }) => sum + from, 0)
    fetched += await fetchPieces(host, found.name, wanted, staging, options, (done) => options.onProgress(here + kept + done, total))
    const broken: RunFile[] = []
    for (const file of missing) if (!(await isWhole(within(staging, file.path), file))) broken.push(file)
    if (broken.length === 0) return fetched
    missing.splice(0, missing.length, ...broken)
  }
  throw new Changed(`${missing[0]!.path} is not what was listed`)
}

async function isWhole(path: string, { bytes, sha256 }: RunFile): Promise<boolean> {
  return statSync(path, { throwIfNoEntry: false })?.size === bytes && (await sha256File(path)) === sha256
}

/** Appends every piece to its file; returns their bytes. */
async function fetchPieces(
  host: FleetHost,
  run: string,
  wanted: readonly Piece[],
  staging: string,
  { note }: DownloadOptions,
  onBytes: (done: number) => void,
): Promise<number> {
  const total = wanted.reduce((sum, { length }) => sum + length, 0)
  for (const { path, length } of wanted) if (length === 0) closeSync(openSync(within(staging, path), "a"))
  if (total === 0) return 0
  let done = 0
  /** What is left of the pieces after `at` bytes of all of them. */
  const rest = (at: number): Piece[] => {
    let start = 0
    return wanted.flatMap(({ path, from, length }) => {
      const skip = Math.min(length, Math.max(0, at - start))
      start += length
      return length - skip > 0 ? [{ path, from: from + skip, length: length - skip }] : []
    })
  }
  await stream(host, {
    request: (at = 0) => ({ words: ["host", "read", `--run=${run}`, `--from=${at}`], stdin: JSON.stringify(rest(at)) }),
    from: 0,
    take: (bytes) => {
      for (let used = 0; used < bytes.length; ) {
        const { path, length } = rest(done)[0]!
        const part = bytes.subarray(used, used + length)
        append(within(staging, path), part)
        used += part.length
        done += part.length
      }
      onBytes(done)
    },
    patience: 5,
    note,
  }).catch((error) => {
    if (error instanceof HostError && /does not exist|is shorter than/.test(error.message)) throw new Changed(error.message)
    throw error
  })
  return total
}

function append(path: string, bytes: Uint8Array): void {
  withFile("write", path, () => {
    const file = openSync(path, "a")
    try {
      for (let out = 0; out < bytes.length; ) out += writeSync(file, bytes, out)
    } finally {
      closeSync(file)
    }
  })
}

/** Replaces `directory` by `staging`. */
function publish(staging: string, directory: string, { files, links }: Manifest): void {
  for (const { path, target } of links) {
    rmSync(join(staging, path), { force: true })
    symlinkSync(target, join(staging, path))
  }
  // Checkpoints that the run no longer has are of an earlier, broken download.
  const wanted = new Set([...files, ...links].map(({ path }) => path))
  for (const path of new Bun.Glob("**/*").scanSync({ cwd: staging, onlyFiles: true, dot: true }))
    if (!wanted.has(path)) rmSync(join(staging, path))
  for (const { path } of files) fsyncPath(join(staging, path))
  fsyncPath(staging)
  const old = `${staging}.old`
  rmSync(old, { recursive: true, force: true })
  withFile("write", directory, () => {
    if (existsSync(directory)) renameSync(directory, old)
    renameSync(staging, directory)
  })
  fsyncPath(dirname(directory))
  rmSync(old, { recursive: true, force: true })
}
