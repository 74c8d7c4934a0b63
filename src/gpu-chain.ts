/** Runs of small launches that wait for each other become one launch: workgroups that stay, and a barrier of all of them between steps. */
import { sha256 } from "./base-file.ts"
import type { GpuTarget, Launch, Memory, Node, Table } from "./program.ts"
import { type ChainPart, chain, chainRow, chainSharedBytes, type Kernel } from "./spirv.ts"
import type { Tensor } from "./tensor.ts"

/** Launches that run side by side, with the nodes they belong to. */
type Step = readonly { readonly node: Node; readonly launch: Launch }[]

/** Lanes of every part. */
const LANES = 256
/** A launch of more workgroups for each that stays keeps the device busy on its own. */
const MOST_TURNS = 8
/** Fewer steps are not worth a kernel of their own. */
const LEAST_STEPS = 2
/** Each is an address of 8 bytes among the push constants. */
const MOST_INPUTS = 12
/** Kinds of steps in one kernel: each is compiled. */
const MOST_PARTS = 24

/** `steps` with their chains; without any where nothing is known of workgroups that run at the same time. */
export function chained(steps: readonly Step[], target: GpuTarget): readonly Step[] {
  if (target.resident === 0) return steps
  const out: Step[] = []
  let run: Step[] = []
  const close = () => {
    if (run.length < LEAST_STEPS) out.push(...run)
    else out.push([{ node: run[0]![0]!.node, launch: chainOf(run, target) }])
    run = []
  }
  for (const step of steps) {
    if (!step.every(({ launch }) => fits(launch, target))) {
      close()
      out.push(step)
      continue
    }
    if (!isOneChain([...run, step], target)) close()
    run.push(step)
  }
  close()
  return out
}

/** Whether a launch can be a part: small, its numbers known. */
function fits({ kernel, params, groups: [x, y, z] }: Launch, { resident }: GpuTarget): boolean {
  return (
    "workgroup" in kernel &&
    kernel.workgroup === LANES &&
    x * y * z <= MOST_TURNS * resident &&
    Object.values(params).every((value) => typeof value === "number" || value.role === "constant")
  )
}

const inputOf = (memory: Memory | undefined): Tensor | undefined =>
  memory !== undefined && !("kind" in memory) && memory.role === "input" ? memory : undefined

function isOneChain(run: readonly Step[], target: GpuTarget): boolean {
  const launches = run.flat().map(({ launch }) => launch)
  const kernels = [...new Set(launches.map(({ kernel }) => kernel as Kernel))]
  const inputs = new Set(launches.flatMap(({ buffers }) => Object.values(buffers).map(inputOf)))
  const kinds = new Set(launches.map((launch) => keyOf(launch)))
  inputs.delete(undefined)
  return inputs.size <= MOST_INPUTS && kinds.size <= MOST_PARTS && chainSharedBytes(kernels) <= target.sharedBytes
}

const numbersOf = ({ push, params, constants }: Launch): Record<string, number> => ({
  ...push,
  ...Object.fromEntries(Object.entries(params).map(([name, value]) => [name, typeof value === "number" ? value : (value.value ?? 0)])),
  ...constants,
})

/** Equal for launches that differ in addresses only. */
function keyOf(launch: Launch, written?: ReadonlySet<string>, names?: ReadonlyMap<Tensor, string>): string {
  const places = names && Object.entries(placesOf(launch, written as ReadonlySet<string>, names))
  return JSON.stringify([
    launch.variant,
    numbersOf(launch),
    launch.groups,
    places ?? Object.values(launch.buffers).map((m) => inputOf(m)?.name),
  ])
}

/** Whether something in the chain writes this memory: temporaries lie over each other, so all of them count. */
function isWritten(memory: Memory | undefined, written: ReadonlySet<string>): boolean {
  if (memory === undefined) return false
  if (!("kind" in memory)) return memory.role === "state" ? written.has(memory.name) : memory.role !== "input"
  return memory.kind === "part" ? isWritten(memory.of, written) : memory.kind === "scratch"
}

function placesOf({ buffers }: Launch, written: ReadonlySet<string>, names: ReadonlyMap<Tensor, string>): ChainPart["buffers"] {
  return Object.fromEntries(
    Object.entries(buffers).map(([name, memory]) => {
      const input = inputOf(memory)
      const at = memory === undefined ? "none" : input === undefined ? "table" : (names.get(input) as string)
      return [name, { at, isWritten: isWritten(memory, written) }]
    }),
  )
}

/** States that the chain writes. */
function writtenStates(launches: readonly Launch[]): Set<string> {
  const written = new Set<string>()
  for (const { kernel, buffers } of launches)
    for (const [name, { access }] of Object.entries(kernel.buffers)) {
      let memory = buffers[name]
      while (memory !== undefined && "kind" in memory && memory.kind === "part") memory = memory.of
      if (access !== "read" && memory !== undefined && !("kind" in memory) && memory.role === "state") written.add(memory.name)
    }
  return written
}

function chainOf(run: readonly Step[], { resident }: GpuTarget): Launch {
  const launches = run.flat().map(({ launch }) => launch)
  const written = writtenStates(launches)
  const inputs = [...new Set(launches.flatMap(({ buffers }) => Object.values(buffers).flatMap((memory) => inputOf(memory) ?? [])))]
  const names = new Map(inputs.map((tensor, i) => [tensor, `input${i}`]))
  const most = Math.max(...launches.map(({ kernel }) => Object.keys(kernel.buffers).length))
  const parts: ChainPart[] = []
  const kinds = new Map<string, number>()
  const kindOf = (launch: Launch): number => {
    const key = keyOf(launch, written, names)
    const known = kinds.get(key)
    if (known !== undefined) return known
    const kernel = launch.kernel as Kernel
    const { chosen } = kernel.variants.find((variant) => variant.name === launch.variant) as Kernel["variants"][number]
    parts.push({ kernel, chosen, numbers: numbersOf(launch), groups: launch.groups, buffers: placesOf(launch, written, names) })
    kinds.set(key, parts.length - 1)
    return parts.length - 1
  }
  const values: Table["values"][number][] = []
  run.forEach((step, s) =>
    step.forEach(({ launch }, i) => {
      const waits = i === step.length - 1 && s < run.length - 1
      const addresses = Object.keys(launch.kernel.buffers).map((buffer) => {
        const memory = launch.buffers[buffer]
        return inputOf(memory) === undefined ? memory : undefined
      })
      const row = [kindOf(launch), Number(waits), ...addresses]
      values.push(...row, ...Array.from({ length: chainRow(most) - row.length }, () => 0))
    }),
  )
  // Equal chains of several programs are one kernel.
  const name = `chain_${sha256(new TextEncoder().encode([...kinds.keys(), most, names.size].join())).slice(0, 16)}`
  const kernel = chain(name, parts, most, [...names.values()])
  const table: Table = { kind: "table", dtype: "u64", values }
  const sync: Table = { kind: "table", dtype: "u32", values: [0, 0] }
  return {
    kernel,
    variant: name,
    buffers: { table, sync, ...Object.fromEntries([...names].map(([tensor, input]) => [input, tensor])) },
    push: { rows: launches.length },
    params: {},
    constants: {},
    groups: [resident, 1, 1],
  }
}
