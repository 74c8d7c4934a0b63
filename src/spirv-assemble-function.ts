/** A SPIR-V function under construction: its entry block, its code, and the ids of the nodes it has computed. */
import type { Cell, Interface, Place } from "./spirv-assemble-interface.ts"
import { instruction, type Module } from "./spirv-assemble-module.ts"
import { typeId } from "./spirv-assemble-type.ts"
import { PARAMS } from "./spirv-layout.ts"
import type { Node, Variable, View } from "./spirv-node.ts"
import { OP, STORAGE } from "./spirv-opcode.ts"

export class FunctionWriter {
  readonly module: Module
  /** Ids of values; a pack has one per element. */
  readonly ids = new Map<Node, number>()
  readonly parts = new Map<Node, readonly number[]>()
  private readonly variables = new Map<Variable, number>()
  private readonly declared: number[] = []
  private readonly prologue: number[] = []
  private readonly code: number[] = []
  private readonly loaded = new Map<string, number>()
  private readonly entry: number
  /** Label of the block that is being written. */
  label: number

  constructor(readonly io: Interface) {
    this.module = io.module
    this.entry = this.module.fresh()
    this.label = this.entry
  }

  emit(opcode: number, ...operands: number[]): void {
    this.code.push(...instruction(opcode, operands))
  }
  /** An instruction with a result. */
  value(opcode: number, type: number, ...operands: number[]): number {
    const id = this.module.fresh()
    this.emit(opcode, type, id, ...operands)
    return id
  }
  /** Begins a block. */
  begin(label: number): void {
    this.emit(OP.Label, label)
    this.label = label
  }

  private inPrologue(opcode: number, type: number, ...operands: number[]): number {
    const id = this.module.fresh()
    this.prologue.push(...instruction(opcode, [type, id, ...operands]))
    return id
  }
  private once(key: string, make: () => number): number {
    const known = this.loaded.get(key)
    if (known !== undefined) return known
    const id = make()
    this.loaded.set(key, id)
    return id
  }

  /** A value of the interface, loaded once at the function's start. */
  private load({ variable, storage, member, component, type }: Place): number {
    const { module } = this
    const pointer =
      member === undefined ? variable : this.inPrologue(OP.AccessChain, module.pointer(storage, type), variable, module.u32(member))
    const whole = this.once(`load ${variable} ${member}`, () => this.inPrologue(OP.Load, type, pointer))
    if (component === undefined) return whole
    return this.inPrologue(OP.CompositeExtract, module.scalar("u32"), whole, component)
  }

  private pushed(name: string): number {
    return this.once(`push ${name}`, () => this.load(this.io.pushed(name)))
  }

  private param(name: string): number {
    const { module } = this
    const names = Object.keys(this.io.kernel.params)
    return this.once(`param ${name}`, () => {
      const type = module.scalar(this.io.kernel.params[name]!.scalar)
      const pointer = module.pointer(STORAGE.PhysicalStorageBuffer, type)
      const at = this.inPrologue(OP.AccessChain, pointer, this.base(PARAMS, this.io.paramsPointer), module.u32(names.indexOf(name)))
      return this.inPrologue(OP.Load, type, at, 2, 4) // Aligned 4
    })
  }

  /** The id of a value. */
  id(node: Node): number {
    const known = this.ids.get(node)
    if (known !== undefined) return known
    if (node.kind === "literal") return this.module.literal((node.type as { scalar: "u32" }).scalar, node.value)
    if (node.kind === "constant") return this.io.constant(node.constant)
    if (node.kind === "push") return this.pushed(node.name)
    if (node.kind === "param") return this.param(node.name)
    if (node.kind === "builtin") return this.once(`builtin ${node.builtin}`, () => this.load(this.io.builtin(node.builtin)))
    throw new Error(`${this.io.kernel.name}: ${node.kind} has no id`)
  }

  /** Pointer to a k.var. */
  variable(variable: Variable): number {
    const known = this.variables.get(variable)
    if (known !== undefined) return known
    const id = this.module.fresh()
    const pointer = this.module.pointer(STORAGE.Function, typeId(this.io, variable.type))
    this.declared.push(...instruction(OP.Variable, [pointer, id, STORAGE.Function]))
    this.variables.set(variable, id)
    return id
  }

  /** Pointer to a variable of the function's own, for a purpose. */
  temporary(key: string, type: number): number {
    return this.once(`temporary ${key} ${type}`, () => {
      const id = this.module.fresh()
      this.declared.push(...instruction(OP.Variable, [this.module.pointer(STORAGE.Function, type), id, STORAGE.Function]))
      return id
    })
  }

  /** Pointer to cell `index` of a view. */
  cellPointer({ memory }: View, cell: Cell, index: number): number {
    const { module, io } = this
    if (memory.kind === "shared")
      return this.value(OP.AccessChain, module.pointer(STORAGE.Workgroup, cell.type), io.sharedArray(memory), index)
    const block = io.blockPointer(cell, memory)
    const base = memory.kind === "address" ? this.value(OP.ConvertUToPtr, block, this.id(memory.address)) : this.base(memory.name, block)
    return this.value(OP.AccessChain, module.pointer(STORAGE.PhysicalStorageBuffer, cell.type), base, module.u32(0), index)
  }

  /** A buffer's address as a pointer to `block`. */
  private base(name: string, block: number): number {
    return this.once(`base ${name} ${block}`, () => this.inPrologue(OP.ConvertUToPtr, block, this.pushed(name)))
  }

  /** The whole function. Its code must end with a return. */
  finish(type: number, functionType: number, parameters: readonly number[] = []): number {
    const id = this.module.fresh()
    this.module.functions.push([
      ...instruction(OP.Function, [type, id, 0, functionType]),
      ...parameters,
      ...instruction(OP.Label, [this.entry]),
      ...this.declared,
      ...this.prologue,
      ...this.code,
      ...instruction(OP.FunctionEnd, []),
    ])
    return id
  }
}
