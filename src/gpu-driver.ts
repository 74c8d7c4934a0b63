/** One open Vulkan device: buffers, recordings and submits of the shim with errors that say what to do. */
import { AlphaError, EXIT } from "./base-error.ts"
import { type GpuInfo, PTX_EXTENSION } from "./gpu-info.ts"
import { type Handle, mappedMemory, vulkan, vulkanError } from "./native.ts"

/** VkMemoryPropertyFlagBits. */
export const LOCAL = 1
export const HOST = 2 | 4
export const CACHED = 8

/** A buffer with memory of its own. */
export interface DeviceBuffer {
  readonly handle: bigint
  readonly memory: bigint
  readonly address: number
  readonly bytes: number
  /** The host's view of a piece; only of memory that the host sees. */
  view(offset: number, length: number): ArrayBuffer
  free(): void
}

/** A command buffer that was recorded once and may be submitted again and again. */
export type Recording = Handle

const EXTENSIONS = [
  "VK_KHR_cooperative_matrix",
  "VK_NV_cooperative_matrix2",
  "VK_KHR_shader_bfloat16",
  "VK_EXT_memory_budget",
  "VK_KHR_external_memory_fd",
  "VK_KHR_external_semaphore_fd",
  PTX_EXTENSION,
]

/** Tells where a lost device went wrong; only for debugging, as nobody knows what it costs. */
const FAULT_EXTENSION = "VK_EXT_device_fault"

/** What a fault did at its address, by VkDeviceFaultAddressTypeEXT. */
const FAULTS: readonly (string | undefined)[] = [undefined, "it read", "it wrote to", "it ran"]

/** Nanoseconds after which a wait asks whether the device is still there. */
const PATIENCE = 1e9
/** Most queries that the shim's pool holds. */
export const MAX_TIMESTAMPS = 8192

export class Driver {
  readonly gpu: Handle
  /** Timeline value of the newest submit. */
  #submitted = 0
  /** Timeline value known to be reached. */
  #reached = 0
  /** What was told when the device was lost: from then on nothing is asked of it, as an answer may never come. */
  #failure: AlphaError | undefined
  readonly #hasBudget: boolean
  /** The barrier behind the last recording of a submit. */
  #seal: Recording | undefined
  #allocated = 0
  /** Most bytes that were allocated at once. */
  peakBytes = 0

  constructor(
    readonly info: GpuInfo,
    cache: Uint8Array | undefined,
    debug = false,
  ) {
    const { facts, instance, index } = info
    const wanted = debug ? [...EXTENSIONS, FAULT_EXTENSION] : EXTENSIONS
    const extensions = wanted.filter((name) => facts.extensions.includes(name))
    this.#hasBudget = extensions.includes("VK_EXT_memory_budget")
    const names = new TextEncoder().encode(`${extensions.join("\n")}\0`)
    const gpu = vulkan().gpu_device(instance.handle, index, names, cache ?? null, cache?.length ?? 0)
    if (gpu === null) throw vulkanError("use --device=cpu, or see alpha doctor")
    this.gpu = gpu
  }

  get isLost(): boolean {
    return this.#failure !== undefined
  }

  /** A lost device is left to the end of the process. */
  close(): void {
    if (!this.isLost) vulkan().gpu_device_close(this.gpu)
  }

  /** Allocates a buffer in memory that has the flags `need`, rather also those of `want`. Throws AlphaError naming sizes when it does not fit. */
  buffer(bytes: number, need: number, want: number, what: string, exportable = false): DeviceBuffer {
    const out = new BigInt64Array(4)
    const size = Math.max(256, Math.ceil(bytes / 256) * 256)
    if (Number(vulkan().gpu_buffer(this.gpu, size, need, want, exportable ? 1 : 0, out)) === 0) throw this.#outOfMemory(size, what)
    const [handle = 0n, memory = 0n, address = 0n, mapped = 0n] = out
    this.#allocated += size
    this.peakBytes = Math.max(this.peakBytes, this.#allocated)
    let live = true
    return {
      handle,
      memory,
      address: Number(address),
      bytes: size,
      view: (offset, length) => mappedMemory(Number(mapped), offset, length),
      free: () => {
        if (!live) return
        live = false
        this.#allocated -= size
        if (!this.isLost) vulkan().gpu_buffer_free(this.gpu, handle, memory)
      },
    }
  }

  #outOfMemory(bytes: number, what: string): AlphaError {
    const { budget, used } = this.memory()
    const mib = (n: number) => `${(n / 2 ** 20).toFixed(0)} MiB`
    const room = budget > 0 ? ` (${mib(Math.max(0, budget - used))} of ${mib(budget)} are free)` : ""
    return new AlphaError(`out of memory on ${this.info.facts.name}: ${what} needs ${mib(bytes)}${room}: ${vulkan().gpu_error()}`, {
      hint: "lower --batch or --context, add --activationCheckpointing, or use a smaller model",
      code: EXIT.device,
    })
  }

