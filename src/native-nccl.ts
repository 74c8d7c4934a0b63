/** The NCCL shim's functions, typed. */
import { dlopen, FFIType } from "bun:ffi"
import { nativeLibraryPath } from "./native-load.ts"

const { ptr, cstring } = FFIType
const int = FFIType.i64_fast

const signatures = {
  nccl_error: { args: [], returns: cstring },
  nccl_open: { args: [ptr], returns: int },
  nccl_id: { args: [ptr], returns: int },
  nccl_join: { args: [ptr, int, int, ptr], returns: int },
  nccl_share: { args: [int, int, int], returns: int },
  nccl_sum: { args: [int, int, int, int], returns: int },
  nccl_all_gather: { args: [ptr, ptr, int, int], returns: int },
  nccl_broadcast: { args: [ptr, int, int], returns: int },
  nccl_close: { args: [], returns: int },
} as const

let library: ReturnType<typeof load> | undefined

function load() {
  return dlopen(nativeLibraryPath(), signatures).symbols
}

/** The shim's functions; loaded on first use. Neither NCCL nor CUDA is opened before `nccl_open` and `nccl_join`. */
export function nccl() {
  library ??= load()
  return library
}
