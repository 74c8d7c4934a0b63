/** The PTX pack: every module's text and, where it was assembled, its machine code, with what a launch needs, compressed. */
import { existsSync, readFileSync } from "node:fs"
import { AlphaError } from "./base-error.ts"
import type { PtxCell, PtxKernel } from "./ptx-kernel.ts"

/** A module, and how its entry, which has the module's name, is launched. */
export interface PtxEntry {
  readonly name: string
  readonly threads: number
  readonly sharedBytes: number
  readonly cells: readonly PtxCell[]
  readonly text: string
  /** What ptxas made of the text for Hopper, an ELF file; undefined where the build had no ptxas. */
  readonly code: Uint8Array<ArrayBuffer> | undefined
}

/** What the index holds of an entry: texts and codes follow each other in its order. */
type Row = Omit<PtxEntry, "text" | "code"> & { readonly textBytes: number; readonly codeBytes: number }

/** "PTX" and the version of the pack's form. */
const MAGIC = 0x02585450

/** Bytes of the four words before the compressed parts: MAGIC, then the length of each part. */
const HEAD = 16

export const ptxEntry = ({ name, threads, sharedBytes, cells, text }: PtxKernel): PtxEntry => ({
  name,
  threads,
  sharedBytes,
  cells,
  text,
  code: undefined,
})

const joined = (parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.concat(parts))

/** The same kernels and codes (by name) always give the same bytes. Throws AlphaError where two kernels have one name. */
export function ptxPack(kernels: readonly PtxKernel[], codes: ReadonlyMap<string, Uint8Array> = new Map()): Uint8Array<ArrayBuffer> {
  const names = kernels.map(({ name }) => name)
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) throw new AlphaError(`kernel ${twice}: the name is taken`)
  const encoder = new TextEncoder()
  const texts = kernels.map(({ text }) => encoder.encode(text))
  const programs = names.map((name) => codes.get(name) ?? new Uint8Array())
  const rows = kernels.map(
    ({ name, threads, sharedBytes, cells }, i): Row => ({
      name,
      threads,
      sharedBytes,
      cells,
      textBytes: (texts[i] as Uint8Array).length,
      codeBytes: (programs[i] as Uint8Array).length,
    }),
  )
  const parts = [encoder.encode(JSON.stringify(rows)), joined(texts), joined(programs)].map((part) =>
    Bun.zstdCompressSync(part, { level: 15 }),
  )
  const head = new Uint32Array([MAGIC, ...parts.map(({ length }) => length)])
  return joined([new Uint8Array(head.buffer), ...parts])
}

/** The entries of a pack by name; texts are decompressed when one is first asked for. Throws AlphaError when the blob is none of this version. */
export function readPtxPack(blob: Uint8Array<ArrayBuffer>): ReadonlyMap<string, PtxEntry> {
  const [magic, ...lengths] = blob.length < HEAD ? [] : new Uint32Array(blob.slice(0, HEAD).buffer)
  if (magic !== MAGIC) throw new AlphaError("PTX pack: not a pack of this version", { hint: "npm run build" })
  let end = HEAD
  const [index, texts, codes] = lengths.map((length) => {
    end += length
    return blob.subarray(end - length, end)
  }) as [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>]
  const decoder = new TextDecoder()
  const rows = JSON.parse(decoder.decode(Bun.zstdDecompressSync(index))) as readonly Row[]
  const programs = Bun.zstdDecompressSync(codes)
  let all: Uint8Array | undefined
  let [textAt, codeAt] = [0, 0]
  const entries = rows.map(({ textBytes, codeBytes, ...row }): PtxEntry => {
    const from = textAt
    textAt += textBytes
    codeAt += codeBytes
    return {
      ...row,
      get text() {
        all ??= Bun.zstdDecompressSync(texts)
        return decoder.decode(all.subarray(from, from + textBytes))
      },
      code: codeBytes === 0 ? undefined : new Uint8Array(programs.subarray(codeAt - codeBytes, codeAt)),
    }
  })
  return new Map(entries.map((entry) => [entry.name, entry]))
}

/** What the last build has left in `file`; nothing where it was a build of another version of this program. */
export function lastPtxPack(file: string): ReadonlyMap<string, PtxEntry> {
  try {
    return existsSync(file) ? readPtxPack(new Uint8Array(readFileSync(file))) : new Map()
  } catch {
    return new Map()
  }
}
