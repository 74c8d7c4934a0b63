/** Turns a plan into steps of launches: what runs side by side, what waits, where scratch memory lies. */
import { AlphaError, EXIT } from "./base-error.ts"
import { fused } from "./gpu-fuse.ts"
import { inOrder, levelsOf, type Placed, type ScheduledLaunch, writtenBy } from "./gpu-order.ts"
import { stacked } from "./gpu-stack.ts"
import {
  ARENA_SLAB,
  type Block,
  type GpuTarget,
  type Launch,
  type Node,
  type Plan,
  type Program,
  place,
  type Scratch,
  type Table,
  tensorsOf,
} from "./program.ts"
import { byteLength, DTYPE_BYTES } from "./tensor.ts"

export interface Schedule {
  /** Steps in order; launches of one step have no hazard between them. */
  readonly steps: readonly (readonly ScheduledLaunch[])[]
  /** Where scratch lies in the arena: behind the plan's temporaries, over scratch of other steps. */
  readonly scratch: ReadonlyMap<Scratch, number>
  /** Bytes of the arena with scratch. */
  readonly arenaBytes: number
}

const ALIGN = 256
const scratchBytes = ({ dtype, elements }: Scratch): number => {
  const size = dtype === "u32" ? 4 : DTYPE_BYTES[dtype]
  return Math.ceil((elements * size) / ALIGN) * ALIGN
}

/** Scratch that a launch names: in its buffers, parts of them, tables of addresses. */
function scratchOf({ buffers }: Launch): Scratch[] {
  const within = (memory: Table["values"][number]): readonly Scratch[] => {
    if (typeof memory !== "object" || !("kind" in memory)) return []
    if (memory.kind === "table") return memory.values.flatMap(within)
    return memory.kind === "part" ? within(memory.of) : [memory as Scratch]
  }
  return Object.values(buffers).flatMap(within)
}

/** Throws AlphaError where `bytes` are more than a device allocates at once. */
function checkSize(bytes: number, what: string): void {
  if (bytes <= ARENA_SLAB) return
  throw new AlphaError(`${what} takes ${(bytes / 2 ** 30).toFixed(1)} GiB, a GPU allocates at most 4 GiB at once`, {
    hint: "lower --batch; --accumSteps keeps the tokens per step",
    code: EXIT.device,
  })
}

/** Asks every op for its launches, in the program's order. Throws AlphaError when one has none for a GPU. */
function launchesOf(nodes: readonly Node[], target: GpuTarget): Placed[] {
  const launches: Placed[] = []
  for (const node of nodes) {
    const { op } = node
    for (const t of tensorsOf(node.outputs)) checkSize(byteLength(t), t.name)
    if (op.gpu === undefined) throw new AlphaError(`${op.name} has no GPU kernels`, { hint: "use --device=cpu" })
    op.gpu(node.inputs, node.outputs, node.attrs, (output) => node.accumulate[output], target).forEach((given, step) => {
      for (const launch of "kernel" in given ? [given] : given) launches.push({ scheduled: { node, launch }, step })
    })
  }
  return launches
}

/** Places the scratch of all launches behind `start`: each is alive from the first to the last level that names it. */
function placeScratch(launches: readonly Placed[], levels: readonly number[], start: number) {
  const blocks = new Map<Scratch, Block>()
  launches.forEach(({ scheduled: { node, launch } }, i) => {
    const level = levels[i] as number
    for (const memory of scratchOf(launch)) {
      const known = blocks.get(memory)
      const bytes = scratchBytes(memory)
      checkSize(bytes, `scratch memory of ${node.op.name}`)
      if (known === undefined) blocks.set(memory, { bytes, from: level, to: level, offset: 0 })
      else [known.from, known.to] = [Math.min(known.from, level), Math.max(known.to, level)]
    }
  })
  const arenaBytes = place([...blocks.values()], start)
  return { arenaBytes, scratch: new Map([...blocks].map(([memory, { offset }]) => [memory, offset])) }
}

/** The launches of a plan, in as few steps as their hazards allow. */
export function schedule(plan: Plan, target: GpuTarget): Schedule {
  const nodes = fused(plan)
  const launches = launchesOf(nodes, target)
  const levels = levelsOf(launches, plan.offsets, target)
  const steps: ScheduledLaunch[][] = []
  launches.forEach(({ scheduled }, i) => {
    const at = levels[i] as number
    steps[at] = [...(steps[at] ?? []), scheduled]
  })
  const ordered = steps.map((step) => inOrder(step, target))
  const isForward = nodes.every(({ op }) => op.accumulates.length === 0)
  return {
    steps: isForward ? stacked(ordered, target) : ordered,
    ...placeScratch(launches, levels, Math.ceil(plan.arenaBytes / ALIGN) * ALIGN),
  }
}

/** For each group of states how many steps there are until nothing writes to it or to a group before it any more. */
export function finalSteps({ states }: Program, { steps }: Schedule, groups: readonly (readonly string[])[]): number[] {
  const ids = groups.map((names) => new Set(names.map((name) => states.get(name)?.id)))
  const groupsOf = (node: Node) => ids.flatMap((own, g) => ([...writtenBy(node)].some((id) => own.has(id)) ? [g] : []))
  const finals = groups.map(() => 0)
  steps.forEach((step, i) => {
    for (const { node } of step) for (const g of groupsOf(node)) finals[g] = i + 1
  })
  return finals.map((_, g) => Math.max(...finals.slice(0, g + 1)))
}

export type { ScheduledLaunch } from "./gpu-order.ts"
