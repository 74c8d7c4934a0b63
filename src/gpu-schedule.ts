/** Turns a plan into steps of launches: what runs side by side, what waits, where scratch memory lies. */
import { AlphaError, EXIT } from "./base-error.ts"
import { chained } from "./gpu-chain.ts"
import { stacked } from "./gpu-stack.ts"
import {
  ARENA_SLAB,
  type GpuTarget,
  type Launch,
  type Node,
  type Plan,
  type Scratch,
  type Table,
  tensorsOf,
  withinSlab,
} from "./program.ts"
import { byteLength, DTYPE_BYTES } from "./tensor.ts"

export interface ScheduledLaunch {
  readonly node: Node
  readonly launch: Launch
}

export interface Schedule {
  /** Steps in order; launches of one step have no hazard between them. */
  readonly steps: readonly (readonly ScheduledLaunch[])[]
  /** Where scratch lies in the arena: behind the plan's temporaries, one level's over another's. */
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

/** Asks every op for its launches. Throws AlphaError when one has none for a GPU. */
export function schedule(plan: Plan, target: GpuTarget): Schedule {
  const { nodes } = plan.program
  const depth = Math.max(-1, ...plan.levels) + 1
  const levels = Array.from({ length: depth }, (_, level) => nodes.filter((_, i) => plan.levels[i] === level))
  const steps: ScheduledLaunch[][] = []
  const scratch = new Map<Scratch, number>()
  const start = Math.ceil(plan.arenaBytes / ALIGN) * ALIGN
  let arenaBytes = start
  for (const level of levels) {
    const first = steps.length
    let next = start
    for (const node of level) {
      const { op } = node
      for (const t of tensorsOf(node.outputs)) checkSize(byteLength(t), t.name)
      if (op.gpu === undefined) throw new AlphaError(`${op.name} has no GPU kernels`, { hint: "use --device=cpu" })
      op.gpu(node.inputs, node.outputs, node.attrs, (output) => node.accumulate[output], target).forEach((step, i) => {
        const launches = "kernel" in step ? [step] : step
        const at = first + i
        steps[at] = [...(steps[at] ?? []), ...launches.map((launch) => ({ node, launch }))]
        for (const memory of launches.flatMap(scratchOf)) {
          if (scratch.has(memory)) continue
          checkSize(scratchBytes(memory), `scratch memory of ${op.name}`)
          const offset = withinSlab(next, scratchBytes(memory))
          scratch.set(memory, offset)
          next = offset + scratchBytes(memory)
        }
      })
    }
    arenaBytes = Math.max(arenaBytes, next)
  }
  const isForward = nodes.every(({ op }) => op.accumulates.length === 0)
  return { steps: isForward ? chained(stacked(steps, target), target) : steps, scratch, arenaBytes }
}
