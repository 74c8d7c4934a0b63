/** A token's way through a model of the GPT-2 family becomes one launch in PTX, for up to 64 sequences: embeddings, equal layers, head and choice. */
import { type DecodeStack, LAYER } from "../shaders/ptx-decode.ts"
import { stackKernel, stackOf } from "../shaders/ptx-stack.ts"
import type { GpuTarget, Launch, Memory, Node, Table } from "./program.ts"
import { lastDim, rows, type Tensor } from "./tensor.ts"

/** Launches that run side by side, with the nodes they belong to. */
type Step = readonly { readonly node: Node; readonly launch: Launch }[]

/** Inputs of sampling beside the logits. */
const SETTINGS = ["temperature", "topK", "topP", "minP", "seed", "draw"] as const
/** Nodes of a layer behind its first norm. */
const KINDS = ["linear", "attention_cached", "linear", "add_layer_norm", "linear", "linear", "add_layer_norm"] as const
const input = ({ inputs }: Node, name: string): Tensor | undefined => inputs[name] as Tensor | undefined
const nodeOf = (step: Step | undefined): Node | undefined => (step?.length === 1 ? step[0]!.node : undefined)

/** `steps` with the stack of layers as one, where the device takes it and the sizes fit. */
export function stacked(steps: readonly Step[], target: GpuTarget): readonly Step[] {
  if (target.stacks !== true) return steps
  const from = steps.findIndex((_, i) => nodeOf(steps[i])?.op.name === "layer_norm" && layerAt(steps, i + 1) !== undefined)
  if (from < 0) return steps
  const layers: Node[][] = []
  for (let layer = layerAt(steps, from + 1); layer !== undefined; layer = layerAt(steps, from + 1 + KINDS.length * layers.length))
    layers.push(layer)
  const to = from + 1 + KINDS.length * layers.length
  const first = nodeOf(steps[from])!
  const last = layers.at(-1)!.at(-1) as Node
  const head = isHead(nodeOf(steps[to]), last) ? nodeOf(steps[to]) : undefined
  const embedding = isEmbedding(nodeOf(steps[from - 1]), first) ? nodeOf(steps[from - 1]) : undefined
  const choice = head && choiceOf(steps.slice(to + 1).flat(), head)
  // with as much before and behind the layers as nobody else reads
  const behind = [{ head, choice }, { head }]
  const ends: readonly Around[] = [...behind.map((one) => ({ embedding, ...one })), ...behind, { embedding }, {}]
  for (const around of ends) {
    const launch = launchOf(first, layers, around, target)
    const { choice } = around
    const nodes = [around.embedding, first, ...layers.flat(), around.head].filter((node) => node !== undefined)
    const before = steps.slice(0, around.embedding === undefined ? from : from - 1)
    const after = steps
      .slice(around.head === undefined ? to : to + 1)
      .map((step) => step.filter(({ node }) => node !== choice?.sample && node !== choice?.logprobs))
      .filter((step) => step.length > 0)
    if (launch !== undefined && isAlone([...before, ...after], nodes)) return [...before, [{ node: first, launch }], ...after]
  }
  return steps
}

/** The nodes that choose tokens of the logits and tell ln of their probabilities. */
interface Choice {
  readonly sample: Node
  readonly logprobs: Node
}

/** What belongs to the launch beside the layers. */
interface Around {
  readonly embedding?: Node | undefined
  readonly head?: Node | undefined
  readonly choice?: Choice | undefined
}

/** Whether the layers begin with embeddings of tokens at given positions. */
function isEmbedding(node: Node | undefined, first: Node): boolean {
  if (node?.op.name !== "embedding" || node.outputs.y !== input(first, "x")) return false
  return input(node, "positions") !== undefined && input(node, "wpe") !== undefined && input(node, "wte")?.dtype === "bf16"
}

/** The nodes of a layer from a step on, one a step, each with what the one before gives. */
function layerAt(steps: readonly Step[], from: number): Node[] | undefined {
  const nodes = KINDS.map((_, i) => nodeOf(steps[from + i]))
  const isLayer = nodes.every((node, i) => {
    if (node?.op.name !== KINDS[i]) return false
    if (KINDS[i] === "linear" && (node!.attrs as { order?: string }).order === undefined) return false // evaluation's bits are asked for
    const given = input(node!, KINDS[i] === "attention_cached" ? "qkv" : KINDS[i] === "add_layer_norm" ? "r" : "x")
    return given !== undefined && given === nodeOf(steps[from + i - 1])?.outputs.y
  })
  return isLayer ? (nodes as Node[]) : undefined
}

/** Whether the logits are made of what the layers give and nothing else. */
function isHead(node: Node | undefined, last: Node): boolean {
  if (node?.op.name !== "linear" || (node.attrs as { order?: string }).order === undefined) return false
  const isPlain = node.attrs.activation === "none" && input(node, "b") === undefined && node.outputs.y?.dtype === "f32"
  return isPlain && input(node, "x") === last.outputs.y && input(node, "w")?.dtype === "bf16"
}

/** Who chooses of the head's logits as they are, and tells nothing but the tokens and ln of their probabilities. */
function choiceOf(steps: Step, head: Node): Choice | undefined {
  const of = (name: string) => steps.find(({ node }) => node.op.name === name && input(node, "logits") === head.outputs.y)?.node
  const [sample, logprobs] = [of("sample"), of("logprobs")]
  if (sample === undefined || logprobs === undefined || input(logprobs, "targets") !== sample.outputs.token) return undefined
  const { logprob, topIds, topLogprobs } = logprobs.outputs
  return logprob !== undefined && topIds === undefined && topLogprobs === undefined ? { sample, logprobs } : undefined
}

