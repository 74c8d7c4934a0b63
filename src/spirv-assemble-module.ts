/** A SPIR-V module under construction: ids, types and constants once each, and the sections in their order. */
import { CAPABILITY, type CapabilityName, DECORATION, OP } from "./spirv-opcode.ts"
import type { Bf16, Plain, ScalarName, Size } from "./spirv-type.ts"

/** SPIR-V extension that a capability comes from. */
const EXTENSIONS: Partial<Record<CapabilityName, string>> = {
  BFloat16TypeKHR: "SPV_KHR_bfloat16",
  BFloat16CooperativeMatrixKHR: "SPV_KHR_bfloat16",
  CooperativeMatrixKHR: "SPV_KHR_cooperative_matrix",
  CooperativeMatrixReductionsNV: "SPV_NV_cooperative_matrix2",
  CooperativeMatrixConversionsNV: "SPV_NV_cooperative_matrix2",
  CooperativeMatrixPerElementOperationsNV: "SPV_NV_cooperative_matrix2",
  CooperativeMatrixTensorAddressingNV: "SPV_NV_cooperative_matrix2",
  TensorAddressingNV: "SPV_NV_tensor_addressing",
}

/** One instruction as words. */
export const instruction = (opcode: number, operands: readonly number[]): number[] => [((operands.length + 1) << 16) | opcode, ...operands]

/** A string operand: UTF-8 with a closing zero, in words. */
function text(value: string): number[] {
  const bytes = new TextEncoder().encode(value)
  const words = new Uint32Array((bytes.length >> 2) + 1)
  new Uint8Array(words.buffer).set(bytes)
  return [...words]
}

const float = new Float32Array(1)
const floatWord = new Uint32Array(float.buffer)
/** The bits of a number as f32. */
export function floatBits(value: number): number {
  float[0] = value
  return floatWord[0]!
}

export class Module {
  readonly capabilities = new Set<CapabilityName>(["Shader", "VulkanMemoryModel", "PhysicalStorageBufferAddresses"])
  /** Features of Vulkan that no capability tells of. */
  readonly features = new Set<string>()
  /** Global variables that the entry point uses. */
  readonly interface: number[] = []
  readonly modes: number[] = []
  /** Finished functions. */
  readonly functions: (readonly number[])[] = []
  private readonly decorations: number[] = []
  private readonly declarations: number[] = []
  private readonly known = new Map<string, number>()
  private last = 0
  private glslImport: number | undefined

  fresh(): number {
    return ++this.last
  }

  /** The id that `make` returned when first asked for `key`. */
  once(key: string, make: () => number): number {
    const known = this.known.get(key)
    if (known !== undefined) return known
    const id = make()
    this.known.set(key, id)
    return id
  }

  /** GLSL.std.450, imported when first used. */
  get glsl(): number {
    this.glslImport ??= this.fresh()
    return this.glslImport
  }

  decorate(id: number, decoration: number, ...operands: number[]): void {
    this.decorations.push(...instruction(OP.Decorate, [id, decoration, ...operands]))
  }
  decorateMember(id: number, member: number, decoration: number, ...operands: number[]): void {
    this.decorations.push(...instruction(OP.MemberDecorate, [id, member, decoration, ...operands]))
  }

  /** A declaration whose first operand is its result: a type. */
  private declare(opcode: number, operands: readonly number[]): number {
    const id = this.fresh()
    this.declarations.push(...instruction(opcode, [id, ...operands]))
    return id
  }
  type(opcode: number, ...operands: number[]): number {
    return this.once(`type ${opcode} ${operands}`, () => this.declare(opcode, operands))
  }
  /** A declaration with a type: a constant or a global variable. Not shared. */
  private typed(opcode: number, type: number, operands: readonly number[]): number {
    const id = this.fresh()
    this.declarations.push(...instruction(opcode, [type, id, ...operands]))
    return id
  }
  constant(opcode: number, type: number, ...operands: number[]): number {
    return this.once(`constant ${opcode} ${type} ${operands}`, () => this.typed(opcode, type, operands))
  }

  specialization(type: number, word: number): number {
    return this.typed(OP.SpecConstant, type, [word])
  }

  scalar(name: ScalarName): number {
    if (name === "bool") return this.type(OP.TypeBool)
    if (name === "f32") return this.type(OP.TypeFloat, 32)
    if (name === "u64") this.capabilities.add("Int64")
    return this.type(OP.TypeInt, name === "u64" ? 64 : 32, name === "i32" ? 1 : 0)
  }
  plain({ scalar, size }: { readonly scalar: ScalarName; readonly size: Size }): number {
    return size === 1 ? this.scalar(scalar) : this.type(OP.TypeVector, this.scalar(scalar), size)
  }
  /** How an element lies in a buffer: bf16 as a 16-bit integer. */
  stored(type: Plain | Bf16): number {
    if ("scalar" in type) return this.plain(type)
    this.capabilities.add("StorageBuffer16BitAccess")
    return this.type(OP.TypeInt, 16, 0)
  }
  pointer(storage: number, to: number): number {
    return this.type(OP.TypePointer, storage, to)
  }

  u32(value: number): number {
    return this.constant(OP.Constant, this.scalar("u32"), value >>> 0)
  }
  literal(scalar: ScalarName, value: number | boolean): number {
    const type = this.scalar(scalar)
    if (scalar === "bool") return this.constant(value ? OP.ConstantTrue : OP.ConstantFalse, type)
    if (scalar === "f32") return this.constant(OP.Constant, type, floatBits(Number(value)))
    if (scalar !== "u64") return this.constant(OP.Constant, type, Number(value) >>> 0)
    return this.constant(OP.Constant, type, Number(value) >>> 0, Math.floor(Number(value) / 2 ** 32))
  }

  /** A struct, not shared with others of the same members. */
  struct(members: readonly number[]): number {
    return this.declare(OP.TypeStruct, members)
  }
  /** An array for a block, with its stride. */
  runtimeArray(element: number, stride: number): number {
    return this.once(`array of ${element} by ${stride}`, () => {
      const id = this.declare(OP.TypeRuntimeArray, [element])
      this.decorate(id, DECORATION.ArrayStride, stride)
      return id
    })
  }
  /** A variable outside all functions; the entry point lists it. */
  variable(storage: number, type: number): number {
    const id = this.typed(OP.Variable, this.pointer(storage, type), [storage])
    this.interface.push(id)
    return id
  }

  /** The finished module; `entry` is the id of the function to run. */
  words(entry: number): Uint32Array<ArrayBuffer> {
    const extensions = [...new Set([...this.capabilities].flatMap((name) => EXTENSIONS[name] ?? []))].sort()
    const capabilities = [...this.capabilities].map((name) => CAPABILITY[name]).sort((a, b) => a - b)
    return Uint32Array.from([
      0x07230203, // magic
      0x00010600, // SPIR-V 1.6
      0, // generator: none registered
      this.last + 1,
      0,
      ...capabilities.flatMap((capability) => instruction(OP.Capability, [capability])),
      ...extensions.flatMap((name) => instruction(OP.Extension, text(name))),
      ...(this.glslImport === undefined ? [] : instruction(OP.ExtInstImport, [this.glslImport, ...text("GLSL.std.450")])),
      ...instruction(OP.MemoryModel, [5348, 3]), // PhysicalStorageBuffer64, Vulkan
      ...instruction(OP.EntryPoint, [5, entry, ...text("main"), ...this.interface]), // GLCompute
      ...this.modes,
      ...this.decorations,
      ...this.declarations,
      ...this.functions.flat(),
    ])
  }
}
