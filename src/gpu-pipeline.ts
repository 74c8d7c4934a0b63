/** Embedded SPIR-V becomes pipelines: specialised, made once per variant and constants, cached on disk by driver and device. */
import { existsSync, mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256, writeAtomic } from "./base-file.ts"
import type { Driver } from "./gpu-driver.ts"
import type { VulkanFacts } from "./native.ts"
import { vulkan, vulkanError } from "./native.ts"
import type { GpuTarget, Launch } from "./program.ts"
import { type Kernel, type PackEntry, pack, readPack } from "./spirv.ts"

type Module = PackEntry & { readonly module: Uint32Array<ArrayBuffer> }

const modules = new Map<string, Module>()

/** A variant's module: from the pack in the binary; run from source, it is assembled when first asked for. */
export function moduleOf(kernel: Kernel, variant: string): Module {
  if (modules.size === 0 && isCompiled)
    for (const [name, entry] of readPack(readFileSync(require("alpha:kernel-pack")))) modules.set(name, entry)
  const known = modules.get(variant)
  if (known !== undefined) return known
  if (isCompiled) throw new AlphaError(`kernel ${variant} is not in the pack`, { hint: "npm run build" })
  for (const [name, entry] of readPack(pack([kernel]))) modules.set(name, entry)
  return modules.get(variant) as Module
}

export interface Pipeline {
  readonly module: Module
  readonly handle: bigint
  readonly layout: bigint
}

export class Pipelines {
  readonly #made = new Map<string, Pipeline>()
  readonly #file: string | undefined
  #isNew = false

  constructor(
    readonly driver: Driver,
    readonly target: GpuTarget,
    file: string | undefined,
  ) {
    this.#file = file
  }

  /** The pipeline of a launch. Throws AlphaError where the driver refuses the module. */
  of({ kernel, variant, constants }: Launch): Pipeline {
    const key = `${variant} ${JSON.stringify(constants)}`
    const known = this.#made.get(key)
    if (known !== undefined) return known
    const made = this.#make(moduleOf(kernel, variant), constants)
    this.#made.set(key, made)
    this.#isNew = true
    return made
  }

  #make(module: Module, constants: Readonly<Record<string, number>>): Pipeline {
    const { facts } = this.driver.info
    const words = new Uint32Array(Math.max(1, ...module.constants.map(({ id }) => id + 1)))
    const floats = new Float32Array(words.buffer)
    const usesSubgroups = module.constants.some(({ id }) => id === 0)
    for (const { name, id, type, value } of module.constants) {
      const given = id === 0 ? this.target.subgroupSize : (constants[name] ?? value)
      if (type === "f32") floats[id] = given
      else words[id] = given
    }
    for (const name of Object.keys(constants))
      if (!module.constants.some((constant) => constant.name === name)) throw new TypeError(`${module.name} has no constant ${name}`)
    const push = module.push.reduce((sum, { type }) => sum + (type === "address" ? 8 : 4), 0)
    const required = usesSubgroups && facts.subgroupSizeControl && facts.fullSubgroups && facts.requiredSubgroupStages & 0x20
    const out = new BigInt64Array(2)
    const entry = new TextEncoder().encode("main\0")
    const made = vulkan().gpu_pipeline(
      this.driver.gpu,
      module.module,
      module.module.byteLength,
      entry,
      push,
      words,
      words.length,
      required ? this.target.subgroupSize : 0,
      out,
    )
    if (Number(made) === 0) {
      const error = vulkanError("")
      throw new AlphaError(`${error.message} (kernel ${module.name})`, {
        hint: "HELIOS_DISABLE_COOP_MAT=1 avoids matrix kernels",
        code: EXIT.device,
      })
    }
    return { module, handle: out[0] as bigint, layout: out[1] as bigint }
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
    this.save()
    for (const { handle, layout } of this.#made.values()) vulkan().gpu_pipeline_free(this.driver.gpu, handle, layout)
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
