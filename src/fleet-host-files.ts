/** The files of a run as they are now, with their sums, and their bytes. */
import { closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync } from "node:fs"
import { join, relative, resolve, sep } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile } from "./base-file.ts"
import { runRecord } from "./db.ts"
import { frameHead, MARK } from "./fleet-frame.ts"

export interface RunFile {
  /** From the run's directory, with slashes. */
  readonly path: string
  readonly bytes: number
  readonly sha256: string
}

export interface Manifest {
  /** Of the run, for good. */
  readonly id: string
  readonly files: readonly RunFile[]
  readonly links: readonly { readonly path: string; readonly target: string }[]
}

/** What of a run is wanted: everything, what is needed to go on, or what is needed to use the model. */
export const PARTS = ["all", "last", "best"] as const
export type Part = (typeof PARTS)[number]

const PIECE = 1 << 20

/** Files of the run in `directory`; a file that still grows counts as long as it is now. Temporary files and the lock are left out. */
export function manifest(directory: string, part: Part): Manifest {
  const links = (["last", "best"] as const).flatMap((name) => {
    const path = join(directory, name)
    const isLink = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true
    return isLink && (part === "all" || part === name) ? [{ path: name, target: withFile("read", path, () => readlinkSync(path)) }] : []
  })
  const wanted = links.map(({ target }) => target)
  if (part !== "all" && links.length === 0) throw new AlphaError(`${directory} has no ${part} checkpoint yet`, { code: EXIT.data })
  const isWanted = (path: string) => part === "all" || !path.startsWith("checkpoints/") || wanted.some((one) => path.startsWith(`${one}/`))
  const files = filesUnder(directory, "").filter(isWanted)
  return { id: runRecord(directory).id, files: files.map((path) => ({ path, ...sumOf(join(directory, path)) })), links }
}

function filesUnder(root: string, folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`
      if (entry.name.startsWith(".") || path === "lock") return []
      return entry.isDirectory() ? filesUnder(root, path) : entry.isFile() ? [path] : []
    })
}

function sumOf(path: string): { bytes: number; sha256: string } {
  const hasher = new Bun.CryptoHasher("sha256")
  let bytes = 0
  for (const piece of pieces(path, 0, lstatSync(path).size)) {
    hasher.update(piece)
    bytes += piece.length
  }
  return { bytes, sha256: hasher.digest("hex") }
}

/** Bytes `from` … `from + length` of a file, fewer where it ends before. */
export function* pieces(path: string, from: number, length: number): Generator<Uint8Array> {
  const file = withFile("read", path, () => openSync(path, "r"))
  try {
    const piece = new Uint8Array(Math.min(PIECE, Math.max(1, length)))
    for (let at = 0; at < length; ) {
      const count = readSync(file, piece, 0, Math.min(piece.length, length - at), from + at)
      if (count === 0) return
      yield piece.subarray(0, count)
      at += count
    }
  } finally {
    closeSync(file)
  }
}

/** Bytes `from` … `from + length` of a file of the run. */
export interface Piece {
  readonly path: string
  readonly from: number
  readonly length: number
}

/** Sends pieces one after the other as one stream, whose first byte has the number `at`. */
export async function sendPieces(
  directory: string,
  wanted: readonly Piece[],
  at: number,
  write: (bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const size = at + wanted.reduce((sum, { length }) => sum + length, 0)
  await write(Buffer.concat([new TextEncoder().encode(MARK), frameHead({ kind: "file", id: "run", size })]))
  let offset = at
  for (const { path, from, length } of wanted) {
    let left = length
    for (const bytes of pieces(within(directory, path), from, length)) {
      await write(Buffer.concat([frameHead({ kind: "data", offset, bytes }), bytes]))
      offset += bytes.length
      left -= bytes.length
    }
    if (left > 0) throw new AlphaError(`${path} is shorter than it was`, { code: EXIT.data })
  }
  await write(frameHead({ kind: "end", state: "ok" }))
}

/** The path of file `name` within `directory`. Throws for one that leads out of it. */
export function within(directory: string, name: string): string {
  const path = resolve(directory, name)
  if (path !== resolve(directory) && !relative(resolve(directory), path).startsWith("..") && !name.startsWith(sep)) return path
  throw new AlphaError(`${name} leads out of ${directory}`, { code: EXIT.usage })
}
