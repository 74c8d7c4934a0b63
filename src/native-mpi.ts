/** The MPI shim's functions, typed. */
import { dlopen, FFIType } from "bun:ffi"
import { nativeLibraryPath } from "./native-load.ts"

const { ptr, cstring, void: none } = FFIType
const int = FFIType.i64_fast

const signatures = {
  mpi_error: { args: [], returns: cstring },
  mpi_version: { args: [], returns: cstring },
  mpi_open: { args: [ptr, int], returns: int },
  mpi_rank: { args: [], returns: int },
  mpi_size: { args: [], returns: int },
  mpi_broadcast: { args: [ptr, int, int], returns: int },
  mpi_all_gather: { args: [ptr, ptr, int], returns: int },
  mpi_all_to_all: { args: [ptr, ptr, int], returns: int },
  mpi_barrier: { args: [], returns: int },
  mpi_close: { args: [], returns: int },
  mpi_sum_rows: { args: [ptr, ptr, int, int, int], returns: none },
  mpi_setenv: { args: [ptr, ptr], returns: none },
  mpi_exit: { args: [int], returns: none },
} as const

let library: ReturnType<typeof load> | undefined

function load() {
  return dlopen(nativeLibraryPath(), signatures).symbols
}

/** The shim's functions; loaded on first use. No MPI library is opened before `mpi_open`. */
export function mpi() {
  library ??= load()
  return library
}
