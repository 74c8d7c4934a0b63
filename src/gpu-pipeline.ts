/** Embedded SPIR-V and PTX become pipelines: specialised, made once per variant and constants, cached on disk by driver and device. */
import { existsSync, mkdirSync, readFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256, writeAtomic } from "./base-file.ts"
import type { Driver } from "./gpu-driver.ts"
import { type Module, moduleOf, ptxOf } from "./gpu-module.ts"
import type { Handle, VulkanFacts } from "./native.ts"
import { hostAddress as ptr, vulkan } from "./native.ts"
import type { GpuTarget, Launch } from "./program.ts"
import { MOST_DYNAMIC, type PtxEntry, type PtxKernel } from "./ptx.ts"

/** Of a kernel in PTX the handle is a function's, the layout its module's. */
interface Pipeline {
  readonly module: Module | PtxEntry
  readonly handle: bigint
  readonly layout: bigint
}

/** What a row of gpu_pipelines points at: SPIR-V with its entry and constants, PTX, or its machine code. */
interface Wanted {
  readonly module: Module | PtxEntry
  readonly code: Uint8Array | Uint32Array
  readonly isMachineCode?: boolean
  readonly entry: Uint8Array
  readonly words: Uint32Array
  readonly push: number
  /** −1: PTX or its machine code. */
  readonly subgroup: number
}

/** Pipelines that threads of the shim are making from these rows; all that these point at must outlive it. */
interface Begun {
  readonly keys: Set<string>
  readonly entries: readonly (readonly [key: string, wanted: Wanted])[]
  readonly rows: BigInt64Array
  readonly queue: Handle
}

/** 8-byte cells of a row of gpu_pipelines. */
const ROW = 10
/** VkResult of what is not made yet. */
const NOT_READY = 1n
/** VK_SHADER_STAGE_COMPUTE_BIT. */
const COMPUTE = 0x20

/** What the shim has written to row i. */
const madeAt = (rows: BigInt64Array, i: number) => {
  const result = Atomics.load(rows, ROW * i + 9) // first: the handles are there before it
  return { result, handle: rows[ROW * i + 7] as bigint, layout: rows[ROW * i + 8] as bigint }
}

const keyOf = (variant: string, constants: Readonly<Record<string, number>>): string => `${variant} ${JSON.stringify(constants)}`

