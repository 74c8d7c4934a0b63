/** Which Vulkan devices there are, what they can do, and which of the three matrix paths and of PTX runs on them. */
import { existsSync, readFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { dirname, isAbsolute, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { openVulkan, type VulkanFacts, type VulkanInstance } from "./native.ts"
import type { GpuTarget } from "./program.ts"

/** A device that can run the kernels. */
export interface GpuInfo {
  readonly instance: VulkanInstance
  /** Place in the instance's list. */
  readonly index: number
  readonly facts: VulkanFacts
}

interface FoundGpus {
  readonly usable: readonly GpuInfo[]
  /** What was looked for and why it cannot be used; for people. */
  readonly problems: readonly string[]
}

let found: FoundGpus | undefined

/** Usable devices, the fastest kind first; looks once per process. */
export function findGpus(): FoundGpus {
  found ??= search()
  return found
}

/** The loader first, else the drivers themselves: boxes with a driver but no loader are common. */
function search(): FoundGpus {
  const problems: string[] = []
  for (const file of ["libvulkan.so.1", ...listedDrivers(), "libEGL_nvidia.so.0", "libGLX_nvidia.so.0"]) {
    const opened = openVulkan(file, process.env.HELIOS_VALIDATE === "1")
    if ("reason" in opened) {
      problems.push(opened.reason)
      continue
    }
    if (opened.devices.length === 0) problems.push(`${file}: no device`)
    const usable: GpuInfo[] = []
    opened.devices.forEach((facts, index) => {
      const lacks = missing(facts)
      if (lacks.length === 0) usable.push({ instance: opened, index, facts })
      else problems.push(`${facts.name}: lacks ${lacks.join(", ")}`)
    })
    if (usable.length > 0) return { usable: usable.sort((a, b) => rank(a) - rank(b)), problems }
    opened.close()
  }
  return { usable: [], problems }
}

/** Driver libraries named by VK_DRIVER_FILES (or VK_ICD_FILENAMES), which a loader would read. */
function listedDrivers(): string[] {
  const list = process.env.VK_DRIVER_FILES ?? process.env.VK_ICD_FILENAMES ?? ""
  return list
    .split(":")
    .filter((file) => file !== "" && existsSync(file))
    .flatMap((file) => {
      const path = (JSON.parse(readFileSync(file, "utf8")) as { ICD?: { library_path?: string } }).ICD?.library_path
      if (path === undefined) return []
      return [path.includes("/") && !isAbsolute(path) ? join(dirname(file), path) : path]
    })
}

const KINDS = ["other", "integrated", "discrete", "virtual", "cpu"] as const
/** VkPhysicalDeviceType as a word. */
export const kindOf = (facts: VulkanFacts): (typeof KINDS)[number] => KINDS[facts.kind] ?? "other"

const rank = ({ facts }: GpuInfo): number => ["discrete", "integrated", "virtual", "other", "cpu"].indexOf(kindOf(facts))

const NEEDED = { int64: "shaderInt64", bufferAddress: "bufferDeviceAddress", timeline: "timelineSemaphore" } as const
const ALSO_NEEDED = { memoryModel: "vulkanMemoryModel", maintenance4: "maintenance4", storage16: "storageBuffer16BitAccess" } as const

/** Features that the kernels need and the device lacks. */
function missing(facts: VulkanFacts): string[] {
  const lacks: string[] = Object.entries({ ...NEEDED, ...ALSO_NEEDED }).flatMap(([fact, name]) =>
    facts[fact as keyof typeof NEEDED] === 1 ? [] : [name],
  )
  if (facts.apiVersion < ((1 << 22) | (3 << 12))) lacks.push("Vulkan 1.3")
  if (facts.subgroupSize < 4 || facts.subgroupSize > 64) lacks.push("a subgroup of 4 to 64 lanes")
  return lacks
}

/**
 * By product name: multiprocessors, and TFLOP/s of dense bf16 matrices and of f32, which Vulkan does not tell. Data sheets of the makers, SXM where there
 * are several.
 */
const PRODUCTS: readonly (readonly [name: RegExp, units: number, bf16: number, f32: number])[] = [
  [/H[12]00|GH200/, 132, 989, 67],
  [/B200/, 148, 2250, 75],
  [/A100/, 108, 312, 19.5],
  [/RTX 5090/, 170, 209, 104],
  [/RTX 4090/, 128, 165, 82],
  [/RTX 3090/, 82, 71, 35],
  [/L40S/, 142, 362, 91],
  [/A10\b/, 72, 125, 31],
  [/L4\b/, 58, 121, 30],
]

const productOf = (facts: VulkanFacts) => PRODUCTS.find(([name]) => name.test(facts.name))

/** FLOP/s of the data sheet, against which MFU is told; undefined for products that are not listed. */
export function peakFlops(facts: VulkanFacts, precision: "f32" | "bf16"): number | undefined {
  const [, , bf16, f32] = productOf(facts) ?? []
  const peak = precision === "bf16" ? bf16 : f32
  return peak === undefined ? undefined : peak * 1e12
}

/** What each variable may say. */
const KNOBS = {
  HELIOS_DISABLE_COOP_MAT: [/^[01]$/, "0 or 1"],
  HELIOS_DISABLE_PTX: [/^[01]$/, "0 or 1"],
  HELIOS_DISABLE_PTX_ROOM: [/^[01]$/, "0 or 1"],
  HELIOS_MATRIX: [/^(none|khr|nv2)$/, "none, khr or nv2"],
} as const

/** A variable's value; undefined where it is not set. Throws AlphaError naming it where it says what it may not. */
function knob(name: keyof typeof KNOBS): string | undefined {
  const value = process.env[name]
  const [form, expected] = KNOBS[name]
  if (value === undefined || value === "") return undefined
  if (!form.test(value)) throw new AlphaError(`${name} ${value}: expected ${expected}`, { code: EXIT.usage })
  return value
}

/** VkComponentTypeKHR of f32 and bf16, VkScopeKHR of a subgroup. */
const [FLOAT32, BFLOAT16, SUBGROUP] = [1, 1000141000, 3]

/** The best matrix path of a device; HELIOS_DISABLE_COOP_MAT=1 allows none, HELIOS_MATRIX a lower one (khr: without NV's functions on its matrices too). */
function matrixPath(facts: VulkanFacts): GpuTarget["matrix"] {
  const limit = knob("HELIOS_DISABLE_COOP_MAT") === "1" ? "none" : knob("HELIOS_MATRIX")
  const khr = facts.matrixShapes.some(
    ({ m, n, k, a, result, scope, invocations }) =>
      invocations === 0 && scope === SUBGROUP && m === 16 && n === 16 && k === 16 && a === BFLOAT16 && result === FLOAT32,
  )
  if (limit === "none" || !facts.bfloat16Matrix || !khr) return "none"
  const nv2 = facts.matrixWorkgroup && facts.matrixFunctions && facts.matrixTensors
  return nv2 && limit !== "khr" ? "nv2" : "khr"
}

/** Extension that takes PTX text and launches it in a command buffer. */
export const PTX_EXTENSION = "VK_NVX_binary_import"

/** Whether kernels in PTX run, unless HELIOS_DISABLE_PTX=1: on products with Hopper's chip, by name, as Vulkan does not tell. */
const hasPtx = (facts: VulkanFacts): boolean =>
  knob("HELIOS_DISABLE_PTX") !== "1" &&
  matrixPath(facts) !== "none" &&
  facts.extensions.includes(PTX_EXTENSION) &&
  /\b(GH200|H100|H200|H20|H800)\b/.test(facts.name)

/** Whether kernels in PTX shall keep to the 48 KiB of shared memory that every driver gives a block. */
export const disablesRoom = (): boolean => knob("HELIOS_DISABLE_PTX_ROOM") === "1"

/** What ops may know of the device without trying anything. */
export function targetOf(facts: VulkanFacts): GpuTarget {
  const named = productOf(facts)?.[1]
  return {
    subgroupSize: facts.subgroupSize,
    matrix: matrixPath(facts),
    ptx: hasPtx(facts),
    hasMatrixFunctions: facts.matrixFunctions === 1 && knob("HELIOS_MATRIX") !== "khr",
    units: named ?? (kindOf(facts) === "cpu" ? availableParallelism() : 32),
    sharedBytes: facts.maxSharedBytes,
    stacks: hasPtx(facts),
  }
}

/** Driver version as its maker writes it, where Vulkan's own text has it. */
export const driverOf = (facts: VulkanFacts): string => [facts.driver, facts.driverInfo].filter(Boolean).join(" ")
