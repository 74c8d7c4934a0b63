/** The only door to C: loads the embedded library, types every function and every kernel's arguments. */
import { dlopen, FFIType, type Pointer, toArrayBuffer } from "bun:ffi"
import { AlphaError } from "./base-error.ts"
import { nativeLibraryPath } from "./native-load.ts"

/** Kinds of an 8-byte field in a kernel's argument struct. */
export type Field = "pointer" | "int" | "float"
/** A struct: its fields in C's order; a nested record is a pointer to an array of such rows, followed by nothing. */
export type Fields = Readonly<Record<string, Field | Readonly<Record<string, Field>>>>

type Value<F, P> = F extends "pointer" ? P | undefined : F extends Field ? number : readonly Row<F, P>[]
type Row<R, P> = { readonly [N in keyof R]: R[N] extends "pointer" ? P | undefined : number }
type Args<F extends Fields, P> = { readonly [N in keyof F]: Value<F[N], P> }

/** A kernel call whose pointers are still symbolic (of type P). */
export interface NativeCall<P> {
  readonly kernel: string
  readonly fields: Fields
  readonly args: Readonly<Record<string, P | number | undefined | readonly Readonly<Record<string, P | number | undefined>>[]>>
}

/** Declares the C kernel `name` and its struct, field by field in C's order; returns a typed call builder. */
export function nativeKernel<const F extends Fields>(name: string, fields: F) {
  return <P>(args: Args<F, P>): NativeCall<P> => ({ kernel: name, fields, args: args as NativeCall<P>["args"] })
}

const signatures = {
  cpu_isa: { args: [], returns: FFIType.cstring },
  cpu_amx: { args: [], returns: FFIType.i64_fast },
  kernel_find: { args: [FFIType.ptr, FFIType.ptr], returns: FFIType.ptr },
  commands_run: { args: [FFIType.ptr, FFIType.i64_fast, FFIType.i64_fast, FFIType.i64_fast], returns: FFIType.i64_fast },
  memory_alloc: { args: [FFIType.i64_fast], returns: FFIType.ptr },
  memory_free: { args: [FFIType.ptr, FFIType.i64_fast], returns: FFIType.void },
  pool_start: { args: [FFIType.i64_fast], returns: FFIType.void },
} as const

let library: ReturnType<typeof load> | undefined

function load() {
  return dlopen(nativeLibraryPath(), signatures).symbols
}

/** The library's functions; loaded on first use. */
export function native() {
  library ??= load()
  return library
}

const cstring = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`)

/** Levels the kernels are compiled for, in rising order. */
const LEVELS = ["base", "v3", "v4"]

/** ISA level the kernels run at: the processor's best ("v4", "v3" or "base"), or ALPHA_ISA where that is lower. */
export function isaLevel(): string {
  const best = String(native().cpu_isa())
  const limit = process.env.ALPHA_ISA
  return limit !== undefined && LEVELS.indexOf(limit) < LEVELS.indexOf(best) ? limit : best
}

/** What the processor has and what the kernels use of it. */
export function instructionSets(): { best: string; used: string; amx: boolean } {
  const used = isaLevel()
  return { best: String(native().cpu_isa()), used, amx: used === "v4" && Number(native().cpu_amx()) === 1 }
}

const found = new Map<string, number>()

/** Address of a kernel at this machine's level. Throws when the library lacks it. */
export function kernelAddress(name: string): number {
  const known = found.get(name)
  if (known !== undefined) return known
  const isa = isaLevel()
  const address = native().kernel_find(cstring(name), cstring(isa))
  if (address === null) throw new AlphaError(`kernel ${name} (${isa}) is not in the native library`, { hint: "rebuild it: npm run build" })
  found.set(name, Number(address))
  return Number(address)
}

/** A block of native memory: zeroed, page-aligned. */
export interface Memory {
  readonly address: number
  readonly bytes: number
  /** The memory itself, not a copy. */
  view(offset: number, length: number): ArrayBuffer
  free(): void
}

/** Allocates `bytes`. Throws AlphaError naming the size when the system refuses. */
export function allocate(bytes: number, what: string): Memory {
  const size = Math.max(4096, bytes)
  const address = native().memory_alloc(size)
  if (address === null) {
    throw new AlphaError(`out of memory: ${what} needs ${(size / 2 ** 20).toFixed(0)} MiB`, {
      hint: "lower --batch or --context, or use a smaller model",
    })
  }
  let live = true
  return {
    address: Number(address),
    bytes: size,
    view: (offset, length) => toArrayBuffer(address as Pointer, offset, length),
    free() {
      if (live) native().memory_free(address as Pointer, size)
      live = false
    },
  }
}

export { mpi } from "./native-mpi.ts"
export { nccl } from "./native-nccl.ts"
export { type GpuSample, openNvml } from "./native-nvml.ts"
export {
  type Handle,
  hostAddress,
  mappedMemory,
  openVulkan,
  type VulkanFacts,
  type VulkanInstance,
  vulkan,
  vulkanError,
} from "./native-vulkan.ts"