const zeroTerminated = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`)

const pushOf = ({ push }: Module): number => push.reduce((sum, { type }) => sum + (type === "address" ? 8 : 4), 0)

export class Pipelines {
  readonly #made = new Map<string, Pipeline>()
  #begun: Begun[] = []
  readonly #file: string | undefined
  #isNew = false
  /** What the driver answered when it refused machine code: kernels in PTX are given to it as text from then on. */
  codeRefusal: string | undefined

  constructor(
    readonly driver: Driver,
    readonly target: GpuTarget,
    file: string | undefined,
    readonly entryOf: (kernel: PtxKernel) => PtxEntry = ptxOf,
  ) {
    this.#file = file
  }

  /** The pipeline of a launch that was prepared. */
  of({ variant, constants }: Launch): Pipeline {
    return this.#made.get(keyOf(variant, constants)) as Pipeline
  }

  /** Begins to make what the launches need and there is not yet, on all cores, while the host goes on. */
  begin(launches: readonly Launch[]): void {
    const wanted = new Map<string, Wanted>()
    for (const { kernel, variant, constants } of launches) {
      const key = keyOf(variant, constants)
      if (this.#made.has(key) || wanted.has(key) || this.#begun.some(({ keys }) => keys.has(key))) continue
      wanted.set(key, "text" in kernel ? this.#ptx(this.entryOf(kernel)) : this.#spirv(moduleOf(kernel, variant), constants))
    }
    if (wanted.size === 0) return
    this.#isNew = true
    // A text of PTX takes longest (0.2 s): the cores begin with it.
    const entries = [...wanted].sort(([, a], [, b]) => a.subgroup - b.subgroup)
    const rows = new BigInt64Array(new ArrayBuffer(8 * ROW * entries.length)) // a small array without a buffer of its own may move
    entries.forEach(([, { code, entry, words, push, subgroup }], i) => {
      rows.set([ptr(code), code.byteLength, ptr(entry), push, ptr(words), words.length, subgroup].map(BigInt), ROW * i)
      rows[ROW * i + 9] = NOT_READY
    })
    const queue = vulkan().gpu_pipelines(this.driver.gpu, rows, entries.length, availableParallelism()) as Handle
    this.#begun.push({ keys: new Set(wanted.keys()), entries, rows, queue })
  }

  /** Waits until what the launches need is made. Throws AlphaError naming a kernel whose module the driver refuses. */
  prepare(launches: readonly Launch[]): void {
    this.begin(launches)
    const refused = launches.filter((launch) => !this.#take(launch))
    this.begin(refused)
    for (const launch of refused) this.#take(launch)
    this.#begun = this.#begun.filter((begun) => {
      const isOpen = begun.entries.some(([key]) => !this.#made.has(key))
      if (!isOpen) vulkan().gpu_pipelines_made(begun.queue)
      return isOpen
    })
  }

  /** Waits for one pipeline; false: the driver refuses its machine code. */
  #take({ variant, constants }: Launch): boolean {
    const key = keyOf(variant, constants)
    if (this.#made.has(key)) return true
    const begun = this.#begun.find(({ keys }) => keys.has(key))
    if (begun === undefined) return false // refused for a launch before this one
    const { entries, rows, keys } = begun
    const i = entries.findIndex(([own]) => own === key)
    while (madeAt(rows, i).result === NOT_READY) Bun.sleepSync(1)
    const { handle, layout, result } = madeAt(rows, i)
    const { module, isMachineCode } = (entries[i] as Begun["entries"][number])[1]
    if (result === 0n) this.#made.set(key, { module, handle, layout })
    else if (isMachineCode) {
      this.codeRefusal = `VkResult ${result}`
      keys.delete(key)
      return false
    } else
      throw new AlphaError(`${this.driver.info.facts.name} refuses kernel ${module.name} (VkResult ${result})`, {
        hint: "text" in module ? "HELIOS_DISABLE_PTX=1 avoids kernels in PTX" : "HELIOS_DISABLE_COOP_MAT=1 avoids matrix kernels",
        code: EXIT.device,
      })
    return true
  }

  #spirv(module: Module, constants: Readonly<Record<string, number>>): Wanted {
    const words = this.#constants(module, constants)
    return { module, code: module.module, entry: zeroTerminated("main"), words, push: pushOf(module), subgroup: this.#subgroup(module) }
  }

  #ptx(entry: PtxEntry): Wanted {
    const machineCode = this.codeRefusal === undefined ? entry.code : undefined
    if (machineCode === undefined && entry.sharedBytes > MOST_DYNAMIC)
      throw new AlphaError(`kernel ${entry.name} needs ${entry.sharedBytes} bytes of shared memory, which only machine code may have`, {
        hint: `HELIOS_DISABLE_PTX_ROOM=1 avoids such kernels; ${this.codeRefusal === undefined ? "a build with ptxas makes it" : `the driver refuses machine code: ${this.codeRefusal}`}`,
        code: EXIT.device,
      })
    return {
      module: entry,
      code: machineCode ?? zeroTerminated(entry.text),
      isMachineCode: machineCode !== undefined,
      entry: zeroTerminated(entry.name),
      words: new Uint32Array(1),
      push: 0,
      subgroup: -1,
    }
  }

  /** Values of the specialization constants by SpecId. */
  #constants(module: Module, given: Readonly<Record<string, number>>): Uint32Array {
    const words = new Uint32Array(Math.max(1, ...module.constants.map(({ id }) => id + 1)))
    const floats = new Float32Array(words.buffer)
    for (const { name, id, type, value } of module.constants) {
      const chosen = id === 0 ? this.target.subgroupSize : (given[name] ?? value)
      if (type === "f32") floats[id] = chosen
      else words[id] = chosen
    }
    for (const name of Object.keys(given))
      if (!module.constants.some((constant) => constant.name === name)) throw new TypeError(`${module.name} has no constant ${name}`)
    return words
  }

  /** The subgroup size that a module must have; 0 where it does not matter or cannot be asked for. */
  #subgroup(module: Module): number {
    const { facts } = this.driver.info
    const uses = module.constants.some(({ id }) => id === 0)
    return uses && facts.subgroupSizeControl && facts.fullSubgroups && facts.requiredSubgroupStages & COMPUTE ? this.target.subgroupSize : 0
  }

  /** Keeps what the driver compiled for the next start, when there is anything new. A cache that cannot be written costs time only. */
  save(): void {
    if (!this.#isNew || this.#file === undefined) return
    this.#isNew = false
    const size = Number(vulkan().gpu_cache_data(this.driver.gpu, null, 0))
    const bytes = new Uint8Array(size)
    const length = Number(vulkan().gpu_cache_data(this.driver.gpu, bytes, size))
    try {
      mkdirSync(join(this.#file, ".."), { recursive: true, mode: 0o700 })
      writeAtomic(this.#file, bytes.subarray(0, length))
    } catch {
      // a read-only home: compile again next time
    }
  }

  close(): void {
    for (const { entries, rows, queue } of this.#begun.splice(0)) {
      vulkan().gpu_pipelines_made(queue)
      entries.forEach(([key, { module }], i) => {
        const { handle, layout, result } = madeAt(rows, i)
        if (result === 0n) this.#made.set(key, { module, handle, layout })
      })
    }
    this.save()
    for (const { module, handle, layout } of this.#made.values()) {
      if ("text" in module) vulkan().gpu_function_free(this.driver.gpu, handle, layout)
      else vulkan().gpu_pipeline_free(this.driver.gpu, handle, layout)
    }
    this.#made.clear()
  }
}

/** File of a device's pipeline cache, and what it holds. */
export function pipelineCache(facts: VulkanFacts): { file: string | undefined; bytes: Uint8Array | undefined } {
  const { XDG_CACHE_HOME, HOME } = process.env
  const folder = XDG_CACHE_HOME || (HOME && join(HOME, ".cache"))
  if (folder === undefined || folder === "") return { file: undefined, bytes: undefined }
  const key = sha256(new TextEncoder().encode([facts.uuid, facts.driverVersion, facts.driverInfo, facts.deviceId].join(" ")))
  const file = join(folder, "alpha", "pipelines", `${key.slice(0, 32)}.bin`)
  return { file, bytes: existsSync(file) ? readFileSync(file) : undefined }
}
