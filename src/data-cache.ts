/** The .tokens file: tokenised data in the cache, with a checksummed header. */

import { closeSync, fsyncSync, openSync, readdirSync, readSync, renameSync, rmSync, statSync, writeSync } from "node:fs"
import { dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fsyncPath, sha256, temporaryName, withFile } from "./base-file.ts"
import { blocksOf } from "./data-scan.ts"

/** What the header of a .tokens file says. */
export interface TokenFileInfo {
  /** SHA-256 of everything the ids depend on: text, split, tokenizer, options. */
  key: string
  /** Bytes per id: 2 unsigned; 4 signed, with −1 − id for an id that takes no loss. Little-endian. */
  width: 2 | 4
  tokens: number
  /** Bytes of text behind the ids. */
  bytes: number
  documents: number
  counted: number
  /** SHA-256 of the ids as stored. */
  sha256: string
}

/** JSON, spaces, the SHA-256 of both in hex, a newline: `head -1 x.tokens` shows it. A multiple of the width, so views align. */
export const HEADER_BYTES = 4096
const SUM_BYTES = 65
const FORMAT = "alpha-tokens-1"

/** Writes a .tokens file piece by piece; it appears under its name only when finished. */
export class TokenFileWriter {
  private readonly path: string
  private readonly temporary: string
  private readonly file: number
  private readonly hasher = new Bun.CryptoHasher("sha256")
  private at = HEADER_BYTES

  constructor(path: string) {
    this.path = path
    this.temporary = temporaryName(path)
    this.file = withFile("write", this.temporary, () => openSync(this.temporary, "w"))
  }

  append(payload: Uint8Array): void {
    this.hasher.update(payload)
    this.write(payload, this.at)
    this.at += payload.length
  }

  /** Writes the header, flushes, renames. */
  finish(info: Omit<TokenFileInfo, "sha256">): TokenFileInfo {
    const full: TokenFileInfo = { ...info, sha256: this.hasher.digest("hex") }
    const text = JSON.stringify({ format: FORMAT, ...full }).padEnd(HEADER_BYTES - SUM_BYTES)
    this.write(new TextEncoder().encode(`${text}${sha256(text)}\n`), 0)
    withFile("write", this.temporary, () => fsyncSync(this.file))
    closeSync(this.file)
    withFile("write", this.path, () => renameSync(this.temporary, this.path))
    fsyncPath(dirname(this.path))
    return full
  }

  /** Removes what was written. */
  abandon(): void {
    closeSync(this.file)
    rmSync(this.temporary, { force: true })
  }

  private write(bytes: Uint8Array, at: number): void {
    withFile("write", this.path, () => {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.file, bytes, done, bytes.length - done, at + done)
    })
  }
}

/** Removes what killed processes left in the cache: hidden temporary files that nobody has written to for a day. */
export function removeStale(directory: string): void {
  const dayAgo = Date.now() - 24 * 3600 * 1000
  for (const name of readdirSync(directory)) {
    const path = join(directory, name)
    if (!/^\.(.+\.tmp|stdin-.+)$/.test(name)) continue
    const found = statSync(path, { throwIfNoEntry: false })
    if (found && found.mtimeMs < dayAgo) rmSync(path, { recursive: true, force: true })
  }
}

/**
 * Reads and verifies a .tokens file: header, size and the checksum of all ids. Returns undefined when the file is not there.
 * Throws AlphaError saying what is damaged.
 */
export async function verifyTokenFile(path: string, key: string, onBytes: (done: number) => void): Promise<TokenFileInfo | undefined> {
  const size = statSync(path, { throwIfNoEntry: false })?.size
  if (size === undefined) return undefined
  const damaged = (why: string) => new AlphaError(`${path}: damaged (${why})`, { hint: "delete it; it is made again", code: EXIT.data })
  const header = new Uint8Array(HEADER_BYTES)
  withFile("read", path, () => {
    const file = openSync(path, "r")
    try {
      readSync(file, header, 0, HEADER_BYTES, 0)
    } finally {
      closeSync(file)
    }
  })
  const text = new TextDecoder().decode(header)
  const body = text.slice(0, HEADER_BYTES - SUM_BYTES)
  if (text.slice(HEADER_BYTES - SUM_BYTES) !== `${sha256(body)}\n`) throw damaged("checksum of the header")
  const { format, ...info } = JSON.parse(body) as TokenFileInfo & { format: string }
  if (format !== FORMAT || info.key !== key) throw damaged("it was made from other data")
  const needed = HEADER_BYTES + info.tokens * info.width
  if (size !== needed) throw damaged(`${size} bytes, expected ${needed}`)
  const hasher = new Bun.CryptoHasher("sha256")
  for await (const block of blocksOf(path, HEADER_BYTES, size)) {
    hasher.update(block)
    onBytes(block.length)
  }
  if (hasher.digest("hex") !== info.sha256) throw damaged("checksum of the ids")
  return info
}
