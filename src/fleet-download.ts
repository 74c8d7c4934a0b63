/** A run fetched from a machine: every byte verified, and the directory changes as a whole. */
import { closeSync, copyFileSync, existsSync, fstatSync, linkSync, mkdirSync, openSync, renameSync, rmSync, symlinkSync, truncateSync, writeSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fsyncPath, makeDirectory, readJson, sha256File, withFile } from "./base-file.ts"
import type { FleetHost } from "./fleet-config.ts"
import type { Manifest, Part, RunFile } from "./fleet-host-files.ts"
import { within } from "./fleet-host-files.ts"
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

/** Fetches a run; what an earlier download left is used. Throws where another run of that name is here. */
export async function downloadRun(host: FleetHost, options: DownloadOptions): Promise<Downloaded> {
  let fetched = 0
  for (let attempt = 1; ; attempt++) {
    const found = await askHost<Manifest & { name: string }>(host, filesWords(options.run, options.part))
    const directory = join(options.to, basename(found.name))
    const staging = join(options.to, `.${basename(found.name)}.download`)
    try {
      await checkSame(directory, found)
      fetched += await fill(host, found, directory, staging, options)
      publish(staging, directory, found)
      const bytes = found.files.reduce((sum, file) => sum + file.bytes, 0)
      return { name: found.name, directory, files: found.files.length, bytes, fetched }
    } catch (error) {
      if (!(error instanceof Changed) || attempt === TRIES) throw error
      options.note(`${error.message}; the list is fetched again`)
    }
  }
}

/** The run went on meanwhile: a journal was rewound, or a checkpoint made room for a newer one. */
class Changed extends AlphaError {}

/** What is at `directory` must be an earlier download of the same run. */
async function checkSame(directory: string, { name, files }: Manifest & { name: string }): Promise<void> {
  const path = join(directory, "config.json")
  if (!existsSync(directory)) return
  const theirs = files.find((file) => file.path === "config.json")
  if (existsSync(path) && (theirs?.sha256 === (await sha256File(path)) || existsSync(join(directory, ".downloaded")))) return
  throw new AlphaError(`${directory} is there and no download of ${name}`, { hint: "choose another folder: --to=DIR", code: EXIT.usage })
}

/** Makes `staging` hold every file of the list; returns the bytes that were fetched. */
async function fill(host: FleetHost, found: Manifest & { name: string }, directory: string, staging: string, options: DownloadOptions): Promise<number> {
  const total = found.files.reduce((sum, file) => sum + file.bytes, 0)
  let done = 0
  let fetched = 0
  makeDirectory(staging)
  for (const file of found.files) {
    const target = within(staging, file.path)
    makeDirectory(dirname(target))
    const before = within(directory, file.path)
    if (!(await isWhole(target, file)) && (await isWhole(before, file))) {
      rmSync(target, { force: true })
      // Journals are written on by nobody here, but a copy costs little and never can be.
      if (file.path.startsWith("checkpoints/")) linkSync(before, target)
      else copyFileSync(before, target)
    }
    const start = done
    if (!(await isWhole(target, file))) {
      fetched += await fetchFile(host, found.name, file, target, options, (bytes) => options.onProgress(start + bytes, total))
    }
    done += file.bytes
    options.onProgress(done, total)
  }
  return fetched
}

async function isWhole(path: string, { bytes, sha256 }: RunFile): Promise<boolean> {
  return existsSync(path) && Bun.file(path).size === bytes && (await sha256File(path)) === sha256
}

/** The file from where it broke off before; from the beginning where what is there is not its beginning. */
async function fetchFile(
  host: FleetHost,
  run: string,
  wanted: RunFile,
  target: string,
  { note }: DownloadOptions,
  onBytes: (done: number) => void,
): Promise<number> {
  let fetched = 0
  for (const isAnew of [false, true]) {
    const file = withFile("write", target, () => openSync(target, "a"))
    try {
      let at = fstatSync(file).size
      if (isAnew || at >= wanted.bytes) {
        truncateSync(target)
        at = 0
      }
      await stream(host, {
        words: (from = at) => ["host", "read", `--run=${run}`, `--file=${wanted.path}`, `--from=${from}`, `--length=${wanted.bytes - from}`],
        from: at,
        take: (bytes) => {
          for (let out = 0; out < bytes.length; ) out += withFile("write", target, () => writeSync(file, bytes, out))
          at += bytes.length
          fetched += bytes.length
          onBytes(at)
        },
        patience: 5,
        note,
      }).catch((error) => {
        if (error instanceof HostError && /does not exist/.test(error.message)) throw new Changed(`${wanted.path} is gone`)
        throw error
      })
    } finally {
      closeSync(file)
    }
    if (await isWhole(target, wanted)) return fetched
  }
  throw new Changed(`${wanted.path} is not what was listed`)
}

/** Replaces `directory` by `staging`. */
function publish(staging: string, directory: string, { files, links }: Manifest): void {
  for (const { path, target } of links) {
    rmSync(join(staging, path), { force: true })
    symlinkSync(target, join(staging, path))
  }
  // Checkpoints that the run no longer has are of an earlier, broken download.
  const wanted = new Set(files.map(({ path }) => path))
  for (const path of new Bun.Glob("**/*").scanSync({ cwd: staging, onlyFiles: true, dot: true })) {
    if (!wanted.has(path) && !links.some((link) => link.path === path)) rmSync(join(staging, path))
  }
  withFile("write", join(staging, ".downloaded"), () => closeSync(openSync(join(staging, ".downloaded"), "w")))
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
