/** Where a module meets its pipeline: push constants, params, builtins, specialization constants, shared arrays. */
import { floatBits, type Module } from "./spirv-assemble-module.ts"
import { constantsOf, type Kernel } from "./spirv-kernel.ts"
import { type PushField, pushLayout } from "./spirv-layout.ts"
import type { Builtin, Constant, Memory, SharedMemory, View } from "./spirv-node.ts"
import { DECORATION, OP, STORAGE } from "./spirv-opcode.ts"
import { bytesOf, type Chosen, type Extent, type Plain, resolve } from "./spirv-type.ts"

/** How a view's elements lie in memory, in SPIR-V: type, bytes from one to the next. */
export interface Cell {
  readonly type: number
  readonly stride: number
}

const BUILTINS: Record<Builtin, { readonly number: number; readonly component?: number }> = {
  lane: { number: 29 }, // LocalInvocationIndex
  groupX: { number: 26, component: 0 }, // WorkgroupId
  groupY: { number: 26, component: 1 },
  groupZ: { number: 26, component: 2 },
  groupsX: { number: 24, component: 0 }, // NumWorkgroups
  groupsY: { number: 24, component: 1 },
  subgroup: { number: 40 }, // SubgroupId
  subgroupLane: { number: 41 }, // SubgroupLocalInvocationId
}

/** A value of the interface: the variable, the index inside it when it is part of a struct or vector, and its type. */
export interface Place {
  readonly variable: number
  readonly storage: number
  readonly member: number | undefined
  readonly component: number | undefined
  readonly type: number
}

export class Interface {
  private readonly fields: readonly PushField[]
  private readonly shared = new Map<SharedMemory, number>()
  private pushVariable: number | undefined

  constructor(
    readonly module: Module,
    readonly kernel: Kernel,
    readonly chosen: Chosen,
  ) {
    this.fields = pushLayout(kernel)
  }

  /** The cell of a view: packs as the widest vectors of up to 16 bytes, matrices by their element. */
  cellOf({ element, count }: View, isMatrix: boolean): Cell {
    const { module } = this
    const type = resolve(element, this.chosen)
    if (isMatrix && "stored" in type) {
      module.capabilities.add("BFloat16TypeKHR")
      module.capabilities.add("StorageBuffer16BitAccess")
      return { type: module.type(OP.TypeFloat, 16, 0), stride: 2 } // 0: BFloat16KHR
    }
    if (count === 1) return { type: module.stored(type), stride: bytesOf(type) }
    const words = Math.min(4, (count * bytesOf(type)) / 4) as Plain["size"]
    return { type: module.plain({ scalar: "stored" in type ? "u32" : "f32", size: words }), stride: words * 4 }
  }

  /** Pointer to a block that holds cells only. */
  blockPointer({ type, stride }: Cell, memory: Memory): number {
    const { module } = this
    const isReadOnly = memory.kind !== "shared" && memory.access === "read"
    return module.once(`block of ${type} by ${stride}${isReadOnly ? ", read-only" : ""}`, () => {
      const struct = module.struct([module.runtimeArray(type, stride)])
      module.decorate(struct, DECORATION.Block)
      module.decorateMember(struct, 0, DECORATION.Offset, 0)
      if (isReadOnly) module.decorateMember(struct, 0, DECORATION.NonWritable)
      return module.pointer(STORAGE.PhysicalStorageBuffer, struct)
    })
  }

  /** Addresses are integers there: the validator allows no pointer to 16-bit elements in push constants, nor a cast to one from a pointer. */
  private fieldType({ type }: PushField): number {
    return this.module.scalar(type === "address" ? "u64" : type)
  }

  /** Pointer to the params block. */
  get paramsPointer(): number {
    const { module } = this
    return module.once("params", () => {
      const struct = module.struct(Object.values(this.kernel.params).map(({ scalar }) => module.scalar(scalar)))
      module.decorate(struct, DECORATION.Block)
      Object.keys(this.kernel.params).forEach((_, i) => {
        module.decorateMember(struct, i, DECORATION.Offset, 4 * i)
        module.decorateMember(struct, i, DECORATION.NonWritable)
      })
      return module.pointer(STORAGE.PhysicalStorageBuffer, struct)
    })
  }

  /** A push constant. */
  pushed(name: string): Place {
    const { module } = this
    if (this.pushVariable === undefined) {
      const struct = module.struct(this.fields.map((field) => this.fieldType(field)))
      module.decorate(struct, DECORATION.Block)
      this.fields.forEach(({ offset }, i) => {
        module.decorateMember(struct, i, DECORATION.Offset, offset)
      })
      this.pushVariable = module.variable(STORAGE.PushConstant, struct)
    }
    const member = this.fields.findIndex((field) => field.name === name)
    const type = this.fieldType(this.fields[member]!)
    return { variable: this.pushVariable, storage: STORAGE.PushConstant, member, component: undefined, type }
  }

  builtin(name: Builtin): Place {
    const { module } = this
    const { number, component } = BUILTINS[name]
    if (number >= 40) module.capabilities.add("GroupNonUniform")
    const type = module.plain({ scalar: "u32", size: component === undefined ? 1 : 3 })
    const variable = module.once(`builtin ${number}`, () => {
      const id = module.variable(STORAGE.Input, type)
      module.decorate(id, DECORATION.BuiltIn, number)
      return id
    })
    return { variable, storage: STORAGE.Input, member: undefined, component, type }
  }

  constant({ name, id: specId, type, value }: Constant): number {
    const { module } = this
    return module.once(`specialization ${name}`, () => {
      const word = type.scalar === "f32" ? floatBits(value) : value >>> 0
      const id = module.specialization(module.plain(type), word)
      module.decorate(id, DECORATION.SpecId, specId)
      return id
    })
  }

  extent(size: Extent): number {
    if (typeof size === "number") return this.module.u32(size)
    return this.constant(constantsOf(this.kernel.constants).find(({ name }) => name === size)!)
  }

  sharedArray(memory: SharedMemory): number {
    const { module } = this
    const known = this.shared.get(memory)
    if (known !== undefined) return known
    const type = module.type(OP.TypeArray, module.plain(memory.element), module.u32(memory.length))
    const id = module.variable(STORAGE.Workgroup, type)
    this.shared.set(memory, id)
    return id
  }
}