/** Whether nobody else reads what the stack keeps to itself. */
function isAlone(others: readonly Step[], nodes: readonly Node[]): boolean {
  const own = new Set(nodes.flatMap(({ outputs }) => Object.values(outputs)).filter((t) => t !== nodes.at(-1)!.outputs.y))
  return others.flat().every(({ node }) => Object.values(node.inputs).every((t) => !own.has(t as Tensor)))
}

function launchOf(first: Node, layers: readonly Node[][], around: Around, { units }: GpuTarget): Launch | undefined {
  const { embedding, head, choice } = around
  const stack = sizesOf(first, layers, around, units)
  const found = stack && stackKernel(stack)
  if (stack === undefined || found === undefined) return undefined
  const attention = layers[0]![1]!
  const addresses = layers.flatMap(([qkv, cached, proj, mlpNorm, up, down], i) => {
    const norm = i === 0 ? first : (layers[i - 1]!.at(-1) as Node)
    const of = (node: Node | undefined) => [input(node as Node, "w"), input(node as Node, "b")]
    const row = [
      ...of(norm),
      ...of(qkv),
      ...["kPages", "vPages"].map((pages) => input(cached as Node, pages)),
      ...of(proj),
      ...of(mlpNorm),
      ...of(up),
      ...of(down),
    ]
    if (row.length !== LAYER.length) throw new TypeError("stack: addresses of a layer")
    return row
  })
  const last = layers.at(-1)!.at(-1) as Node
  const of = (node: Node | undefined, name: string) => node && input(node, name)
  const behind = [of(last, "w"), of(last, "b"), of(head, "w"), of(embedding, "wte"), of(embedding, "wpe")]
  const table: Table = { kind: "table", dtype: "u64", values: [...addresses, ...behind] }
  const zeros = (count: number): Table => ({ kind: "table", dtype: "u32", values: Array.from({ length: count }, () => 0) })
  const chosen = choice && { token: choice.sample.outputs.token as Tensor, logprob: choice.logprobs.outputs.logprob as Tensor }
  const told = chosen && { toldToken: chosen.token, toldLogprob: chosen.logprob }
  const buffers: Record<string, Memory | undefined> = {
    ...{ table, sync: zeros(2), work: zeros(found.workBytes / 4) },
    ...{ pages: input(attention, "pages"), lengths: input(attention, "lengths"), counts: input(attention, "counts") },
    ...{ tokens: of(embedding, "tokens"), positions: of(embedding, "positions") },
    ...{
      x: embedding === undefined ? input(first, "x") : undefined,
      y: head === undefined ? last.outputs.y : undefined,
      logits: head?.outputs.y,
    },
    ...Object.fromEntries(SETTINGS.map((name) => [name, of(choice?.sample, name)])),
    ...chosen,
  }
  const { kernel } = found
  return { kernel, variant: kernel.name, buffers, ...(told && { told }), push: {}, params: {}, constants: {}, groups: [units, 1, 1] }
}

/** Ids below this may be chosen. */
const allowedOf = (sample: Node): number =>
  Math.min(lastDim(input(sample, "logits")!), (sample.attrs.vocabulary as number | undefined) ?? Infinity)

/** Sizes of the stack; undefined where its layers differ or are of another kind. */
function sizesOf(first: Node, layers: readonly Node[][], { embedding, head, choice }: Around, units: number): DecodeStack | undefined {
  const x = input(first, "x")
  const all = layers.map(([qkv, cached, proj, mlpNorm, up, down, norm]): DecodeStack | undefined => {
    const { attrs } = cached as Node
    const [R, C, F] = [rows(x!), lastDim(x!), (input(up!, "w") as Tensor).shape[0] as number]
    const hasBias = input(qkv!, "b") !== undefined
    const isRegular =
      attrs.T === 1 &&
      attrs.headDim === 64 &&
      attrs.pageSize === 64 &&
      attrs.nHead === attrs.nKvHead &&
      (attrs.nHead as number) * 64 === C &&
      [qkv, proj, up, down].every((node) => (input(node!, "b") !== undefined) === hasBias && input(node!, "w")!.dtype === "bf16") &&
      [first, mlpNorm, norm].every((node) => (input(node!, "b") !== undefined) === hasBias && node!.attrs.eps === first.attrs.eps) &&
      [qkv, proj, down].every((node) => node!.attrs.activation === "none") &&
      [first, qkv, cached, proj, mlpNorm, up, down, norm].every((node) => node!.outputs.y?.dtype === "bf16") &&
      x!.dtype === "f32"
    if (!isRegular) return undefined
    return stackOf({
      ...{ rows: R, C, F, layers: layers.length, hasBias, blocks: units, maxPages: lastDim(input(cached!, "pages")!) },
      classes: head === undefined ? 0 : lastDim(head.outputs.y!),
      ...(choice === undefined ? {} : { allowed: allowedOf(choice.sample) }),
      ...(embedding === undefined ? {} : { embeds: true }),
      activation: up!.attrs.activation as DecodeStack["activation"],
      scale: attrs.scale as number,
      eps: first.attrs.eps as number,
    })
  })
  const [one] = all
  const isSame = all.every((other) => JSON.stringify(other) === JSON.stringify(one))
  return isSame ? one : undefined
}
