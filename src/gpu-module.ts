/** Modules of kernels by name: from the packs that the build made, else assembled when first asked for. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError } from "./base-error.ts"
import { lastPtxPack, type PtxEntry, type PtxKernel, ptxEntry, readPtxPack } from "./ptx.ts"
import { type Kernel, type PackEntry, pack, readPack } from "./spirv.ts"

/** SPIR-V and what its pipeline needs. */
export type Module = PackEntry & { readonly module: Uint32Array<ArrayBuffer> }

const modules = new Map<string, Module>()

/** A variant's module: from the pack in the binary; what is not there, and all when run from source, is assembled when first asked for. */
export function moduleOf(kernel: Kernel, variant: string): Module {
  if (modules.size === 0 && isCompiled)
    for (const [name, entry] of readPack(readFileSync(require("alpha:kernel-pack")))) modules.set(name, entry)
  const known = modules.get(variant)
  if (known !== undefined) return known
  if (isCompiled) throw new AlphaError(`kernel ${variant} is not in the pack`, { hint: "npm run build" })
  for (const [name, entry] of readPack(pack([kernel]))) modules.set(name, entry)
  return modules.get(variant) as Module
}

let packed: ReadonlyMap<string, PtxEntry> | undefined
const made = new Map<string, PtxEntry>()

/** The same for a kernel in PTX. From source what the last build assembled is taken where the kernel's text is still the same. */
export function ptxOf(kernel: PtxKernel): PtxEntry {
  packed ??= readPacked()
  const known = made.get(kernel.name) ?? packed.get(kernel.name)
  if (known !== undefined && (isCompiled || made.has(kernel.name) || known.text === kernel.text)) return known
  if (isCompiled && kernel.isMade !== true) throw new AlphaError(`kernel ${kernel.name} is not in the PTX pack`, { hint: "npm run build" })
  const entry = ptxEntry(kernel)
  made.set(kernel.name, entry)
  return entry
}

function readPacked(): ReadonlyMap<string, PtxEntry> {
  if (isCompiled) return readPtxPack(new Uint8Array(readFileSync(require("alpha:ptx-pack"))))
  return lastPtxPack(join(import.meta.dir, "../.bun-out/ptx.pack"))
}
