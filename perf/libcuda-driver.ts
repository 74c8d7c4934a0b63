/** CUDA's driver API, opened by name: memory and a semaphore that Vulkan has exported, PTX with as much shared memory as Hopper has, clusters, events. */
import { CString, dlopen, FFIType, type Pointer } from "bun:ffi"
import { AlphaError, EXIT } from "../src/base-error.ts"
import { hostAddress } from "../src/native-vulkan.ts"

const { ptr, i32, u32, u64 } = FFIType
const functions = {
  cuGetErrorString: { args: [i32, ptr], returns: i32 },
  cuInit: { args: [u32], returns: i32 },
  cuDeviceGetCount: { args: [ptr], returns: i32 },
  cuDeviceGet: { args: [ptr, i32], returns: i32 },
  cuDeviceGetUuid_v2: { args: [ptr, i32], returns: i32 },
  cuDevicePrimaryCtxRetain: { args: [ptr, i32], returns: i32 },
  cuCtxSetCurrent: { args: [u64], returns: i32 },
  cuStreamCreate: { args: [ptr, u32], returns: i32 },
  cuStreamSynchronize: { args: [u64], returns: i32 },
  cuMemAlloc_v2: { args: [ptr, u64], returns: i32 },
  cuMemcpyHtoD_v2: { args: [u64, ptr, u64], returns: i32 },
  cuImportExternalMemory: { args: [ptr, ptr], returns: i32 },
  cuExternalMemoryGetMappedBuffer: { args: [ptr, u64, ptr], returns: i32 },
  cuImportExternalSemaphore: { args: [ptr, ptr], returns: i32 },
  cuWaitExternalSemaphoresAsync: { args: [ptr, ptr, u32, u64], returns: i32 },
  cuSignalExternalSemaphoresAsync: { args: [ptr, ptr, u32, u64], returns: i32 },
  cuModuleLoadDataEx: { args: [ptr, ptr, u32, ptr, ptr], returns: i32 },
  cuModuleGetFunction: { args: [ptr, u64, ptr], returns: i32 },
  cuFuncSetAttribute: { args: [u64, i32, i32], returns: i32 },
  cuFuncGetAttribute: { args: [ptr, i32, u64], returns: i32 },
  cuOccupancyMaxActiveClusters: { args: [ptr, u64, ptr], returns: i32 },
  cuLaunchKernelEx: { args: [ptr, u64, ptr, ptr], returns: i32 },
  cuEventCreate: { args: [ptr, u32], returns: i32 },
  cuEventRecord: { args: [u64, u64], returns: i32 },
  cuEventElapsedTime: { args: [ptr, u64, u64], returns: i32 },
} as const
type Name = Exclude<keyof typeof functions, "cuGetErrorString">
type Calls = (name: Name, ...args: readonly unknown[]) => void

// Facts of cuda.h.
const [OPAQUE_FD, DEDICATED, TIMELINE_FD, NON_BLOCKING] = [1, 1, 9, 1]
const [LOCAL_BYTES, REGISTERS, MOST_SHARED] = [3, 4, 8]
const [ERROR_LOG, ERROR_LOG_BYTES] = [5, 6]
const CLUSTER_DIMENSION = 4

const cstring = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(`${text}\0`)
const upToZero = (bytes: Uint8Array): string => new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)))

interface CudaFunction {
  readonly handle: bigint
  readonly registers: number
  readonly spilledBytes: number
}

interface CudaLaunch {
  readonly blocks: number
  readonly threads: number
  readonly sharedBytes: number
  /** Blocks of a cluster. */
  readonly cluster: number
  /** The entry's parameters, 8 bytes each. */
  readonly cells: Uint8Array<ArrayBuffer>
}

/** A context on the GPU with a UUID, and one stream. */
export class Cuda {
  readonly #call: Calls
  readonly stream: bigint

  /** Throws AlphaError where the GPU cannot be found. */
  constructor(call: Calls, uuid: string) {
    this.#call = call
    const one = new Int32Array(1)
    this.#call("cuInit", 0)
    this.#call("cuDeviceGetCount", one)
    const devices = Array.from({ length: one[0]! }, (_, i) => {
      this.#call("cuDeviceGet", one, i)
      return one[0]!
    })
    const device = devices.find((each) => {
      const own = new Uint8Array(16)
      this.#call("cuDeviceGetUuid_v2", own, each)
      return own.toHex() === uuid
    })
    if (device === undefined) {
      const hint = "CUDA_VISIBLE_DEVICES may hide it"
      throw new AlphaError(`CUDA sees ${devices.length} GPUs, none of them the one that Vulkan uses`, { hint, code: EXIT.device })
    }
    this.#call("cuCtxSetCurrent", this.#made("cuDevicePrimaryCtxRetain", device))
    this.stream = this.#made("cuStreamCreate", NON_BLOCKING)
  }

