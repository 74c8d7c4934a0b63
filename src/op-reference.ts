/** Runs a program in f64 with the ops' plain loops: the oracle of every test, never the product path. */
import { type Node, type Program, tensorsOf, type View } from "./program.ts"
import { elements, type Tensor } from "./tensor.ts"

export type Values = Map<string, Float64Array | Int32Array>

/** Zeroed values for a tensor: f64 for floats, i32 for indices. */
export const zeros = (t: Tensor): View => ({
  shape: t.shape,
  data: t.dtype === "i32" ? new Int32Array(elements(t)) : new Float64Array(elements(t)),
})

/**
 * Runs `program` once. `state` is read and changed in place (missing entries start at zero); `inputs` holds inputs and live scalars by name.
 * Returns the outputs by name.
 */
export function runReference(program: Program, state: Values, inputs: Readonly<Record<string, number | ArrayLike<number>>>): Values {
  const views = new Map<number, View>()
  const view = (t: Tensor): View => {
    const known = views.get(t.id)
    if (known !== undefined) return known
    const made = zeros(t)
    if (t.role === "constant") made.data[0] = t.value ?? 0
    if (t.role === "state") {
      const kept = state.get(t.name) ?? made.data
      state.set(t.name, kept)
      views.set(t.id, { shape: t.shape, data: kept })
      return views.get(t.id) as View
    }
    views.set(t.id, made)
    return made
  }
  for (const [name, t] of [...program.inputs, ...program.live]) {
    const value = inputs[name]
    if (value === undefined) throw new TypeError(`${program.name}: input ${name} is missing`)
    if (typeof value === "number") view(t).data[0] = value
    else view(t).data.set(value)
  }
  for (const node of program.nodes) runNode(node, view)
  return new Map([...program.outputs].map(([name, t]) => [name, view(t).data]))
}

function runNode(node: Node, view: (t: Tensor) => View): void {
  const map = (operands: Readonly<Record<string, Tensor | readonly Tensor[] | undefined>>) =>
    Object.fromEntries(
      Object.entries(operands).map(([name, value]) => [
        name,
        value === undefined ? undefined : Array.isArray(value) ? value.map(view) : view(value as Tensor),
      ]),
    )
  for (const t of tensorsOf(node.outputs)) view(t)
  node.op.reference(map(node.inputs), map(node.outputs), node.attrs, (output) => {
    const beta = node.accumulate[output]
    return beta === undefined ? undefined : view(beta).data[0]
  })
}
