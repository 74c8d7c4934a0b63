/** NVIDIA's management library, where it is installed: utilisation, memory, power, temperature and clocks of one GPU. */
import { dlopen, FFIType, type Pointer } from "bun:ffi"

const { ptr, i32, u32 } = FFIType

/** One look at a GPU. */
export interface GpuSample {
  /** Share of the last moments in which a kernel ran, 0 to 1. */
  readonly utilisation: number
  readonly memoryUsedBytes: number
  readonly powerWatts: number
  readonly temperatureCelsius: number
  readonly smClockMhz: number
  readonly memoryClockMhz: number
}

/** nvmlClockType_t. */
const [SM, MEMORY] = [1, 2]

/** The sampler of the GPU with this Vulkan UUID (32 hexadecimal digits); undefined where the library or the GPU is not there. */
export function openNvml(uuid: string): (() => GpuSample) | undefined {
  const nvml = library()
  if (nvml === undefined || nvml.nvmlInit_v2() !== 0) return undefined
  const name = `GPU-${[uuid.slice(0, 8), uuid.slice(8, 12), uuid.slice(12, 16), uuid.slice(16, 20), uuid.slice(20)].join("-")}`
  const handle = new BigUint64Array(1)
  if (nvml.nvmlDeviceGetHandleByUUID(new TextEncoder().encode(`${name}\0`), handle) !== 0) return undefined
  const device = Number(handle[0]) as Pointer
  const word = new Uint32Array(1)
  /** What a call wrote; 0 where this GPU does not tell. */
  const number = (call: (out: Uint32Array) => number): number => (call(word) === 0 ? (word[0] as number) : 0)
  const rates = new Uint32Array(2)
  const memory = new BigUint64Array(3) // total, free, used
  return () => ({
    utilisation: nvml.nvmlDeviceGetUtilizationRates(device, rates) === 0 ? (rates[0] as number) / 100 : 0,
    memoryUsedBytes: nvml.nvmlDeviceGetMemoryInfo(device, memory) === 0 ? Number(memory[2]) : 0,
    powerWatts: number((out) => nvml.nvmlDeviceGetPowerUsage(device, out)) / 1000,
    temperatureCelsius: number((out) => nvml.nvmlDeviceGetTemperature(device, 0, out)),
    smClockMhz: number((out) => nvml.nvmlDeviceGetClockInfo(device, SM, out)),
    memoryClockMhz: number((out) => nvml.nvmlDeviceGetClockInfo(device, MEMORY, out)),
  })
}

function library() {
  try {
    return dlopen("libnvidia-ml.so.1", {
      nvmlInit_v2: { args: [], returns: i32 },
      nvmlDeviceGetHandleByUUID: { args: [ptr, ptr], returns: i32 },
      nvmlDeviceGetUtilizationRates: { args: [ptr, ptr], returns: i32 },
      nvmlDeviceGetMemoryInfo: { args: [ptr, ptr], returns: i32 },
      nvmlDeviceGetPowerUsage: { args: [ptr, ptr], returns: i32 },
      nvmlDeviceGetTemperature: { args: [ptr, u32, ptr], returns: i32 },
      nvmlDeviceGetClockInfo: { args: [ptr, u32, ptr], returns: i32 },
    }).symbols
  } catch {
    return undefined
  }
}
