/** The PTX pack: every module's text with what a launch needs, compressed. */
import { AlphaError } from "./base-error.ts"
import type { PtxCell, PtxKernel } from "./ptx-kernel.ts"

/** A module's text, and how its entry, which has the module's name, is launched. */
export interface PtxEntry {
  readonly name: string
  readonly threads: number
  readonly sharedBytes: number
  readonly cells: readonly PtxCell[]
  readonly text: string
}

/** Changes whenever the pack's form does. */
const VERSION = 1

export const ptxEntry = ({ name, threads, sharedBytes, cells, text }: PtxKernel): PtxEntry => ({ name, threads, sharedBytes, cells, text })

/** The same kernels always give the same bytes. Throws AlphaError where two have one name. */
export function ptxPack(kernels: readonly PtxKernel[]): Uint8Array<ArrayBuffer> {
  const entries = kernels.map(ptxEntry)
  const names = entries.map(({ name }) => name)
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) throw new AlphaError(`kernel ${twice}: the name is taken`)
  const text = new TextEncoder().encode(JSON.stringify({ version: VERSION, entries }))
  return new Uint8Array(Bun.zstdCompressSync(text, { level: 15 }))
}

/** The entries of a pack by name. Throws AlphaError when the blob is none of this version. */
export function readPtxPack(blob: Uint8Array<ArrayBuffer>): ReadonlyMap<string, PtxEntry> {
  const { version, entries } = JSON.parse(new TextDecoder().decode(Bun.zstdDecompressSync(blob))) as {
    version: number
    entries: readonly PtxEntry[]
  }
  if (version !== VERSION) throw new AlphaError("PTX pack: not a pack of this version", { hint: "npm run build" })
  return new Map(entries.map((entry) => [entry.name, entry]))
}
