/** When launches run: the first level at which all that they wait for is done, or a later one where they are less in the way. */
import { type GpuTarget, type Launch, type Memory, type Node, type Scratch, tensorsOf } from "./program.ts"
import { byteLength, type Tensor } from "./tensor.ts"

export interface ScheduledLaunch {
  readonly node: Node
  readonly launch: Launch
}

/** A launch, and its step among those of its node: launches of one step are told to be independent. */
export interface Placed {
  readonly scheduled: ScheduledLaunch
  readonly step: number
}

/** A piece of memory that a launch touches: of the arena's temporaries, or something of its own (a tensor by number, scratch). */
interface Span {
  readonly space: number | Scratch
  readonly from: number
  readonly to: number
  readonly isWritten: boolean
}
type Access = Span & { readonly launch: number }

const ARENA = -1

/** What a launch reads or writes. */
export function spansOf({ node, launch }: ScheduledLaunch, offsets: ReadonlyMap<number, number>): Span[] {
  const spans: Span[] = []
  const written = writtenBy(node)
  const add = (memory: Memory, isWritten: boolean): void => {
    if (!("kind" in memory)) {
      const offset = offsets.get(memory.id)
      spans.push(
        offset === undefined
          ? { space: memory.id, from: 0, to: 1, isWritten }
          : { space: ARENA, from: offset, to: offset + byteLength(memory), isWritten },
      )
    } else if (memory.kind === "part") add(memory.of, isWritten)
    else if (memory.kind === "scratch") spans.push({ space: memory, from: 0, to: 1, isWritten })
    else for (const value of memory.values) if (typeof value === "object") add(value, "kind" in value || written.has(value.id))
  }
  for (const [name, { access }] of Object.entries(launch.kernel.buffers)) {
    const memory = launch.buffers[name]
    if (memory !== undefined) add(memory, access !== "read")
  }
  return spans
}

/** Tensors that a node changes; only of these can what a table points at be written. */
export function writtenBy({ op, inputs, outputs }: Node): Set<number> {
  const named = op.writes.flatMap((name) => tensorsOf({ value: inputs[name] }))
  return new Set([...tensorsOf(outputs), ...named].map((t: Tensor) => t.id))
}

/** For each launch those before it with which it has a hazard, directly or by way of another. */
function waits(launches: readonly Placed[], offsets: ReadonlyMap<number, number>): number[][] {
  const touched = new Map<Span["space"], Access[]>()
  const all: number[][] = []
  for (let from = 0; from < launches.length; from = all.length) {
    const { node } = (launches[from] as Placed).scheduled
    const { step } = launches[from] as Placed
    const isBeside = (one: Placed | undefined) => one?.scheduled.node === node && one.step === step
    const accesses: Access[] = []
    for (let i = from; isBeside(launches[i]); i++) {
      const spans = spansOf((launches[i] as Placed).scheduled, offsets)
      const met = new Set<number>()
      for (const { space, from, to, isWritten } of spans)
        for (const other of touched.get(space) ?? [])
          if (other.from < to && from < other.to && (other.isWritten || isWritten)) met.add(other.launch)
      all.push([...met])
      for (const span of spans) accesses.push({ ...span, launch: i })
    }
    // Whoever meets later what a launch overwrites meets that launch too.
    for (const { space, from, to, isWritten } of accesses) {
      const known = touched.get(space)
      if (isWritten && known !== undefined)
        touched.set(
          space,
          known.filter((other) => other.from < from || other.to > to),
        )
    }
    for (const access of accesses) {
      const known = touched.get(access.space)
      if (known === undefined) touched.set(access.space, [access])
      else known.push(access)
    }
  }
  return all
}

const isPtx = ({ launch }: ScheduledLaunch): boolean => "text" in launch.kernel
const groupsOf = ({ launch }: ScheduledLaunch): number => launch.groups.reduce((product, groups) => product * groups, 1)

/**
 * A level for each launch: launches of one level have no hazard between them, and everything waits for the level before. As few levels as the
 * hazards allow. Kernels in PTX fill the device to their end, so what has time keeps away from them: a launch too small to fill the device waits
 * for the next level without any, and a large one that waits for nothing runs at the last such level before it is needed, so that its scratch
 * memory does not lie there from the start.
 */
export function levelsOf(launches: readonly Placed[], offsets: ReadonlyMap<number, number>, { units }: GpuTarget): number[] {
  const before = waits(launches, offsets)
  const ready = (levels: readonly number[], i: number): number =>
    Math.max(0, ...(before[i] as number[]).map((j) => (levels[j] as number) + 1))
  const soonest: number[] = []
  for (const i of launches.keys()) soonest.push(ready(soonest, i))
  const last = Math.max(0, ...soonest)
  const latest = soonest.map(() => last)
  for (let i = launches.length - 1; i >= 0; i--)
    for (const j of before[i] as number[]) latest[j] = Math.min(latest[j] as number, (latest[i] as number) - 1)
  const full = new Set(launches.flatMap(({ scheduled }, i) => (isPtx(scheduled) ? [soonest[i] as number] : [])))
  const levels: number[] = []
  launches.forEach(({ scheduled }, i) => {
    const [first, end] = [ready(levels, i), latest[i] as number]
    const free = Array.from({ length: end - first + 1 }, (_, j) => first + j).filter((level) => !full.has(level))
    if (isPtx(scheduled)) levels.push(first)
    else if (groupsOf(scheduled) < units) levels.push(free[0] ?? first)
    else levels.push((before[i] as number[]).length > 0 ? first : (free.at(-1) ?? end))
  })
  return levels
}

/** The launches of a level in the order in which the device is given them: what fills it, then what is small, then the rest. */
export function inOrder(step: readonly ScheduledLaunch[], { units }: GpuTarget): ScheduledLaunch[] {
  const rank = (one: ScheduledLaunch) => (isPtx(one) ? 0 : groupsOf(one) < units ? 1 : 2)
  return step.toSorted((a, b) => rank(a) - rank(b))
}
