/** Reverse walk: appends the backward nodes of a traced program and puts every parameter's gradient where it belongs. */
import { AlphaError } from "./base-error.ts"
import { add, assign } from "./op.ts"
import { type Node, type Operand, type Operands, tracer, writeTo } from "./program.ts"
import { type Tensor, tensor } from "./tensor.ts"

/** Where the gradient of a leaf goes: an f32 state and the factor of what it already holds (a live scalar or constant). */
export interface GradientTarget {
  readonly into: Tensor
  readonly beta: Tensor
  /** Where contributions gather that are added to `into` as one: the sum of two programs' gradients, whatever each of them is made of. */
  readonly whole?: Tensor
}

/**
 * Appends backward nodes for `loss` (a scalar, gradient 1) to the program being traced.
 * Every leaf's gradient is written to its target: the first contribution as beta·target + g, later ones added; or beta·target + their sum.
 * Throws if a leaf does not influence the loss.
 */
export function gradients(loss: Tensor, leaves: ReadonlyMap<Tensor, GradientTarget>): void {
  const t = tracer()
  const { program } = t
  const [one, zero] = [t.constant(1), t.constant(0)]
  const found = new Map<number, Tensor>([[loss.id, one]])
  const targets = new Map([...leaves].map(([leaf, target]) => [leaf.id, target]))
  const written = new Set<number>()
  const forward = program.nodes.slice()
  const segmentEnd = new Map(program.segments.map((s) => [s.to - 1, s]))

  const contribute = (to: Tensor, g: Tensor) => {
    const target = targets.get(to.id)
    if (target !== undefined) {
      const { into, beta, whole } = target
      retarget(g, whole ?? into, written.has(into.id) ? one : whole === undefined ? beta : zero)
      written.add(into.id)
      return
    }
    const known = found.get(to.id)
    found.set(to.id, known === undefined ? g : add({ a: known, b: g }).y)
  }

  let replaced = new Map<number, Tensor>()
  for (let i = forward.length - 1; i >= 0; i--) {
    const segment = segmentEnd.get(i)
    if (segment !== undefined) replaced = recompute(forward.slice(segment.from, segment.to))
    const node = forward[i] as Node
    const grads = Object.fromEntries(Object.entries(node.outputs).map(([name, out]) => [name, out && found.get(out.id)]))
    if (node.op.backward === undefined || Object.values(grads).every((g) => g === undefined)) continue
    const owed = node.op.backward(substitute(node.inputs, replaced), substitute(node.outputs, replaced), grads, node.attrs)
    for (const [name, g] of Object.entries(owed)) {
      const to = node.inputs[name] as Tensor | undefined
      if (g !== undefined && to !== undefined) contribute(to, g)
    }
  }
  for (const [leaf, { into, beta, whole }] of leaves) {
    if (!written.has(into.id)) throw new AlphaError(`${program.name}: ${leaf.name} does not influence the loss, so it has no gradient`)
    if (whole !== undefined) writeTo(assign({ x: whole }).y, into, beta)
  }
}

/** Sends a gradient to its target; through a node of its own where the producing op cannot add. */
function retarget(g: Tensor, into: Tensor, beta: Tensor): void {
  if (g.role === "constant" || !writeTo(g, into, beta)) writeTo(assign({ x: g }).y, into, beta)
}

/** Appends copies of `nodes`; returns original id → recomputed tensor. What backward does not read is dropped by the planner. */
function recompute(nodes: readonly Node[]): Map<number, Tensor> {
  const { program } = tracer()
  const copies = new Map<number, Tensor>()
  for (const node of nodes) {
    const inputs = substitute(node.inputs, copies)
    const outputs: Record<string, Tensor | undefined> = {}
    for (const [name, out] of Object.entries(node.outputs)) {
      if (out === undefined) continue
      const copy = tensor(out.name, out.shape, out.dtype, "temp")
      copies.set(out.id, copy)
      outputs[name] = copy
    }
    program.nodes.push({ op: node.op, inputs, outputs, attrs: node.attrs, accumulate: {} })
  }
  return copies
}

/** The operands with every replaced tensor exchanged. */
function substitute(operands: Operands, replaced: ReadonlyMap<number, Tensor>): Record<string, Operand> {
  const one = (x: Tensor): Tensor => replaced.get(x.id) ?? x
  return Object.fromEntries(
    Object.entries(operands).map(([name, value]) => [name, value === undefined ? value : "id" in value ? one(value) : value.map(one)]),
  )
}
