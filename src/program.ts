/** Trace: running model code once records a program, a flat list of op applications on symbolic tensors. */
import { AlphaError } from "./base-error.ts"
import type { NativeCall } from "./native.ts"
import { type Dtype, elements, type Tensor, type TensorType, tensor } from "./tensor.ts"

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

/** What model code is given to declare inputs, live scalars, state and outputs. */
export interface Tracer {
  readonly program: Program
  input(name: string, dtype: Dtype, shape: readonly number[]): Tensor
  live(name: string, dtype?: Dtype): Tensor
  constant(value: number, dtype?: Dtype): Tensor
  state(name: string, dtype: Dtype, shape: readonly number[]): Tensor
  output(name: string, value: Tensor): void
  /** Runs `body`; in backward its temporaries are computed again instead of kept. */
  recompute<T>(body: () => T): T
}

let current: Tracer | undefined

/** The tracer that op applications append to. Throws outside `trace`. */
export function tracer(): Tracer {
  if (current === undefined) throw new AlphaError("an op was applied outside trace()", { hint: "call model code inside trace(name, t => …)" })
  return current
}

/** Records `body` as a program. */
export function trace(name: string, body: (t: Tracer) => void): Program {
  const program: Program = { name, nodes: [], inputs: new Map(), live: new Map(), states: new Map(), outputs: new Map(), segments: [] }
  const declare = (map: Map<string, Tensor>, key: string, make: () => Tensor): Tensor => {
    const known = map.get(key)
    if (known !== undefined) return known
    const made = make()
    map.set(key, made)
    return made
  }
  const outer = current
  current = {
    program,
    input: (key, dtype, shape) => declare(program.inputs, key, () => tensor(key, shape, dtype, "input")),
    live: (key, dtype = "f32") => declare(program.live, key, () => tensor(key, [], dtype, "live")),
    constant: (value, dtype = "f32") => tensor(String(value), [], dtype, "constant", value),
    state: (key, dtype, shape) => declare(program.states, key, () => tensor(key, shape, dtype, "state")),
    output: (key, value) => void program.outputs.set(key, value),
    recompute(run) {
      const from = program.nodes.length
      const result = run()
      program.segments.push({ from, to: program.nodes.length })
      return result
    },
  }
  try {
    body(current)
  } finally {
    current = outer
  }
  return program
}

/** Appends an application of `op` to the program being traced; its outputs are new temporaries. */
export function apply(op: Op, inputs: Operands, attrs: Attrs): Record<string, Tensor> {
  const types = op.shape(inputs, attrs)
  const outputs: Record<string, Tensor> = {}
  for (const name of op.outputs) {
    const type = types[name]
    if (type === undefined) continue // this output does not exist for these inputs (no bias, no statistics)
    if (elements(type) === 0) throw new AlphaError(`${op.name}: output ${name} would be empty`)
    outputs[name] = tensor(`${op.name}.${name}`, type.shape, type.dtype, "temp")
  }
  tracer().program.nodes.push({ op, inputs: { ...inputs }, outputs: { ...outputs }, attrs, accumulate: {} })
  return outputs
}

/**
 * Makes the node that produced temporary `value` write into the state `into` instead: overwriting, or as beta·into + value.
 * Returns false when the node cannot add.
 */
export function writeTo(value: Tensor, into: Tensor, beta?: Tensor): boolean {
  const node = tracer().program.nodes.findLast((n) => Object.values(n.outputs).some((out) => out?.id === value.id))
  const name = Object.entries(node?.outputs ?? {}).find(([, out]) => out?.id === value.id)?.[0]
  if (node === undefined || name === undefined) throw new AlphaError(`${value.name} is not computed by this program`)
  if (beta !== undefined && !node.op.accumulates.includes(name)) return false
  node.outputs[name] = into
  if (beta !== undefined) node.accumulate[name] = beta
  return true
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

export type { Device, Executable, Plan, RunInputs, RunOutputs, State } from "./program-device.ts"
export { plan } from "./program-plan.ts"
