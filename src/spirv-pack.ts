/** The pack: all kernels with their variants in one blob, and the index that says what each needs. */
import { AlphaError } from "./base-error.ts"
import { assemble } from "./spirv-assemble.ts"
import { checkKernel, sharedBytes } from "./spirv-check.ts"
import { constantsOf, type Kernel, type Word } from "./spirv-kernel.ts"
import { type PushField, pushLayout } from "./spirv-layout.ts"
import { type Access, needed } from "./spirv-node.ts"
import type { CapabilityName } from "./spirv-opcode.ts"
import { SUBGROUP_SIZE } from "./spirv-subgroup.ts"
import { resolve, typeName } from "./spirv-type.ts"

type WordName = Word["scalar"]

/** A module and what its pipeline and dispatches need. */
export interface PackEntry {
  /** With the variant's types: rms_norm_forward.bf16. */
  readonly name: string
  /** Lanes per workgroup, or the constant that says it. */
  readonly workgroup: number | string
  /** In the order of the push constants; addresses are aligned to 16 bytes. */
  readonly buffers: readonly { readonly name: string; readonly access: Access; readonly type: string }[]
  readonly push: readonly PushField[]
  /** Words of the block at the push constant `params`. */
  readonly params: readonly { readonly name: string; readonly type: WordName }[]
  /** Specialization constants; `subgroupSize` is among them where the kernel has subgroup operations or asks for the size, and must be the required size. */
  readonly constants: readonly { readonly name: string; readonly id: number; readonly type: WordName; readonly value: number }[]
  readonly sharedBytes: number
  /** Names of Vulkan's feature members, and "subgroup …" for operations a subgroup must support. */
  readonly features: readonly string[]
}

const FEATURES: Record<CapabilityName, string | undefined> = {
  Shader: undefined,
  Int64: "shaderInt64",
  GroupNonUniform: "subgroup basic",
  GroupNonUniformVote: "subgroup vote",
  GroupNonUniformArithmetic: "subgroup arithmetic",
  GroupNonUniformBallot: "subgroup ballot",
  GroupNonUniformShuffle: "subgroup shuffle",
  StorageBuffer16BitAccess: "storageBuffer16BitAccess",
  BFloat16TypeKHR: "shaderBFloat16Type",
  BFloat16CooperativeMatrixKHR: "shaderBFloat16CooperativeMatrix",
  VulkanMemoryModel: "vulkanMemoryModel",
  PhysicalStorageBufferAddresses: "bufferDeviceAddress",
  CooperativeMatrixReductionsNV: "cooperativeMatrixReductions",
  CooperativeMatrixConversionsNV: "cooperativeMatrixConversions",
  CooperativeMatrixPerElementOperationsNV: "cooperativeMatrixPerElementOperations",
  CooperativeMatrixTensorAddressingNV: "cooperativeMatrixTensorAddressing",
  TensorAddressingNV: undefined,
  CooperativeMatrixKHR: "cooperativeMatrix",
}

const MAGIC = 0x56505341 // "ASPV"
const VERSION = 1

/** Assembles and checks every variant of every kernel. The same kernels always give the same bytes. */
export function pack(kernels: readonly Kernel[]): Uint8Array<ArrayBuffer> {
  const modules: Uint32Array<ArrayBuffer>[] = []
  const index: (PackEntry & { readonly words: number })[] = []
  for (const kernel of kernels) {
    checkKernel(kernel)
    for (const variant of kernel.variants) {
      if (index.some(({ name }) => name === variant.name)) throw new AlphaError(`kernel ${variant.name}: the name is taken`)
      const { words, capabilities, features } = assemble(kernel, variant)
      const needs = [...features, ...capabilities.flatMap((name) => FEATURES[name] ?? [])].sort()
      const used = needed(kernel.recording.root)
      const usesSubgroups =
        capabilities.includes("GroupNonUniform") ||
        [...used].some((node) => node.kind === "constant" && node.constant.id === SUBGROUP_SIZE.id)
      modules.push(words)
      index.push({
        name: variant.name,
        workgroup: kernel.workgroup,
        buffers: Object.entries(kernel.buffers).map(([name, { access, element }]) => ({
          name,
          access,
          type: typeName(resolve(element, variant.chosen)),
        })),
        push: pushLayout(kernel),
        params: Object.entries(kernel.params).map(([name, { scalar }]) => ({ name, type: scalar })),
        constants: [...(usesSubgroups ? [SUBGROUP_SIZE] : []), ...constantsOf(kernel.constants)].map(({ name, id, type, value }) => ({
          name,
          id,
          type: type.scalar as WordName,
          value,
        })),
        sharedBytes: sharedBytes(used),
        features: needs,
        words: words.length,
      })
    }
  }
  const text = new TextEncoder().encode(JSON.stringify(index))
  const head = Uint32Array.of(MAGIC, VERSION, text.length)
  const start = head.byteLength + Math.ceil(text.length / 4) * 4
  const blob = new Uint8Array(start + modules.reduce((sum, { byteLength }) => sum + byteLength, 0))
  blob.set(new Uint8Array(head.buffer))
  blob.set(text, head.byteLength)
  modules.reduce((at, words) => {
    blob.set(new Uint8Array(words.buffer), at)
    return at + words.byteLength
  }, start)
  return blob
}

/** The entries of a pack by name, each with its module. Throws AlphaError when the blob is none of this version. */
export function readPack(blob: Uint8Array): ReadonlyMap<string, PackEntry & { readonly module: Uint32Array<ArrayBuffer> }> {
  const bytes = blob.slice() // aligned
  const [magic, version, length] = bytes.length < 12 ? [] : new Uint32Array(bytes.buffer, 0, 3)
  if (magic !== MAGIC || version !== VERSION) throw new AlphaError("kernel pack: not a pack of this version", { hint: "npm run build" })
  const index = JSON.parse(new TextDecoder().decode(bytes.subarray(12, 12 + length!))) as (PackEntry & { readonly words: number })[]
  let at = 12 + Math.ceil(length! / 4) * 4
  const entries = new Map<string, PackEntry & { readonly module: Uint32Array<ArrayBuffer> }>()
  for (const { words, ...entry } of index) {
    entries.set(entry.name, { ...entry, module: new Uint32Array(bytes.buffer, at, words) })
    at += words * 4
  }
  return entries
}
