/** Nodes that are one on a GPU, dropouts with the norms that add them, and pairs that run side by side: the two gradients of a linear layer. */
import { type Node, type Plan, tensorsOf } from "./program.ts"
import { lastDim, type Tensor } from "./tensor.ts"

const ADDS = new Set(["add_layer_norm", "add_rms_norm"])
const GRADIENTS = new Set(["layer_norm_backward", "rms_norm_backward"])

/** Rows of other widths are not aligned to the packs of random numbers. */
const PACK = 8

/** Gradients of linear layers that read the same dy: each is told of the other, where nothing is added to and no other layer has the same input. */
function paired(nodes: readonly Node[]): readonly Node[] {
  const of = (name: string, input: string) =>
    Map.groupBy(
      nodes.filter(({ op }) => op.name === name),
      ({ inputs }) => (inputs[input] as Tensor).id,
    )
  const weights = of("linear_backward_weight", "dy")
  const inputs = of("linear_backward_input", "dy")
  const users = of("linear_backward_weight", "x")
  const made = new Map<Node, Node>()
  for (const [id, [weight, ...more]] of weights) {
    const [input, ...others] = inputs.get(id) ?? []
    if (weight === undefined || input === undefined || more.length + others.length > 0) continue
    const isAlone = users.get((weight.inputs.x as Tensor).id)?.length === 1
    if (!isAlone || weight.outputs.dw === undefined || Object.values(weight.accumulate).some((beta) => beta !== undefined)) continue
    const beside = { ...weight.inputs, ...input.inputs, ...weight.outputs, ...input.outputs }
    for (const node of [weight, input]) made.set(node, { ...node, attrs: { ...node.attrs, beside } })
  }
  return nodes.map((node) => made.get(node) ?? node)
}

/**
 * The nodes of a plan, dropouts that a norm does on the way left out. Such a dropout works in place, on what nobody else reads: so the memory of
 * its value is the norm's to read (or to write) at the norm's own turn.
 */
export function fused({ program, offsets }: Plan): readonly Node[] {
  const readers = new Map<number, number>()
  const makers = new Map<number, Node>()
  const count = (t: Tensor) => readers.set(t.id, (readers.get(t.id) ?? 0) + 1)
  for (const t of program.outputs.values()) count(t)
  for (const node of program.nodes) {
    tensorsOf(node.inputs).forEach(count)
    for (const t of tensorsOf(node.outputs)) makers.set(t.id, node)
  }
  const isInPlace = (x: Tensor, y: Tensor) => offsets.get(x.id) !== undefined && offsets.get(x.id) === offsets.get(y.id)
  const isAlone = ({ op, inputs, outputs }: Node): boolean => {
    const [x, y] = [inputs.x as Tensor, outputs.y]
    return op.name === "dropout" && y !== undefined && readers.get(x.id) === 1 && isInPlace(x, y) && lastDim(x) % PACK === 0
  }
  const droppedBy = ({ inputs: { seed, step, row }, attrs }: Node) => ({ ...attrs, seed, step, row })
  const gone = new Set<Node>()
  const made = new Map<Node, Node>()
  for (const node of program.nodes) {
    if (ADDS.has(node.op.name)) {
      const r = node.inputs.r as Tensor
      const dropout = makers.get(r.id)
      if (dropout === undefined || !isAlone(dropout) || readers.get(r.id) !== 1) continue
      gone.add(dropout)
      made.set(node, { ...node, inputs: { ...node.inputs, r: dropout.inputs.x }, attrs: { ...node.attrs, dropped: droppedBy(dropout) } })
    } else if (node.op.name === "dropout" && !gone.has(node) && isAlone(node)) {
      const maker = makers.get((node.inputs.x as Tensor).id)
      if (maker === undefined || !GRADIENTS.has(maker.op.name) || maker.outputs.dr?.id !== (node.inputs.x as Tensor).id) continue
      gone.add(node)
      made.set(maker, { ...maker, outputs: { ...maker.outputs, dr: node.outputs.y }, attrs: { ...maker.attrs, dropped: droppedBy(node) } })
    }
  }
  return paired(program.nodes.filter((node) => !gone.has(node)).map((node) => made.get(node) ?? node))
}
