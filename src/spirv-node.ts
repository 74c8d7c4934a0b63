/** The tree a kernel's body leaves behind: values and statements in blocks. */
import type { GroupOperationName, OperationName } from "./spirv-operation.ts"
import type { MatrixType, Plain, Stored, Type } from "./spirv-type.ts"

export type Access = "read" | "write" | "readWrite"

/** A buffer whose device address is in the push constants. */
export interface BufferMemory {
  readonly kind: "buffer"
  readonly name: string
  readonly access: Access
  readonly element: Stored
}
/** Memory at a computed device address. */
export interface AddressMemory {
  readonly kind: "address"
  readonly name: string
  readonly access: Access
  readonly element: Stored
  readonly address: Node
}
/** An array in the workgroup's shared memory. */
export interface SharedMemory {
  readonly kind: "shared"
  readonly name: string
  readonly element: Plain
  readonly length: number
}
export type Memory = BufferMemory | AddressMemory | SharedMemory

/** Memory seen as elements of a type; `count` > 1: packs of so many floats, loaded and stored together. */
export interface View {
  readonly memory: Memory
  readonly element: Stored
  readonly count: 1 | 2 | 4 | 8
}

/** A specialization constant; `id` is its SpecId, `value` its default. */
export interface Constant {
  readonly name: string
  readonly id: number
  readonly type: Plain
  readonly value: number
}

/** A k.var, and the block it belongs to. */
export interface Variable {
  readonly type: Plain | MatrixType
  readonly block: Block
}

/** A function called per matrix element or to combine two of them. */
export interface Callback {
  readonly parameters: readonly Node[]
  readonly root: Block
  readonly result: Node
}

export type Builtin = "lane" | "groupX" | "groupY" | "groupZ" | "groupsX" | "groupsY" | "subgroup" | "subgroupLane"

export type AtomicName = "add" | "min" | "max" | "and" | "or" | "xor" | "exchange" | "compareExchange"
export type SubgroupName = GroupOperationName | "broadcast" | "shuffle" | "shuffleXor" | "elect" | "any" | "all" | "ballot"

/** What a matrix node does; its operands are in `args` in the order given here. */
export type MatrixDetail =
  | { readonly does: "splat" } // scalar
  | { readonly does: "mulAdd" } // a, b, c
  | { readonly does: "arithmetic"; readonly op: "add" | "sub" | "mul" | "div" | "neg" } // a, b
  | { readonly does: "scale" } // matrix, scalar
  | { readonly does: "convert" } // matrix
  | { readonly does: "map"; readonly callback: Callback } // matrix, ...operands
  | { readonly does: "each"; readonly callback: Callback } // matrix, ...operands
  | { readonly does: "reduce"; readonly callback: Callback; readonly along: "row" | "column" } // matrix
  | { readonly does: "load"; readonly view: View; readonly layout: "row" | "column" } // index, stride
  | { readonly does: "store"; readonly view: View; readonly layout: "row" | "column" } // index, stride, matrix
  | { readonly does: "loadTensor"; readonly view: View; readonly transposed: boolean } // base, tensor
  | { readonly does: "storeTensor"; readonly view: View } // base, tensor, matrix
  | { readonly does: "tensor"; readonly hasStrides: boolean } // ...dimensions, ...strides
  | { readonly does: "slice" } // tensor, offset, span, offset, span …