  /** Bytes this process may use and all use on the device; the whole memory and 0 where the driver does not tell. */
  memory(): { budget: number; used: number } {
    const out = new BigInt64Array(2)
    vulkan().gpu_budget(this.gpu, this.#hasBudget ? 1 : 0, out)
    const budget = Number(out[0])
    return budget > 0 ? { budget, used: Number(out[1]) } : { budget: this.info.facts.memoryBytes, used: 0 }
  }

  /** Records once what `body` tells the shim; it begins after everything submitted before and sees all that wrote. */
  record(body: (commands: Recording) => void): Recording {
    const commands = vulkan().gpu_record(this.gpu)
    if (commands === null) throw vulkanError("see alpha doctor")
    vulkan().gpu_barrier(this.gpu, commands)
    body(commands)
    if (Number(vulkan().gpu_record_end(this.gpu, commands)) === 0) throw vulkanError("see alpha doctor")
    return commands
  }

  freeRecording(commands: Recording): void {
    if (!this.isLost) vulkan().gpu_record_free(this.gpu, commands)
  }

  /** Gives recordings to the device as one piece; returns the timeline value that it will reach with the last, when the host sees what all wrote. */
  submit(...recordings: readonly Recording[]): number {
    if (this.#failure !== undefined) throw this.#failure
    const value = this.#submitted + 1
    this.#seal ??= this.record(() => {})
    const handles = BigUint64Array.from([...recordings, this.#seal], BigInt)
    if (Number(vulkan().gpu_submit(this.gpu, handles, handles.length, 0, value)) === 0) throw this.#lost("a submit")
    this.#submitted = value
    return value
  }

  /** Waits until the timeline has reached `value`. Throws AlphaError when the device is lost, or does not come back in time; `what` says what was running. */
  wait(value: number, what: string, seconds = Number.POSITIVE_INFINITY): void {
    if (value <= this.#reached) return
    if (this.#failure !== undefined) throw this.#failure
    const end = performance.now() + 1000 * seconds
    for (let reached = 0; reached === 0; ) {
      reached = Number(vulkan().gpu_wait(this.gpu, value, PATIENCE))
      // Some drivers tell of a lost device only who asks in the right way; a lost one may also stand at the largest number.
      const counter = reached === 0 ? Number(vulkan().gpu_reached(this.gpu)) : 0
      if (reached < 0 || counter < 0 || counter > this.#submitted) throw this.#lost(what)
      if (reached === 0 && performance.now() > end) throw this.#lost(what, `it has not ended for ${seconds} s`)
    }
    this.#reached = value
  }

  /** A semaphore that another API can import. Throws AlphaError where the driver has none. */
  sharedSemaphore(): { fd: number; step: (value: number, signals: boolean) => void; free: () => void } {
    const v = vulkan()
    const handle = v.gpu_semaphore(this.gpu)
    const fd = Number(handle) === 0 ? -1 : Number(v.gpu_semaphore_fd(this.gpu, handle))
    if (fd < 0) throw vulkanError("use --dist=mpi")
    return {
      fd,
      step: (value, signals) => {
        if (Number(v.gpu_semaphore_step(this.gpu, handle, value, signals ? 1 : 0)) === 0) throw this.#lost("a turn of two APIs")
      },
      free: () => v.gpu_semaphore_free(this.gpu, handle),
    }
  }

  /** A file descriptor of an exportable buffer's memory. */
  memoryFd(buffer: DeviceBuffer): number {
    const fd = Number(vulkan().gpu_buffer_fd(this.gpu, buffer.memory))
    if (fd < 0) throw vulkanError("use --dist=mpi")
    return fd
  }

  /** Waits for everything submitted; a lost device has nothing to wait for. */
  idle(what: string): void {
    if (!this.isLost) this.wait(this.#submitted, what)
  }

  /** Records, submits and waits, as `wait` does. */
  now(what: string, body: (commands: Recording) => void, seconds?: number): void {
    if (this.#failure !== undefined) throw this.#failure
    const commands = this.record(body)
    try {
      this.wait(this.submit(commands), what, seconds)
    } finally {
      this.freeRecording(commands)
    }
  }

  #lost(what: string, why?: string): AlphaError {
    const found = new BigInt64Array(16)
    const told = `${vulkan().gpu_error()}`
    const count = why === undefined ? Number(vulkan().gpu_faults(this.gpu, found)) : 0
    const faults = Array.from({ length: count }, (_, i) => {
      const did = FAULTS[Number(found[2 * i])]
      return did === undefined ? [] : [`; ${did} address ${BigInt.asUintN(64, found[2 * i + 1] as bigint).toString(16)}, where nothing is`]
    })
    const { name } = this.info.facts
    this.#failure = new AlphaError(`the device ${name} failed during ${what}: ${[why ?? told, ...new Set(faults.flat())].join("")}`, {
      hint: "the last checkpoint is whole: --resume goes on from it; if it comes again, --debugGpu names the kernel",
      code: EXIT.device,
    })
    return this.#failure
  }
}
