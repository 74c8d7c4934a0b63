/** Trace: running model code once records a program, a flat list of op applications on symbolic tensors. */
import { AlphaError } from "./base-error.ts"
import type { Attrs, Op, Operands, Program } from "./program-op.ts"
import { type Dtype, elements, type Tensor, tensor } from "./tensor.ts"

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
  if (current === undefined)
    throw new AlphaError("an op was applied outside trace()", { hint: "call model code inside trace(name, t => …)" })
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
  if (beta !== undefined && !(beta.role === "constant" && beta.value === 0)) node.accumulate[name] = beta
  return true
}

export type { Device, Executable, Plan, ProfileRow, RunInputs, RunOutputs, SharedState, State, Stretch, Watch } from "./program-device.ts"
export type { GpuTarget, Launch, Launches, Memory, Part, Scratch, Table } from "./program-gpu.ts"
export {
  type Attrs,
  type Beta,
  type CaseDescription,
  type CaseInput,
  type InputKind,
  type Node,
  type Op,
  type OpCase,
  type Operand,
  type Operands,
  type Program,
  tensorsOf,
  type View,
  type Views,
} from "./program-op.ts"
export { ARENA_SLAB, type Block, place, plan } from "./program-plan.ts"
