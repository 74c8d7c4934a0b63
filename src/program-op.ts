/** What ops, nodes and programs are: the vocabulary of planner, autograd and devices. */
import type { NativeCall } from "./native.ts"
import type { GpuTarget, Launches } from "./program-gpu.ts"
import type { Dtype, Tensor, TensorType } from "./tensor.ts"

export type Operand = Tensor | readonly Tensor[] | undefined
export type Operands = Readonly<Record<string, Operand>>
export type Attrs = Readonly<Record<string, unknown>>

/** Values of one tensor in the reference: f64 for floats, i32 for indices. */
export interface View {
  readonly shape: readonly number[]
  readonly data: Float64Array | Int32Array
}
export type Views = Readonly<Record<string, View | readonly View[] | undefined>>

/** What an output that accumulates is multiplied by before it is added to; undefined = overwritten. */
export type Beta<T> = (output: string) => T | undefined

/** What planner, autograd and devices ask of an op; written through `defineOp`, which types the names. */
export interface Op {
  readonly name: string
  readonly doc: string
  readonly inputs: Readonly<Record<string, InputKind>>
  readonly outputs: readonly string[]
  /** Inputs that the op changes in place (state). */
  readonly writes: readonly string[]
  /** Outputs that can be added to what is there (`beta`). */
  readonly accumulates: readonly string[]
  /** Outputs that gradients may arrive at; the first unless the op says otherwise. */
  readonly differentiable: readonly string[]
  /** Output → input whose memory it may take over when that input dies here. */
  readonly inPlace: Readonly<Record<string, string>>
  shape(inputs: Operands, attrs: Attrs): Record<string, TensorType>
  reference(inputs: Views, outputs: Views, attrs: Attrs, beta: Beta<number>): void
  cpu(inputs: Operands, outputs: Operands, attrs: Attrs, beta: Beta<Tensor>): NativeCall<Tensor>
  /** Kernel launches on a GPU; their memory may overlap only where `inPlace` says so. */
  gpu?(inputs: Operands, outputs: Operands, attrs: Attrs, beta: Beta<Tensor>, target: GpuTarget): Launches
  /** Floating-point operations, for ops that are bound by them. */
  flops?(inputs: Operands, attrs: Attrs): number
  backward?(inputs: Operands, outputs: Operands, grads: Operands, attrs: Attrs): Record<string, Tensor | undefined>
  readonly cases: readonly OpCase[]
  /** Inputs that take the activation dtype: each case runs in f32 and again with these in bf16. */
  readonly act: readonly string[]
  /** Largest relative L2 distance of cpu from reference per dtype of the activations. */
  readonly tolerance: { readonly f32: number; readonly bf16: number }
}

/** grad: owes a gradient · index: i32, none · scalar: live or constant · state: read or written in place, no gradient · list: several states. "?" = may be absent. */
export type InputKind = "grad" | "grad?" | "index" | "index?" | "scalar" | "scalar?" | "state" | "state?" | "list"

/** An input of a case: index values lie in [from, below), floats are normal (their magnitude where positive) unless values are given. */
export interface CaseDescription {
  readonly shape: readonly number[]
  readonly from?: number
  readonly below?: number
  readonly positive?: boolean
  readonly dtype?: Dtype
  readonly values?: readonly number[]
}
/** A shape, the value of a scalar, or more where the values matter. */
export type CaseInput = readonly number[] | number | CaseDescription
export interface OpCase {
  readonly inputs: Readonly<Record<string, CaseInput | readonly CaseInput[] | undefined>>
  readonly attrs?: Attrs
  readonly about?: string
}

/** One application of an op. */
export interface Node {
  readonly op: Op
  inputs: Record<string, Operand>
  outputs: Record<string, Tensor | undefined>
  attrs: Attrs
  /** Outputs that add to a state instead of overwriting, with their factor. */
  accumulate: Record<string, Tensor>
}

export interface Program {
  readonly name: string
  readonly nodes: Node[]
  readonly inputs: Map<string, Tensor>
  readonly live: Map<string, Tensor>
  readonly states: Map<string, Tensor>
  readonly outputs: Map<string, Tensor>
  /** Node ranges [from, to) that backward recomputes instead of keeping (activation checkpointing). */
  readonly segments: { readonly from: number; readonly to: number }[]
}

/** All tensors of an operand record, lists flattened. */
export function tensorsOf(operands: Operands): Tensor[] {
  const found: Tensor[] = []
  for (const value of Object.values(operands)) {
    if (value === undefined) continue
    if (Array.isArray(value)) found.push(...(value as Tensor[]))
    else found.push(value as Tensor)
  }
  return found
}
