/** The Vulkan shim's functions, typed: opaque handles, facts by name, errors as AlphaError. */
import { ptr as addressOf, dlopen, FFIType, type Pointer, toArrayBuffer } from "bun:ffi"
import { AlphaError, EXIT } from "./base-error.ts"
import { nativeLibraryPath } from "./native-load.ts"

const { ptr, cstring, void: none } = FFIType
const int = FFIType.i64_fast

const signatures = {
  gpu_error: { args: [], returns: cstring },
  gpu_open: { args: [ptr, int], returns: ptr },
  gpu_close: { args: [ptr], returns: none },
  gpu_count: { args: [ptr], returns: int },
  gpu_facts: { args: [ptr, int, ptr, ptr], returns: none },
  gpu_extensions: { args: [ptr, int, ptr, int], returns: int },
  gpu_matrix_shapes: { args: [ptr, int, ptr, int], returns: int },
  gpu_device: { args: [ptr, int, ptr, ptr, int], returns: ptr },
  gpu_device_close: { args: [ptr], returns: none },
  gpu_buffer: { args: [ptr, int, int, int, int, ptr], returns: int },
  gpu_buffer_free: { args: [ptr, int, int], returns: none },
  gpu_buffer_fd: { args: [ptr, int], returns: int },
  gpu_budget: { args: [ptr, int, ptr], returns: none },
  gpu_pipelines: { args: [ptr, ptr, int, int], returns: ptr },
  gpu_pipelines_made: { args: [ptr], returns: none },
  gpu_pipeline_free: { args: [ptr, int, int], returns: none },
  gpu_cache_data: { args: [ptr, ptr, int], returns: int },
  gpu_record: { args: [ptr], returns: ptr },
  gpu_record_end: { args: [ptr, ptr], returns: int },
  gpu_record_free: { args: [ptr, ptr], returns: none },
  gpu_dispatch: { args: [ptr, ptr, int, int, ptr, int, int, int, int], returns: none },
  gpu_function_free: { args: [ptr, int, int], returns: none },
  gpu_launch: { args: [ptr, ptr, int, ptr, int, int, ptr, int], returns: none },
  gpu_barrier: { args: [ptr, ptr], returns: none },
  gpu_kernel_barrier: { args: [ptr, ptr], returns: none },
  gpu_copy: { args: [ptr, ptr, int, int, int, int, int], returns: none },
  gpu_fill: { args: [ptr, ptr, int, int, int, int], returns: none },
  gpu_timestamp: { args: [ptr, ptr, int], returns: none },
  gpu_timestamps: { args: [ptr, int, ptr], returns: int },
  gpu_submit: { args: [ptr, ptr, int, int, int], returns: int },
  gpu_wait: { args: [ptr, int, int], returns: int },
  gpu_reached: { args: [ptr], returns: int },
  gpu_faults: { args: [ptr, ptr], returns: int },
  gpu_semaphore: { args: [ptr], returns: int },
  gpu_semaphore_fd: { args: [ptr, int], returns: int },
  gpu_semaphore_free: { args: [ptr, int], returns: none },
  gpu_semaphore_step: { args: [ptr, int, int, int], returns: int },
} as const

let library: ReturnType<typeof load> | undefined

function load() {
  return dlopen(nativeLibraryPath(), signatures).symbols
}

/** The shim's functions; loaded on first use. */
export function vulkan() {
  library ??= load()
  return library
}

/** Memory of the device that the host sees, from its address there. */
export const mappedMemory = (address: number, offset: number, length: number): ArrayBuffer =>
  toArrayBuffer(address as Pointer, offset, length)

/** Where an array's memory is, for tables of pointers; the array must stay alive and be no view of nothing. */
export const hostAddress = (array: NodeJS.TypedArray): number => addressOf(array)

/** The failure the shim remembers, as an error that says what to do. */
export function vulkanError(hint: string): AlphaError {
  return new AlphaError(`Vulkan: ${vulkan().gpu_error()}`, { hint, code: EXIT.device })
}