  /** A handle that a function writes to its first argument. */
  #made(name: Name, ...args: readonly unknown[]): bigint {
    const out = new BigUint64Array(1)
    this.#call(name, out, ...args)
    return out[0]!
  }

  /** Address of a whole buffer's memory that Vulkan has exported; the file descriptor is CUDA's from now on. */
  memory(fd: number, bytes: number): bigint {
    const handle = new DataView(new ArrayBuffer(104))
    handle.setInt32(0, OPAQUE_FD, true)
    handle.setInt32(8, fd, true)
    handle.setBigUint64(24, BigInt(bytes), true)
    handle.setUint32(32, DEDICATED, true)
    const whole = new DataView(new ArrayBuffer(88))
    whole.setBigUint64(8, BigInt(bytes), true)
    return this.#made("cuExternalMemoryGetMappedBuffer", this.#made("cuImportExternalMemory", bytesOf(handle)), bytesOf(whole))
  }

  /** Address of a copy of these words. */
  words(values: readonly bigint[]): bigint {
    const all = BigUint64Array.from(values)
    const address = this.#made("cuMemAlloc_v2", all.byteLength)
    this.#call("cuMemcpyHtoD_v2", address, all, all.byteLength)
    return address
  }

  /** What moves an exported timeline semaphore in the stream, or waits for it there. */
  semaphore(fd: number): (value: number, signals: boolean) => void {
    const handle = new DataView(new ArrayBuffer(96))
    handle.setInt32(0, TIMELINE_FD, true)
    handle.setInt32(8, fd, true)
    const list = BigUint64Array.of(this.#made("cuImportExternalSemaphore", bytesOf(handle)))
    return (value, signals) => {
      const step = new DataView(new ArrayBuffer(144))
      step.setBigUint64(0, BigInt(value), true)
      this.#call(signals ? "cuSignalExternalSemaphoresAsync" : "cuWaitExternalSemaphoresAsync", list, bytesOf(step), 1, this.stream)
    }
  }

  /** A module's entry of this name, ready for so much shared memory. Throws with the assembler's words. */
  load(text: string, name: string, sharedBytes: number): CudaFunction {
    const log = new Uint8Array(8192)
    const values = BigUint64Array.of(BigInt(hostAddress(log)), BigInt(log.length))
    let module: bigint
    try {
      module = this.#made("cuModuleLoadDataEx", cstring(text), 2, Int32Array.of(ERROR_LOG, ERROR_LOG_BYTES), values)
    } catch (error) {
      throw new AlphaError(`${name}: ${(error as Error).message} ${upToZero(log)}`.trim(), { code: EXIT.device })
    }
    const handle = this.#made("cuModuleGetFunction", module, cstring(name))
    this.#call("cuFuncSetAttribute", handle, MOST_SHARED, sharedBytes)
    const attribute = (which: number) => Number(BigInt.asUintN(32, this.#made("cuFuncGetAttribute", which, handle)))
    return { handle, registers: attribute(REGISTERS), spilledBytes: attribute(LOCAL_BYTES) }
  }

  /** How many blocks there are, of clusters no more than run at once, and what puts the launch into the stream. */
  prepare({ handle }: CudaFunction, { blocks, threads, sharedBytes, cluster, cells }: CudaLaunch): { count: number; launch: () => void } {
    const attributes = new Uint8Array(72)
    new DataView(attributes.buffer).setUint32(0, CLUSTER_DIMENSION, true)
    new Uint32Array(attributes.buffer, 8, 3).set([cluster, 1, 1])
    const config = new DataView(new ArrayBuffer(56))
    ;[blocks, 1, 1, threads, 1, 1, sharedBytes].forEach((value, i) => config.setUint32(4 * i, value, true))
    config.setBigUint64(32, this.stream, true)
    config.setBigUint64(40, BigInt(hostAddress(attributes)), true)
    config.setUint32(48, cluster === 1 ? 0 : 1, true)
    const parameters = BigUint64Array.from({ length: cells.length / 8 }, (_, i) => BigInt(hostAddress(cells) + 8 * i))
    let count = blocks
    if (cluster > 1) {
      const most = new Int32Array(1)
      this.#call("cuOccupancyMaxActiveClusters", most, handle, bytesOf(config))
      count = Math.min(blocks, cluster * most[0]!)
      config.setUint32(0, count, true)
    }
    const alive = [attributes, cells] // the configuration and the parameters hold their addresses only
    return {
      count,
      launch: () => {
        if (alive.length > 0) this.#call("cuLaunchKernelEx", bytesOf(config), handle, parameters, null)
      },
    }
  }

  event(): bigint {
    return this.#made("cuEventCreate", 0)
  }
  record(event: bigint): void {
    this.#call("cuEventRecord", event, this.stream)
  }
  /** Milliseconds between events that are over. */
  elapsed(begin: bigint, end: bigint): number {
    const ms = new Float32Array(1)
    this.#call("cuEventElapsedTime", ms, begin, end)
    return ms[0]!
  }
  wait(): void {
    this.#call("cuStreamSynchronize", this.stream)
  }
}

const bytesOf = (view: DataView): Uint8Array => new Uint8Array(view.buffer as ArrayBuffer)

/** Functions by name, which throw what CUDA says. Throws AlphaError where there is no such library. */
export function openCuda(library: string): Calls {
  let symbols: Record<string, (...args: readonly unknown[]) => number>
  try {
    symbols = dlopen(library, functions).symbols as never
  } catch (error) {
    const hint = "NVIDIA's driver for Linux brings it; --library=PATH names another place"
    throw new AlphaError(`${library} not found: ${(error as Error).message}`, { hint, code: EXIT.device })
  }
  return (name, ...args) => {
    const code = symbols[name]!(...args)
    if (code === 0) return
    const text = new BigUint64Array(1)
    symbols.cuGetErrorString!(code, text)
    throw new AlphaError(`${name}: CUDA error ${code}${text[0] === 0n ? "" : `, ${new CString(Number(text[0]) as Pointer)}`}`, {
      code: EXIT.device,
    })
  }
}