export type Detail =
  | { readonly kind: "literal"; readonly value: number | boolean }
  | { readonly kind: "constant"; readonly constant: Constant }
  | { readonly kind: "builtin"; readonly builtin: Builtin }
  | { readonly kind: "push"; readonly name: string }
  | { readonly kind: "param"; readonly name: string }
  | { readonly kind: "parameter" }
  | { readonly kind: "operation"; readonly name: OperationName }
  | { readonly kind: "select" } // condition, yes, no
  | { readonly kind: "construct" } // components
  | { readonly kind: "extract"; readonly component: number }
  | { readonly kind: "counter" } // of a for
  | { readonly kind: "get"; readonly variable: Variable }
  | { readonly kind: "set"; readonly variable: Variable }
  | { readonly kind: "load"; readonly view: View } // index
  | { readonly kind: "part"; readonly component: number } // of a pack
  | { readonly kind: "store"; readonly view: View } // index, ...values
  | { readonly kind: "atomic"; readonly name: AtomicName; readonly view: View } // index, value[, expected]
  | { readonly kind: "barrier"; readonly buffers: boolean; readonly scope: "workgroup" | "subgroup" }
  | { readonly kind: "subgroup"; readonly name: SubgroupName } // value[, lane or mask]
  | { readonly kind: "if"; readonly yes: Block; readonly no: Block | undefined } // condition
  | { readonly kind: "for"; readonly counter: Node; readonly body: Block; readonly unroll: boolean } // start, end, step
  | { readonly kind: "while"; readonly test: Block; readonly condition: Node; readonly body: Block }
  | { readonly kind: "break" } // condition
  | ({ readonly kind: "matrix" } & MatrixDetail)

/** A value or a statement. Values without a block (literals, constants, builtins, push constants) may be used anywhere. */
export type Node = Detail & {
  readonly number: number
  readonly type: Type | undefined
  readonly args: readonly Node[]
  readonly block: Block | undefined
}

export class Block {
  readonly nodes: Node[] = []
  /** Pure values of this block by what they compute. */
  readonly known = new Map<string, Node>()

  constructor(readonly parent: Block | undefined) {}

  find(key: string): Node | undefined {
    return this.known.get(key) ?? this.parent?.find(key)
  }

  isWithin(outer: Block): boolean {
    return this === outer || (this.parent?.isWithin(outer) ?? false)
  }
}

/** A body's recording. */
export interface Recording {
  readonly root: Block
  readonly shared: readonly SharedMemory[]
  /** Some barrier orders accesses to buffers, so these must be visible to the other lanes. */
  readonly exchangesBuffers: boolean
}

export const isPlain = (type: Type | undefined): type is Plain => type !== undefined && "scalar" in type
export const isMatrix = (type: Type | undefined): type is MatrixType => type !== undefined && "use" in type

/** Blocks nested directly in a node. */
export function blocksOf(node: Node): readonly Block[] {
  if (node.kind === "if") return node.no === undefined ? [node.yes] : [node.yes, node.no]
  if (node.kind === "for") return [node.body]
  if (node.kind === "while") return [node.test, node.body]
  return node.kind === "matrix" && "callback" in node ? [node.callback.root] : []
}

/** Every node of a block and of the blocks inside it, in order. */
export function* walk(block: Block): Generator<Node> {
  for (const node of block.nodes) {
    yield node
    for (const inner of blocksOf(node)) yield* walk(inner)
  }
}

const STATEMENTS = new Set(["set", "store", "atomic", "barrier", "if", "for", "while", "break"])

function acts(node: Node): boolean {
  if (STATEMENTS.has(node.kind)) return true
  if (node.kind !== "matrix") return false
  if (node.does === "map") return node.callback.root.nodes.some(acts)
  return node.does === "store" || node.does === "storeTensor"
}

/** What a node computes from: its operands, and the address of the memory it touches. */
export function sources(node: Detail & { readonly args: readonly Node[] }): readonly Node[] {
  if ("view" in node && node.view.memory.kind === "address") return [...node.args, node.view.memory.address]
  return node.args
}

/** The nodes that have an effect or feed one; the rest is dropped. */
export function needed(root: Block): ReadonlySet<Node> {
  const found = new Set<Node>()
  const mark = (node: Node): void => {
    if (found.has(node)) return
    found.add(node)
    sources(node).forEach(mark)
    if (node.kind === "while") mark(node.condition)
    if (node.kind === "matrix" && "callback" in node) mark(node.callback.result)
  }
  for (const node of walk(root)) if (acts(node)) mark(node)
  return found
}