/** Numbers that gpu_facts writes, in its order; features are 0 or 1. */
const FACTS = [
  "apiVersion",
  "driverVersion",
  "vendorId",
  "deviceId",
  "kind",
  "memoryBytes",
  "maxAllocationBytes",
  "maxStorageRange",
  "maxPushBytes",
  "maxSharedBytes",
  "maxInvocations",
  "subgroupSize",
  "minSubgroupSize",
  "maxSubgroupSize",
  "requiredSubgroupStages",
  "subgroupOperations",
  "timestampFemtoseconds",
  "int64",
  "storage16",
  "bufferAddress",
  "timeline",
  "memoryModel",
  "subgroupSizeControl",
  "fullSubgroups",
  "matrix",
  "matrixWorkgroup",
  "matrixFunctions",
  "matrixTensors",
  "bfloat16",
  "bfloat16Matrix",
  "float16",
  "maintenance4",
] as const

export type VulkanNumbers = Readonly<Record<(typeof FACTS)[number], number>>

/** What a device says of itself. `uuid` is hexadecimal; sizes in bytes. */
export interface VulkanFacts extends VulkanNumbers {
  readonly name: string
  readonly driver: string
  readonly driverInfo: string
  readonly uuid: string
  readonly extensions: readonly string[]
  readonly matrixShapes: readonly MatrixShape[]
}

/** A cooperative matrix product the device has: types by VkComponentTypeKHR; invocations 0 = KHR at `scope`, else sizes are granularities of coopmat2. */
export interface MatrixShape {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly a: number
  readonly b: number
  readonly accumulator: number
  readonly result: number
  readonly saturating: number
  readonly scope: number
  readonly invocations: number
}

/** An opaque pointer of the shim. */
export type Handle = bigint | Pointer

/** An instance on one Vulkan library. */
export interface VulkanInstance {
  readonly handle: Handle
  readonly devices: readonly VulkanFacts[]
  close(): void
}

const text = new TextDecoder()
const zeroTerminated = (value: string): Uint8Array => new TextEncoder().encode(`${value}\0`)
const upToZero = (bytes: Uint8Array): string => text.decode(bytes.subarray(0, bytes.indexOf(0) < 0 ? bytes.length : bytes.indexOf(0)))

/** Opens a Vulkan loader or driver by file name; undefined (and the reason) when it cannot be. */
export function openVulkan(file: string, validate: boolean): VulkanInstance | { readonly reason: string } {
  const v = vulkan()
  const handle = v.gpu_open(zeroTerminated(file), validate ? 1 : 0)
  if (handle === null) return { reason: `${file}: ${v.gpu_error()}` }
  const devices = Array.from({ length: Number(v.gpu_count(handle)) }, (_, index) => facts(handle, index))
  return { handle, devices, close: () => v.gpu_close(handle) }
}

function facts(instance: Handle, index: number): VulkanFacts {
  const v = vulkan()
  const numbers = new BigInt64Array(FACTS.length)
  const strings = new Uint8Array(784)
  v.gpu_facts(instance, index, numbers, strings)
  const names = new Uint8Array(1 << 16)
  const length = Number(v.gpu_extensions(instance, index, names, names.length))
  const rows = new BigInt64Array(10 * 256)
  const count = Number(v.gpu_matrix_shapes(instance, index, rows, 256))
  return {
    ...(Object.fromEntries(FACTS.map((name, i) => [name, Number(numbers[i])])) as VulkanNumbers),
    name: upToZero(strings.subarray(0, 256)),
    driver: upToZero(strings.subarray(256, 512)),
    driverInfo: upToZero(strings.subarray(512, 768)),
    uuid: strings.subarray(768).toHex(),
    extensions: text.decode(names.subarray(0, length)).split("\n").filter(Boolean),
    matrixShapes: Array.from({ length: count }, (_, r) => {
      const [m = 0, n = 0, k = 0, a = 0, b = 0, accumulator = 0, result = 0, saturating = 0, scope = 0, invocations = 0] = Array.from(
        rows.subarray(r * 10, r * 10 + 10),
        Number,
      )
      return { m, n, k, a, b, accumulator, result, saturating, scope, invocations }
    }),
  }
}
